"""A real Chromium for the tests of the page, with a synthetic clip as its camera.

The tests need Chromium, which pip cannot bring. A Makefile gets it where it is missing (as root, on Debian):

    command -v chromium || { apt-get update -q && apt-get install -y --no-install-recommends chromium; }
"""

import asyncio
import json
import re
import signal
import socket
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from aiohttp import ClientConnectionError, ClientSession
from playwright.async_api import async_playwright

from tests.browser.tab import Tab

FPS = 16
ROOT = Path(__file__).parents[2]
SERVE = ["--admission", "places", "--warm-sizes", "256x144"]
WARM_S = 300


@pytest.fixture(scope="session")
def camera_clip(tmp_path_factory):
    """Three seconds of 416x240 as Y4M: bars that drift over a gradient, and a square that runs."""
    path = tmp_path_factory.mktemp("camera") / "camera.y4m"
    y, x = np.mgrid[0:240, 0:416]
    with path.open("wb") as file:
        file.write(b"YUV4MPEG2 W416 H240 F16:1 Ip A1:1 C420jpeg\n")
        for n in range(3 * FPS):
            luma = (60 + y / 4 + 60 * ((x + 3 * n) // 9 % 2)).astype(np.uint8)
            luma[90:150, 8 * n : 8 * n + 60] = 235
            chroma = np.full((2, 120, 208), 128, np.uint8)
            file.write(b"FRAME\n" + luma.tobytes() + chroma.tobytes())
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium(camera_clip, chromium_program):
    arguments = [
        "--no-sandbox",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={camera_clip}",
        "--allow-loopback-in-peer-connection",
    ]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_program, args=arguments)
        yield browser
        await browser.close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory):
    """The URL of `python -m server serve`, warm; afterwards it has to end by itself on Ctrl-C."""
    url, log = f"http://127.0.0.1:{(port := free_port())}", tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "server", "serve", "--port", str(port), *SERVE]
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=out, stderr=out)
        try:
            await until_warm(url, process, log)
            yield url
            process.send_signal(signal.SIGINT)
            assert await asyncio.wait_for(process.wait(), 10) in (0, 130), log.read_text()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def until_warm(url, process, log):
    async with ClientSession() as http, asyncio.timeout(WARM_S):
        while process.returncode is None:
            try:
                async with http.get(f"{url}/readyz") as answer:
                    if answer.status == 200:
                        return
            except ClientConnectionError:
                pass  # not listening yet
            await asyncio.sleep(0.2)
    pytest.fail(f"the server ended with {process.returncode}:\n{log.read_text()}")


@pytest.fixture(scope="session")
def open_page():
    """`async with open_page(browser) as page`: a page whose console must stay free of errors.

    `page.excused` names the errors that a test provokes.
    """

    @asynccontextmanager
    async def open_page(browser, **options):
        # Playwright evaluates strings, which the page's own policy forbids: one test keeps the policy in force.
        context = await browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, "bypass_csp": True, **options}
        )
        page = await context.new_page()
        page.excused, errors = [], []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(f"{error}\n{error.stack}"))
        try:
            yield page
        finally:
            await page.goto("about:blank")  # a closed context is not told to its page
            await context.close()
        assert [e for e in errors if not any(word in e for word in page.excused)] == []

    return open_page


@pytest.fixture(scope="session")
def cut_ways():
    """`async with cut_ways(page) as ways`: the page's media go over ways that can be cut."""

    @asynccontextmanager
    async def cut_ways(page):
        ways = Ways()
        await page.route("**/sessions", ways.lay)
        try:
            yield ways
        finally:
            ways.close()

    return cut_ways


@pytest.fixture
def tabs(chromium_program, tmp_path):
    """`async with tabs(url) as tab`: a browser whose tabs can be hidden: Playwright's never are."""

    @asynccontextmanager
    async def tabs(url):
        switches = ["--headless=new", "--no-sandbox", "--allow-loopback-in-peer-connection", "--mute-audio"]
        switches += [f"--user-data-dir={tmp_path}", "--remote-debugging-port=0", "--no-first-run"]
        quiet = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(chromium_program, *switches, url, stdout=quiet, stderr=quiet)
        try:
            async with asyncio.timeout(20):
                while not (written := await asyncio.to_thread(read_if_there, tmp_path / "DevToolsActivePort")):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            address = f"http://127.0.0.1:{written.split()[0]}/json"
            async with ClientSession() as http:
                async with http.get(address) as reply:
                    first = next(tab for tab in await reply.json(content_type=None) if tab["type"] == "page")
                async with http.ws_connect(first["webSocketDebuggerUrl"]) as socket:
                    yield Tab(http, address, first["id"], socket)
        finally:
            process.terminate()
            await process.wait()

    return tabs


def read_if_there(path):
    return path.read_text() if path.exists() else ""


CANDIDATE = re.compile(r"a=candidate:\S+ 1 udp \d+ (\S+) (\d+) typ host.*")


class Way(asyncio.DatagramProtocol):
    """A UDP relay between a browser and `server`, which both take for the other side, until it is cut."""

    def __init__(self):
        self.open, self.server, self.browser, self.carried = True, None, None, 0

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        if address != self.server:
            self.browser = address
        to = self.browser if address == self.server else self.server
        if self.open and to is not None:
            self.carried += 1
            self.transport.sendto(data, to)

    @property
    def port(self):
        return self.transport.get_extra_info("sockname")[1]


class Ways:
    """Gives every connection of a page its own way; `cut()` cuts those there are, `mend()` mends them."""

    def __init__(self):
        self.ways = []

    def cut(self):
        for way in self.ways:
            way.open = False

    def mend(self):
        for way in self.ways:
            way.open = True

    def close(self):
        for way in self.ways:
            way.transport.close()

    async def lay(self, route):
        loop = asyncio.get_running_loop()
        _, way = await loop.create_datagram_endpoint(Way, local_addr=("0.0.0.0", 0))
        self.ways.append(way)
        offer = json.loads(route.request.post_data)
        offer["sdp"] = with_candidate(offer["sdp"], host(route.request.url), way.port)
        response = await route.fetch(post_data=json.dumps(offer))
        if response.status != 201:
            return await route.fulfill(response=response)
        answer = await response.json()
        address, port = CANDIDATE.search(answer["sdp"]).groups()
        way.server = (address, int(port))
        answer["sdp"] = with_candidate(answer["sdp"], address, way.port)
        await route.fulfill(response=response, json=answer)


def host(url):
    return re.match(r"https?://([^:/]+)", url)[1]


def with_candidate(sdp, address, port):
    """The description with one candidate in the place of all."""
    lines = sdp.split("\r\n")
    first = next(n for n, line in enumerate(lines) if line.startswith("a=candidate"))
    lines[first] = f"a=candidate:1 1 udp 2130706431 {address} {port} typ host"
    return "\r\n".join(line for n, line in enumerate(lines) if n == first or not line.startswith("a=candidate"))
