"""Clients of other makers, which never saw our code, against `avis serve` with the real model.

FFmpeg's WHIP muxer, the one that a Python package brings along, is in tests/server/api/test_whip.py.
"""

import asyncio
import os
import shutil
import subprocess
from contextlib import asynccontextmanager

import numpy as np
import pytest
from aiohttp import ClientSession, web
from aioice.ice import get_host_addresses
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from playwright.async_api import async_playwright

from server.api.app import listening
from server.settings import read_settings

pytestmark = pytest.mark.network

SIZE, TOKEN = "128x96", "s3cret"
CHROMIUM = [
    "--no-sandbox",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--allow-loopback-in-peer-connection",
]

PUBLISH_AND_WATCH = """async ({url, token, policy}) => {
    const { WHIPClient } = await import("/whip.js"), { WHEPClient } = await import("/whep.js");
    const until = async (what, done) => {
        const late = performance.now() + 45000;
        while (!(await done())) {
            if (performance.now() > late) throw new Error(`waited in vain for ${what}`);
            await new Promise((resolve) => setTimeout(resolve, 100));
        }
    };
    const find = async (pc, fits) => [...(await pc.getStats()).values()].find(fits);
    const inbound = (pc, kind) => find(pc, (stat) => stat.type === "inbound-rtp" && stat.kind === kind);
    const path = async (pc) => {
        const stats = await pc.getStats();
        const { selectedCandidatePairId } = [...stats.values()].find((s) => s.type === "transport");
        const pair = stats.get(selectedCandidatePairId), local = stats.get(pair.localCandidateId);
        return [local.candidateType, local.relayProtocol ?? null];
    };
    const video = { width: 320, height: 240, frameRate: 15 };
    const camera = await navigator.mediaDevices.getUserMedia({ video, audio: true });
    const up = new RTCPeerConnection({ bundlePolicy: "max-bundle", iceTransportPolicy: policy });
    for (const track of camera.getTracks()) up.addTransceiver(track, { direction: "sendonly", streams: [camera] });
    const whip = new WHIPClient();
    await whip.publish(up, url.replace("KIND", "whip") + "?operator=super_resolution&mode=simulate&size=128x96", token);
    await until("the publisher's connection", () => up.connectionState === "connected");
    const down = new RTCPeerConnection({ bundlePolicy: "max-bundle", iceTransportPolicy: policy });
    for (const kind of ["video", "audio"]) down.addTransceiver(kind, { direction: "recvonly" });
    const whep = new WHEPClient();
    await whep.view(down, url.replace("KIND", "whep"), token);
    await until("30 restored frames", async () => (await inbound(down, "video"))?.framesDecoded > 30);
    await until("a second of sound", async () => (await inbound(down, "audio"))?.packetsReceived > 50);
    const { frameWidth, frameHeight } = await inbound(down, "video");
    const found = { size: `${frameWidth}x${frameHeight}`, up: await path(up), down: await path(down) };
    await whep.stop();
    await whip.stop();
    return found;
}"""


@pytest.fixture(scope="session")
def whip_whep(tmp_path_factory):
    """The directory of npm's whip-whep, by the author of the WHIP standard."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm, which brings the client whip-whep")
    directory = tmp_path_factory.mktemp("npm")

    async def install():
        command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(directory), "whip-whep@1.2.0"]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        async with asyncio.timeout(120):
            return process, (await process.communicate())[1].decode()

    process, errors = asyncio.run(install())
    assert process.returncode == 0, errors
    return directory / "node_modules" / "whip-whep"


@asynccontextmanager
async def page_of(program, directory):
    """A page of another origin than the server's in the browser `program`, which imports what lies in `directory`."""
    app = web.Application()
    app.router.add_get("/", blank)
    app.router.add_static("/", directory)
    async with listening(read_settings(port=0), app) as origin, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=CHROMIUM)
        page = await browser.new_page(bypass_csp=True)
        await page.goto(origin)
        yield page
        await browser.close()


async def blank(request):
    return web.Response(text="<!doctype html>", content_type="text/html")


async def sessions(url):
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with ClientSession(headers=headers) as http, http.get(f"{url}/stats") as reply:
        return (await reply.json())["sessions"]


async def until_over(url):
    """Until the server has no session any more: its client ended it, or nothing else would in this time."""
    async with asyncio.timeout(5):
        while await sessions(url):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_whip_whep_of_npm_publishes_and_watches_from_another_origin(avis, whip_whep, chromium_program):
    async with avis() as url, page_of(chromium_program, whip_whep) as page:
        request = {"url": f"{url}/KIND/cam", "token": TOKEN, "policy": "all"}
        found = await page.evaluate(PUBLISH_AND_WATCH, request)
        assert found["size"] == SIZE
        await until_over(url)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_whip_whep_uses_the_relay_that_the_answer_links(avis, turn, whip_whep, chromium_program, transport):
    """It hears of the TURN server and its login from the `Link` headers of the answer alone."""
    async with turn("--use-auth-secret", "--static-auth-secret=north") as port:
        servers = [f"turn:127.0.0.1:{port}?transport={transport}"]
        async with avis(ice_servers=servers, ice_secret="north") as url, page_of(chromium_program, whip_whep) as page:
            request = {"url": f"{url}/KIND/cam", "token": TOKEN, "policy": "relay"}
            found = await page.evaluate(PUBLISH_AND_WATCH, request)
            assert found["up"] == found["down"] == ["relay", transport]
            await until_over(url)


GSTREAMER = (
    "videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=16/1 ! vp8enc deadline=1 !"
    " rtpvp8pay pt=96 ! queue ! application/x-rtp,media=video,encoding-name=VP8,payload=96"
)


WITHOUT_UPNP = """
unsigned long gupnp_simple_igd_get_type(void) { return 0; }
void *gupnp_simple_igd_thread_new(void) { return 0; }
void gupnp_simple_igd_add_port(void) {}
void gupnp_simple_igd_remove_port_local(void) {}
"""


@pytest.fixture
def without_upnp(tmp_path):
    """Debian 12 links the client with libsoup 2 and, for UPnP, with libsoup 3, and it aborts: UPnP is left out here."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler: apt-get install gcc")
    (tmp_path / "stub.c").write_text(WITHOUT_UPNP)
    library = "libgupnp-igd-1.0.so.4"
    command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", tmp_path / library, tmp_path / "stub.c"]
    subprocess.run(command, check=True)
    return {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}


async def test_simple_whip_client_of_gstreamer_publishes(avis, process, without_upnp):
    """Its certificate is RSA, it trickles by PATCH, and it says DELETE when it ends."""
    program = shutil.which("whip-client")
    if program is None:
        pytest.skip("needs simple-whip-client: apt-get install simple-whip-client")
    if not get_host_addresses(use_ipv4=True, use_ipv6=False):
        pytest.skip("needs an address that is not loopback: this client uses no other")
    async with avis(bind=[]) as url:
        query = f"mode=simulate&size={SIZE}"
        command = [program, "-u", f"{url}/whip/gst?{query}", "-t", TOKEN, "-V", GSTREAMER]
        async with process(command, env=without_upnp):
            frames = await watch(f"{url}/whep/gst", 20)
        assert frames[-1].width == 128 and frames[-1].height == 96
        assert np.ptp(frames[-1].to_ndarray()[:96]) > 100, "a white ball on black"
        await until_over(url)


async def watch(url, count):
    """The first frames of a stream, once somebody publishes it."""
    pc, frames = RTCPeerConnection(RTCConfiguration(iceServers=[])), []
    pc.addTransceiver("video", direction="recvonly")
    pc.on("track", lambda track: reading.append(asyncio.ensure_future(read(track, frames))))
    reading = []
    await pc.setLocalDescription(await pc.createOffer())
    headers = {"Content-Type": "application/sdp", "Authorization": f"Bearer {TOKEN}"}
    try:
        async with ClientSession() as http, asyncio.timeout(45):
            while True:
                async with http.post(url, data=pc.localDescription.sdp, headers=headers) as reply:
                    if reply.status == 201:
                        answer = await reply.text()
                        break
                    assert reply.status == 409, await reply.text()
                await asyncio.sleep(0.2)
            await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
            while len(frames) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            return list(frames)
    finally:
        await pc.close()
        await asyncio.gather(*reading)


async def read(track, frames):
    try:
        while True:
            frames.append(await track.recv())
    except MediaStreamError:
        return
