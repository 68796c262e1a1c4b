"""Real clients, a real device process and the real tiny model: what a user of the server sees."""

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from fractions import Fraction
from statistics import median

import numpy as np
import pytest
import pytest_asyncio
from aiohttp import ClientSession
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription, VideoStreamTrack
from aiortc.mediastreams import MediaStreamError
from av import VideoFrame

from server.api.app import create_app, listening
from server.api.keys import SESSIONS
from server.settings import read_settings

WIDTH, HEIGHT, FPS, BITS, CELL = 128, 96, 16, 10, 12

pytestmark = [pytest.mark.asyncio(loop_scope="module")]


def drawn(number):
    """A grey picture with its number in bright and dark cells, which survive a video codec."""
    picture = np.full((HEIGHT, WIDTH, 3), 110, np.uint8)
    for bit in range(BITS):
        picture[20 : 20 + 2 * CELL, bit * CELL : (bit + 1) * CELL] = 220 if number >> bit & 1 else 30
    return picture


def read(picture):
    """The number that `drawn` put in."""
    row = picture[20 + CELL // 2 : 20 + CELL + CELL // 2, : BITS * CELL]
    cells = row.reshape(-1, BITS, CELL, 3)[:, :, 3:-3].mean((0, 2, 3))
    return sum(int(level > 125) << bit for bit, level in enumerate(cells))


class Numbered(VideoStreamTrack):
    """Numbered pictures at a steady rate."""

    def __init__(self, first):
        super().__init__()
        self.first, self.count, self.start = first, 0, None

    async def recv(self):
        now = asyncio.get_running_loop().time()
        self.start = now if self.start is None else self.start
        await asyncio.sleep(max(0, self.start + self.count / FPS - now))
        if self.readyState != "live":
            raise MediaStreamError
        frame = VideoFrame.from_ndarray(drawn((self.first + self.count) % (1 << BITS)), format="rgb24").reformat(
            format="yuv420p"
        )
        frame.pts, frame.time_base = self.count * 90000 // FPS, Fraction(1, 90000)
        self.count += 1
        return frame


class Client:
    """A peer that sends numbered pictures and keeps the numbers and times of those that come back."""

    def __init__(self, http, url, first=0, **options):
        self.http, self.url = http, url
        self.options = {"mode": "simulate", "size": f"{WIDTH}x{HEIGHT}", "panels": ["original"], **options}
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.track = Numbered(first)
        self.numbers, self.pts, self.messages, self.tasks = [], [], [], []
        self.new = asyncio.Event()

    async def open(self):
        self.pc.addTrack(self.track)
        channel = self.channel = self.pc.createDataChannel("report")
        channel.on("message", lambda text: self.messages.append(json.loads(text)))
        self.pc.on("track", lambda track: self.tasks.append(asyncio.create_task(self.receive(track))))
        await self.pc.setLocalDescription(await self.pc.createOffer())
        offer = {"sdp": self.pc.localDescription.sdp, "type": "offer", **self.options}
        async with self.http.post(f"{self.url}/sessions", json=offer) as reply:
            self.status, self.answer, self.headers = reply.status, await reply.json(), reply.headers
        if self.status == 201:
            await self.pc.setRemoteDescription(RTCSessionDescription(self.answer["sdp"], "answer"))
        return self

    async def receive(self, track):
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            self.numbers.append(read(frame.to_ndarray(format="rgb24")))
            self.pts.append(frame.pts)
            self.new.set()

    async def until(self, condition, seconds=90):
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.05)

    def reports(self):
        return [message for message in self.messages if "chunk" in message]

    async def report(self):
        async with self.http.get(f"{self.url}/sessions/{self.answer['id']}") as reply:
            return reply.status, await reply.json()

    async def close(self):
        if self.status == 201:
            await self.settled()
            await self.http.delete(f"{self.url}/sessions/{self.answer['id']}")
        await self.vanish()

    async def settled(self):
        """Until the connection stands: aiortc cannot close what it is still connecting."""
        await self.until(lambda: self.channel.readyState != "connecting" or self.pc.connectionState == "closed")

    async def vanish(self):
        if self.status == 201:
            await self.settled()
        await self.pc.close()
        await asyncio.gather(*self.tasks)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server():
    settings = read_settings(
        port=0,
        weights="random",
        warm_sizes=[f"{WIDTH}x{HEIGHT}"],
        max_sessions=3,
        admission="places",
        latency_budget=10,
        threads=1,
    )
    app = create_app(settings)
    async with listening(settings, app) as url, ClientSession() as http:
        async with asyncio.timeout(90):
            await app[SESSIONS].worker.settled()
        assert app[SESSIONS].worker.state == "ready"
        yield app[SESSIONS], http, url


@asynccontextmanager
async def client(server, **options):
    _, http, url = server
    peer = await Client(http, url, **options).open()
    try:
        yield peer
    finally:
        await peer.close()


async def test_two_sessions_get_their_own_frames_back_in_order(server):
    async with client(server) as one, client(server, first=512) as other:
        assert one.status == other.status == 201
        assert one.headers["Location"] == f"/sessions/{one.answer['id']}"
        for peer in (one, other):
            await peer.until(lambda peer=peer: len(peer.numbers) > 30)
        assert {number >= 512 for number in one.numbers} == {False}
        assert {number >= 512 for number in other.numbers} == {True}
        for peer in (one, other):
            assert (np.diff(peer.numbers) >= 0).all(), peer.numbers
            assert len(set(peer.numbers)) > 20, peer.numbers
            steps = np.diff(peer.pts) * FPS / 90000
            assert np.allclose(steps, steps.round()), "timestamps lie on slots"
            assert (steps > 0).all()


async def test_every_chunk_is_reported_on_the_data_channel(server):
    async with client(server, operator={"kind": "temporal_average"}) as peer:
        await peer.until(lambda: len(peer.reports()) >= 3)
        first, second, *_ = peer.reports()
        assert (first["chunk"], first["frames"], first["guided"]) == (0, 9, True)
        assert (second["chunk"], second["frames"]) == (1, 12)
        assert first["rung"] == "full"
        assert 0 <= first["residual"] < 1
        assert {"fill", "queue", "x_init", "denoise", "decode", "total"} <= first["ms"].keys()
        assert second["latency_ms"] > second["ms"]["fill"]
        status, report = await peer.report()
        assert status == 200
        assert report["state"] == "streaming"
        assert sum(report["chunks"]["by_rung"].values()) >= 3


async def test_a_session_of_low_latency_waits_for_four_frames_beside_one_that_waits_for_twelve(server):
    async with client(server, latency="low") as low, client(server, first=512) as usual:
        await low.until(lambda: len(low.reports()) >= 8 and len(usual.reports()) >= 3)
        assert [report["frames"] for report in low.reports()][:4] == [5, 4, 4, 4]
        assert {report["rung"] for report in low.reports()} != {"passthrough"}, "a busy machine may do less"
        assert [report["frames"] for report in usual.reports()][:3] == [9, 12, 12]
        low_ms, usual_ms = ([report["latency_ms"] for report in peer.reports()[1:]] for peer in (low, usual))
        assert median(low_ms) < median(usual_ms)
        _, report = await low.report()
        assert report["latency"] == "low"
        assert (np.diff(low.numbers) >= 0).all() and max(low.numbers) < 512 <= min(usual.numbers)


async def test_a_changed_operator_applies_from_the_chunk_that_was_named(server):
    _, http, url = server
    async with client(server) as peer:
        await peer.until(lambda: len(peer.reports()) >= 1)
        change = {"operator": {"kind": "gaussian_blur", "sigma": 2.0}, "solver": {"num_steps": 1}}
        async with http.patch(f"{url}/sessions/{peer.answer['id']}", json=change) as reply:
            assert reply.status == 200
            number = (await reply.json())["applies_from_chunk"]
        await peer.until(lambda: peer.reports()[-1]["chunk"] >= number)
        kinds = {report["chunk"]: report["operator"] for report in peer.reports()}
        assert kinds[number - 1] == "super_resolution"
        assert kinds[number] == "gaussian_blur"


async def test_degraded_video_comes_back_at_the_restored_size(server):
    async with client(server, mode="incoming", size="256x192", panels=["degraded", "restored"]) as peer:
        assert peer.status == 201
        await peer.until(lambda: peer.reports())
        _, report = await peer.report()
        assert report["size"] == "256x192"


async def test_a_full_server_refuses_and_says_when_to_come_again(server):
    sessions, http, url = server
    async with client(server), client(server), client(server):
        assert len(sessions) == 3
        refused = await Client(http, url).open()
        await refused.vanish()
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.answer["error"]["retryable"] is True


async def test_a_client_that_vanishes_is_let_go(server):
    sessions, http, url = server
    peer = await Client(http, url).open()
    await peer.until(lambda: len(peer.numbers) > 5)
    await peer.vanish()
    await peer.until(lambda: len(sessions) == 0, 5)
    sessions.check_integrity()
    status, body = await peer.report()
    assert (status, body["error"]["code"]) == (404, "no_session")


async def test_sessions_outlive_their_device(server):
    sessions, _, _ = server
    async with client(server) as peer:
        await peer.until(lambda: len(peer.reports()) >= 2)
        os.kill(sessions.worker.device.pid, signal.SIGKILL)
        await peer.until(lambda: any(r["rung"] == "passthrough" for r in peer.reports()))
        await peer.until(lambda: peer.reports()[-1]["rung"] != "passthrough", 90)
        passed = next(n for n, r in enumerate(peer.reports()) if r["rung"] == "passthrough")
        again = next(r for r in peer.reports()[passed:] if r["rung"] != "passthrough")
        assert (again["guided"], again["frames"]) == (True, 9)
        assert peer.pc.connectionState == "connected"
        assert (np.diff(peer.numbers) >= 0).all()


@asynccontextmanager
async def served():
    """A server as a user starts it: yields its process and its address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "server", "serve", "--port", "0", "--weights", "random"),
        env={**os.environ, "AVIS_WARM_SIZES": f'["{WIDTH}x{HEIGHT}"]'},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(120):
            url = (await process.stdout.readline()).decode().split()[-1]
            assert b"ready" in await process.stdout.readline()
        yield process, url
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["interrupted", "terminated"])
async def test_a_server_that_is_told_to_end_says_goodbye_and_ends_within_five_seconds_leaving_nothing(number):
    before = shared_memory()
    async with served() as (process, url), ClientSession() as http:
        children = descendants(process.pid)
        assert len(children) == 1
        peer = await Client(http, url).open()
        try:
            await peer.until(lambda: peer.reports())
            process.send_signal(number)
            async with asyncio.timeout(5):
                assert await process.wait() == 0
            await peer.until(lambda: any(m.get("event") == "closing" for m in peer.messages))
        finally:
            await peer.vanish()
    assert not [pid for pid in children if alive(pid)]
    assert shared_memory() <= before


async def test_the_device_of_a_killed_server_ends_too_and_leaves_nothing():
    before = shared_memory()
    async with served() as (process, _):
        [device] = descendants(process.pid)
        process.kill()
        await process.wait()
        async with asyncio.timeout(5):
            while alive(device):  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.05)
    assert shared_memory() <= before


def shared_memory():
    """The names of all shared memory but that of a browser, which other tests may run."""
    return {name for name in os.listdir("/dev/shm") if "chromium" not in name}


def descendants(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def alive(pid):
    """Whether a process runs; one that only waits for its parent to notice its end does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
