"""What the transport itself costs: an echo's latency with two kinds of client, and the picture's quality.

Figures, on a quiet machine: `pytest -s -m network tests/network/test_latency.py`; with `AVIS_TEST_CLIP=FILE` in the
environment also those of real footage.
"""

import asyncio
import itertools
import json
import os
import time
from fractions import Fraction
from pathlib import Path
from statistics import median, quantiles

import numpy as np
import pytest
from aiohttp import web
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from av import VideoFrame
from playwright.async_api import async_playwright

from server.api.app import listening
from server.loadtest.client import luma_of
from server.loadtest.footage import Clip, SyntheticScene
from server.loadtest.frame_code import code_height, draw_code, read_code
from server.settings import read_settings
from server.webrtc.answer import AnswerOptions
from server.webrtc.config import RtcConfig
from server.webrtc.offer import parse_offer
from server.webrtc.peer import PeerConnection
from server.webrtc.sdp_lines import SdpLimits

WIDTH, HEIGHT, FPS = 832, 480, 16
SECONDS = 12
SHARED_MACHINE = 2
"""how much longer than promised it may take here, where other processes take the processor"""
LOOPBACK = SdpLimits(allow_loopback=True)
CONFIG = RtcConfig(bind=("127.0.0.1",), fps=FPS)

pytestmark = pytest.mark.network


class Camera(MediaStreamTrack):
    """Numbered pictures at a steady rate, and when each left."""

    kind = "video"

    def __init__(self, footage):
        super().__init__()
        self.footage, self.number, self.began, self.left = footage, 0, None, {}

    async def recv(self):
        now = time.monotonic()
        self.began = self.began or now
        await asyncio.sleep(max(0, self.began + self.number / FPS - now))
        planes = self.footage(self.number).copy()
        draw_code(planes[: len(planes) * 2 // 3], self.number, 0)
        frame = VideoFrame.from_ndarray(planes, "yuv420p")
        frame.pts, frame.time_base = self.number * 90000 // FPS, Fraction(1, 90000)
        self.left[self.number] = time.monotonic()
        self.number += 1
        return frame


async def echo(pc, sdp):
    """The answer that sends every picture back as soon as it is there."""
    pc.on("track", pc.addTrack)
    return await pc.answer(parse_offer(sdp, LOOPBACK), AnswerOptions())


async def receive(track, seen):
    try:
        while True:
            frame = await track.recv()
            seen.append((time.monotonic(), frame))
    except MediaStreamError:
        return


def tell(name, **figures):
    print(name, json.dumps({key: round(value, 1) for key, value in figures.items()}))


def spread(latencies_ms):
    return {"p50_ms": median(latencies_ms), "p95_ms": quantiles(latencies_ms, n=20)[-1], "frames": len(latencies_ms)}


async def test_an_echo_to_a_plain_aiortc_client_takes_90_ms():
    client, server = RTCPeerConnection(RTCConfiguration(iceServers=[])), PeerConnection(CONFIG)
    camera, seen, reading = Camera(SyntheticScene(WIDTH, HEIGHT)), [], []
    client.on("track", lambda track: reading.append(asyncio.ensure_future(receive(track, seen))))
    client.addTrack(camera)
    await client.setLocalDescription(await client.createOffer())
    answer = await echo(server, client.localDescription.sdp)
    await client.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    await asyncio.sleep(SECONDS)
    await client.close()
    await server.close()
    await asyncio.gather(*reading)
    codes = [(at, read_code(luma_of(frame))) for at, frame in seen]
    figures = spread([1000 * (at - camera.left[code.number]) for at, code in codes if code is not None][FPS:])
    tell("echo, aiortc client", **figures)
    assert figures["frames"] > 0.8 * FPS * (SECONDS - 2)
    assert figures["p50_ms"] <= 90 * SHARED_MACHINE


ECHO_IN_BROWSER = """async ({width, height, fps, seconds}) => {
    const CELL = 26, BITS = 12;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const pen = canvas.getContext("2d"), left = new Map(), latencies = [];
    const stream = canvas.captureStream(0), [track] = stream.getVideoTracks();
    let number = 0;
    const draw = () => {
        for (let i = 0; i < 40; i++) {
            pen.fillStyle = `hsl(${(i * 37 + number) % 360} 60% 50%)`;
            pen.fillRect((i * 97 + 3 * number) % width, (i * 53 + number) % height, 120, 90);
        }
        for (let bit = 0; bit < BITS; bit++) {
            pen.fillStyle = number >> bit & 1 ? "white" : "black";
            pen.fillRect(bit * CELL, 0, CELL, CELL);
        }
        left.set(number++, performance.now());
        track.requestFrame();
    };
    const pc = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
    const { sender } = pc.addTransceiver(track, { direction: "sendrecv", sendEncodings: [{ maxBitrate: 4e6 }] });
    const video = Object.assign(document.createElement("video"), { muted: true, autoplay: true });
    document.body.append(video);
    pc.ontrack = (event) => (video.srcObject = new MediaStream([event.track]));
    const eye = new OffscreenCanvas(BITS * CELL, CELL).getContext("2d", { willReadFrequently: true });
    const look = () => {
        const shown = performance.now();
        eye.drawImage(video, 0, 0);
        const { data } = eye.getImageData(0, CELL / 2, BITS * CELL, 1);
        let seen = 0;
        for (let bit = 0; bit < BITS; bit++) if (data[4 * (bit * CELL + CELL / 2)] > 128) seen |= 1 << bit;
        if (left.has(seen)) latencies.push(shown - left.get(seen));
        video.requestVideoFrameCallback(look);
    };
    video.requestVideoFrameCallback(look);
    await pc.setLocalDescription();
    while (pc.iceGatheringState !== "complete") await new Promise((resolve) => setTimeout(resolve, 20));
    const answer = await fetch("/echo", { method: "POST", body: pc.localDescription.sdp });
    await pc.setRemoteDescription({ type: "answer", sdp: await answer.text() });
    const parameters = sender.getParameters();
    await sender.setParameters({ ...parameters, degradationPreference: "maintain-resolution" });
    const timer = setInterval(draw, 1000 / fps);
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
    clearInterval(timer);
    const sent = [...(await pc.getStats()).values()].find((stat) => stat.type === "outbound-rtp");
    pc.close();
    return { latencies: latencies.slice(2 * fps), size: [sent.frameWidth, sent.frameHeight] };
}"""


async def test_an_echo_to_chromium_takes_80_ms_and_stays_at_its_size(chromium_program):
    server = PeerConnection(CONFIG)

    async def blank(request):
        return web.Response(text="<!doctype html><body>", content_type="text/html")

    async def answer(request):
        return web.Response(text=await echo(server, await request.text()))

    app = web.Application()
    app.router.add_get("/", blank)
    app.router.add_post("/echo", answer)
    arguments = ["--no-sandbox", "--allow-loopback-in-peer-connection", "--autoplay-policy=no-user-gesture-required"]
    async with listening(read_settings(port=0), app) as url, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_program, args=arguments)
        page = await browser.new_page(bypass_csp=True)
        await page.goto(url)
        wanted = {"width": WIDTH, "height": HEIGHT, "fps": FPS, "seconds": SECONDS + 2}
        found = await page.evaluate(ECHO_IN_BROWSER, wanted)
        await browser.close()
    await server.close()
    figures = spread(found["latencies"])
    tell("echo, Chromium", **figures)
    assert found["size"] == [WIDTH, HEIGHT], "Chromium made the picture smaller"
    assert figures["frames"] > 0.7 * FPS * (SECONDS - 2)
    assert figures["p50_ms"] <= 80 * SHARED_MACHINE


@pytest.mark.parametrize("size", [(416, 240), (832, 480)], ids=lambda size: f"{size[0]}x{size[1]}")
async def test_real_footage_arrives_with_40_db_at_the_default_rate(size):
    """The leg from the server to a plain client; the first second is the encoder's start."""
    clip = os.environ.get("AVIS_TEST_CLIP")
    if not clip:
        pytest.skip("needs real footage: AVIS_TEST_CLIP=FILE in the environment")
    width, height = size
    footage = Clip(Path(clip), width, height)
    pictures = [footage(number) for number in range(SECONDS * FPS)]
    quality = await leg(lambda number: pictures[number % len(pictures)], width, height)
    tell(f"picture leg, {width}x{height}", mean_db=np.mean(quality), least_db=min(quality), frames=len(quality))
    assert len(quality) > 0.8 * FPS * (SECONDS - 2)
    assert np.mean(quality) >= 40


async def leg(footage, width, height):
    """dB of luma of each picture that a server's sender brought to a plain client, without the rows of the code."""
    client, server = RTCPeerConnection(RTCConfiguration(iceServers=[])), PeerConnection(CONFIG)
    seen, reading = [], []
    client.on("track", lambda track: reading.append(asyncio.ensure_future(receive(track, seen))))
    client.addTransceiver("video", direction="recvonly")
    await client.setLocalDescription(await client.createOffer())
    offer = parse_offer(client.localDescription.sdp, LOOPBACK, "play")
    camera = Camera(footage)
    answer = await server.answer(offer, AnswerOptions(), [camera])
    await client.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    await asyncio.sleep(SECONDS)
    await client.close()
    await server.close()
    await asyncio.gather(*reading)
    rows = code_height(width)
    quality = []
    for _, frame in itertools.islice(seen, FPS, None):
        code = read_code(luma_of(frame))
        if code is not None:
            error = luma_of(frame)[rows:].astype(float) - footage(code.number)[rows:height]
            quality.append(10 * np.log10(255**2 / max(np.mean(error**2), 1e-9)))
    return quality
