"""A source starts when it is wanted, is tried again when it fails, and everybody is told why it gives nothing."""

import asyncio
import base64
import json
import logging
import re
import sys
import time

import av
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from aiortc import RTCConfiguration, RTCPeerConnection
from av import VideoFrame

from server.api.keys import SESSIONS, SOURCES, STREAMS
from server.api.metrics import admin_app
from server.device.backoff import Backoff

FPS = 16
SECRET = "hunter2"


class FakeReader:
    """Brings frames at FPS until it is stopped or told to fail."""

    def __init__(self, log, script, track):
        self.ended = asyncio.get_running_loop().create_future()
        self.log, self.script, self.track, self.task = log, script, track, None

    def start(self):
        self.log.append("start")
        self.task = asyncio.ensure_future(self.run())

    async def stop(self):
        self.log.append("stop")
        self.task.cancel()

    async def run(self):
        fault = self.script.pop(0) if self.script else None
        if fault:
            self.ended.set_result(fault)
        while not fault:
            picture = np.full((96, 128, 3), 120, np.uint8)
            now = time.monotonic()
            self.track.offer(VideoFrame.from_ndarray(picture, format="rgb24"), now, now)
            await asyncio.sleep(1 / FPS)

    def fail(self, reason):
        self.task.cancel()
        self.ended.set_result(reason)


def faked(app, script=(), linger=0.3):
    """The source cam of `app` with readers that follow `script`: a reason to fail each, then frames."""
    source, log, readers = app[SOURCES].all["cam"], [], []

    def make(config, track, name):
        readers.append(FakeReader(log, list(script[len(readers) : len(readers) + 1]), track))
        return readers[-1]

    source.make_reader, source.linger = make, linger
    source.backoff = Backoff(sys.maxsize, first=0.05, factor=1.0, most=0.05)
    return source, log, readers


async def until(condition, seconds=10):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


CAM = [f"cam=rtsp://user:{SECRET}@127.0.0.1:1/x,operator=denoise,size=128x96"]


async def test_on_demand_it_starts_with_the_first_player_and_stops_after_the_last(serving, watcher):
    async with serving(source=CAM) as (app, http, url):
        source, log, _ = faked(app)
        await asyncio.sleep(0.1)
        assert (source.state, log, len(app[SESSIONS])) == ("idle", [], 0)
        player = await watcher(http, f"{url}/whep/cam").open()
        assert player.status == 201
        await player.sees(3)
        assert (source.state, source.report()["players"], len(app[SESSIONS])) == ("live", 1, 1)
        await player.close()
        await until(lambda: source.state == "idle" and not len(app[SESSIONS]))
        assert log == ["start", "stop"] and app[SESSIONS].closed["unwatched"] == 1
        app[SESSIONS].check_integrity()


async def test_one_that_always_runs_needs_no_player(serving):
    async with serving(source=[CAM[0] + ",start=always"]) as (app, _, _):
        source, _, _ = faked(app)
        await until(lambda: source.state == "live")
        assert len(app[SESSIONS]) == 1


async def test_a_source_that_fails_is_a_503_which_says_why_and_when_to_ask_again(serving, watcher, caplog):
    caplog.set_level(logging.INFO)
    async with serving(source=[CAM[0] + ",start=always"]) as (app, http, url):
        source, _, _ = faked(app, ["connection refused"] * 100)
        player = await watcher(http, f"{url}/whep/cam").open()
        assert player.status == 503 and int(player.headers["Retry-After"]) >= 1
        error = json.loads(player.error)["error"]
        assert (error["code"], error["retryable"]) == ("source_unavailable", True)
        assert "'cam'" in error["message"] and "connection refused" in error["message"]
        await until(lambda: source.faults > 3)
        async with http.get(f"{url}/readyz") as reply:
            told = await reply.json()
        assert told["status"] == "ready" and told["sources"]["cam"]["fault"] == "connection refused"
        async with http.get(f"{url}/stats") as reply:
            stats = await reply.text()
        async with TestClient(TestServer(admin_app(app[SESSIONS], sources=app[SOURCES]))) as admin:
            metrics = await (await admin.get("/metrics")).text()
        assert 'avis_source_live{source="cam"} 0.0' in metrics
        [faults] = re.findall(r'^avis_source_faults_total\{source="cam"\} (\S+)$', metrics, re.M)
        assert 3 < float(faults) <= source.faults
        await player.close()
    lines = [r.getMessage() for r in caplog.records if "'cam'" in r.getMessage() and "failed" in r.getMessage()]
    assert len(lines) == 1 and "rtsp://127.0.0.1:1" in lines[0] and "connection refused" in lines[0]
    assert SECRET not in caplog.text + stats + metrics + player.error + json.dumps(told)


async def test_a_source_that_breaks_off_is_read_again_and_its_session_goes_on(serving, watcher):
    async with serving(source=CAM) as (app, http, url):
        source, log, readers = faked(app)
        source.backoff = Backoff(sys.maxsize, first=0.4, factor=1.0, most=0.4)
        player = await watcher(http, f"{url}/whep/cam").open()
        await player.sees(3)
        [session] = app[SESSIONS]
        readers[0].fail("the camera was unplugged")
        await until(lambda: len(readers) == 2 and source.state == "live")
        seen = len(player.seen)
        await player.sees(seen + 20)
        assert [s.id for s in app[SESSIONS]] == [session.id] and source.faults == 1
        assert session.figures.frames_lost > 0
        times = [frame.time for frame in player.seen]
        assert times == sorted(times)
        await player.close()
    assert log.count("start") == log.count("stop") == 2


async def test_a_full_server_refuses_the_source_and_says_so(serving, watcher):
    async with serving(source=[*CAM, "other=rtsp://127.0.0.1:1/y,start=always"], max_sessions=1) as (app, http, url):
        other = app[SOURCES].all["other"]
        other.make_reader = lambda config, track, name: FakeReader([], [], track)
        await until(lambda: other.state == "live", seconds=20)
        source, log, _ = faked(app)
        player = await watcher(http, f"{url}/whep/cam").open()
        assert player.status == 503 and "the server is full" in player.error
        await player.close()
        await until(lambda: log[-1:] == ["stop"])
        assert source.faults >= 1 and len(app[SESSIONS]) == 1


async def test_nobody_publishes_under_the_name_of_a_source(serving):
    async with serving(source=CAM) as (_, http, url):
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        pc.addTransceiver("video", direction="sendonly")
        await pc.setLocalDescription(await pc.createOffer())
        headers = {"Content-Type": "application/sdp"}
        async with http.post(f"{url}/whip/cam", data=pc.localDescription.sdp, headers=headers) as reply:
            assert (reply.status, (await reply.json())["error"]["code"]) == (409, "name_taken")
        await pc.close()


async def test_the_end_of_its_session_is_not_the_end_of_the_source(serving, watcher):
    async with serving(source=[CAM[0] + ",start=always"]) as (app, http, url):
        source, _, readers = faked(app)
        player = await watcher(http, f"{url}/whep/cam").open()
        await player.sees(1)
        [session] = app[SESSIONS]
        app[SESSIONS].end(session.id, "a fault", "fault")
        await until(lambda: len(readers) == 2 and source.lives and source.state == "live")
        assert session.id not in [s.id for s in app[SESSIONS]]
        await player.close()


def transport_stream(path, frames=48, size=(128, 96), video=True):
    """An MPEG-TS file with a moving bright bar, or with sound alone."""
    with av.open(str(path), "w", format="mpegts") as container:
        if not video:
            sound = container.add_stream("mp2", rate=48000)
            for number in range(40):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 2304), np.int16), format="s16", layout="stereo")
                frame.rate, frame.pts = 48000, 1152 * number
                container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
            return
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "g": "16", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            picture = np.full((size[1], size[0], 3), 60, np.uint8)
            picture[:, number * 2 : number * 2 + 16] = 220
            container.mux(stream.encode(VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture
async def camera(tmp_path, unused_tcp_port):
    """A web server that asks for a password and serves MPEG-TS, at `camera.address`."""
    transport_stream(tmp_path / "cam.ts")
    transport_stream(tmp_path / "sound.ts", video=False)

    class Camera:
        address = f"http://user:{SECRET}@127.0.0.1:{unused_tcp_port}"

    async def give(request):
        shown = request.headers.get("Authorization", "")
        if SECRET.encode() not in base64.b64decode(shown.partition(" ")[2]):
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="camera"'})
        return web.FileResponse(tmp_path / request.match_info["file"])

    app = web.Application()
    app.router.add_get("/{file}", give)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    yield Camera
    await runner.cleanup()


async def test_a_camera_that_sends_mpeg_ts_over_http_is_watched(serving, watcher, camera):
    async with serving(source=[f"cam={camera.address}/cam.ts,operator=denoise"]) as (app, http, url):
        player = await watcher(http, f"{url}/whep/cam").open()
        assert player.status == 201, player.error
        seen = await player.sees(4, seconds=30)
        assert (seen[-1].width, seen[-1].height) == (128, 96)
        [session] = app[SESSIONS]
        assert session.config.operator.kind == "denoise" and session.figures.frames_in > 0
        await player.close()


@pytest.mark.parametrize(
    "path, reason",
    [
        ("/sound.ts", "there is no video in it, only audio"),
        ("/none.ts", "404"),
    ],
)
async def test_what_cannot_be_read_is_named_without_its_address(serving, watcher, camera, caplog, path, reason):
    async with serving(source=[f"cam={camera.address}{path}"]) as (app, http, url):
        player = await watcher(http, f"{url}/whep/cam").open()
        assert player.status == 503 and reason in player.error
        await player.close()
        assert STREAMS in app and not len(app[SESSIONS])
    assert reason in caplog.text and SECRET not in caplog.text + player.error


async def test_a_wrong_password_is_named(serving, watcher, camera):
    wrong = camera.address.replace(SECRET, "wrong")
    async with serving(source=[f"cam={wrong}/cam.ts"]) as (_, http, url):
        player = await watcher(http, f"{url}/whep/cam").open()
        assert player.status == 503 and "401" in player.error and "wrong" not in player.error
        await player.close()


async def test_a_file_is_played_in_a_loop_at_its_own_pace(serving, watcher, tmp_path):
    transport_stream(tmp_path / "short.ts", frames=12)
    async with serving(source=[f"cam={tmp_path / 'short.ts'},operator=denoise"]) as (app, http, url):
        player = await watcher(http, f"{url}/whep/cam").open()
        assert player.status == 201, player.error
        await player.sees(24, seconds=30)  # more than the file has
        [session] = app[SESSIONS]
        assert session.figures.frames_lost == 0 and app[SOURCES].all["cam"].faults == 0
        await player.close()


async def test_a_server_without_sources_says_nothing_of_them(serving):
    async with serving() as (_, http, url), http.get(f"{url}/readyz") as reply:
        assert "sources" not in await reply.json()
