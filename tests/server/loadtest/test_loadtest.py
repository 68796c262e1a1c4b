"""The load test against a server that only echoes: real clients, real WebRTC, no model."""

import argparse
import asyncio
import json
import os
import re
import threading

import av
import numpy as np
import psutil
import pytest
from aiohttp import web
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from av import VideoFrame

from core.errors import UsageError
from server.commands import loadtest as command
from server.commands.loadtest import add_arguments, run
from server.loadtest.client import ClientConfig
from server.loadtest.client import session as visit
from server.loadtest.footage import Clip, SyntheticScene
from server.loadtest.report import page
from server.loadtest.result import Outcome, summary, table
from server.loadtest.run import VISIT, kill_device
from server.loadtest.tally import Tally


class Echo(MediaStreamTrack):
    """Gives each frame back, each as a fresh picture."""

    kind = "video"

    def __init__(self, source):
        super().__init__()
        self.source = source

    async def recv(self):
        frame = await self.source.recv()
        back = VideoFrame.from_ndarray(frame.to_ndarray(), format="yuv420p")
        back.pts, back.time_base = frame.pts, frame.time_base
        return back


class EchoServer:
    """The routes that a load test uses; sessions beyond `places` are refused."""

    def __init__(self, places=100, crossed=False, ready=True, deaf=False, mute=False, chunks_every=None):
        self.places, self.crossed, self.ready, self.deaf, self.mute = places, crossed, ready, deaf, mute
        self.chunks_every, self.reporting = chunks_every, []
        self.connections, self.tracks = [], []
        self.deleted = 0
        self.processes = []
        """client processes at the time of each session's opening"""
        self.device = None

    def app(self):
        app = web.Application()
        app.router.add_get("/readyz", self.readyz)
        app.router.add_get("/models", self.models)
        app.router.add_get("/stats", self.stats)
        app.router.add_post("/sessions", self.open)
        app.router.add_delete("/sessions/{id}", self.close)
        return app

    async def readyz(self, request):
        if self.ready:
            return web.json_response({})
        return web.json_response({"error": {"message": "it warms up"}}, status=503)

    async def models(self, request):
        return web.json_response({"models": [{"name": "echo"}]})

    async def stats(self, request):
        usage = {"pid": 1, "rss_bytes": 2**20, "fds": 9, "threads": 3}
        told = {"processes": {"server": usage, "device": self.device}, "tasks": 4, "frame_memory_bytes": 0}
        return web.json_response({"device": {"load": 0.5, "restarts": 0}, "sessions": [], **told})

    async def open(self, request):
        body = await request.json()
        self.processes.append(len(psutil.Process().children()))
        if len(self.connections) >= self.places:
            error = {"code": "full", "message": "no place is left", "retryable": True}
            return web.json_response({"error": error}, status=503, headers={"Retry-After": "7"})
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.connections.append(pc)

        @pc.on("track")
        def on_track(track):
            self.tracks.append(track)
            source = self.tracks[0] if self.crossed else track
            if self.mute or (self.crossed and len(self.tracks) == 1):
                return
            pc.addTrack(Echo(source))

        @pc.on("datachannel")
        def on_datachannel(channel):
            channel.send(json.dumps({"chunk": 0, "rung": "full", "psnr": 31.0}))
            if self.chunks_every is not None:
                self.reporting.append(asyncio.create_task(self.report(channel)))

        await pc.setRemoteDescription(RTCSessionDescription(body["sdp"], "offer"))
        await pc.setLocalDescription(await pc.createAnswer())
        sdp = pc.localDescription.sdp
        if self.deaf:  # its candidates are nobody's
            sdp = re.sub(r"(a=candidate:\S+ 1 udp \d+) \S+ \d+", r"\1 192.0.2.1 9", sdp)
            await pc.close()
        answer = {"id": f"s{len(self.connections)}", "sdp": sdp, "type": "answer"}
        return web.json_response(answer, status=201)

    async def report(self, channel):
        while channel.readyState == "open":
            await asyncio.sleep(self.chunks_every)
            channel.send(json.dumps({"chunk": 1, "rung": "full"}))

    async def close(self, request):
        self.deleted += 1
        return web.Response(status=204)


@pytest.fixture
def serve():
    """Runs an EchoServer on a thread of its own; returns its URL."""
    loops = []

    def start(server):
        loop, started, urls = asyncio.new_event_loop(), threading.Event(), []

        async def listen():
            runner = web.AppRunner(server.app())
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
            started.set()
            stop = asyncio.Event()
            loops.append((loop, stop, thread))
            await stop.wait()
            await asyncio.gather(*(pc.close() for pc in server.connections))
            await asyncio.gather(*server.reporting, return_exceptions=True)
            await runner.cleanup()

        thread = threading.Thread(target=lambda: loop.run_until_complete(listen()))
        thread.start()
        assert started.wait(20)
        return urls[0]

    yield start
    for loop, stop, thread in loops:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch):
    """An echo needs no seconds to come back, and its server nothing to forget a client."""
    configured = command.client_config
    monkeypatch.setattr(command, "client_config", lambda args: configured(args).model_copy(update={"linger": 1.0}))
    monkeypatch.setattr("server.loadtest.run.AFTERMATH", 0.1)


def arguments(*argv):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(argv)


def loadtest(tmp_path, *argv):
    """Runs the command; its exit code and its JSON."""
    code = run(arguments(*argv, "--json", str(tmp_path / "figures.json")))
    return code, json.loads((tmp_path / "figures.json").read_text())


def test_two_sessions_are_measured_frame_by_frame(tmp_path, serve, capsys):
    server = EchoServer()
    url, report = serve(server), tmp_path / "report.html"
    code, result = loadtest(
        tmp_path, url, "--sessions", "2", "--seconds", "2", "--size", "256x144", "--report", str(report)
    )
    assert code == 0
    assert len(result["sessions"]) == 2
    for session in result["sessions"]:
        assert session["failure"] is None
        assert session["frames_wrong"] == session["frames_unreadable"] == 0
        assert session["frames_back"] > 10
        assert session["frames_sent"] >= session["frames_back"]
        assert 0 < session["latency_ms"]["p50"] <= session["latency_ms"]["p95"] <= session["latency_ms"]["p99"]
        assert session["psnr"] > 20, "the picture that came back is not the one that was sent"
        assert session["rungs"] == {"full": 1}
    assert result["refused"] == 0
    assert result["server"]["models"] == [{"name": "echo"}]
    assert result["server"]["load_max"] == 0.5
    assert server.deleted == 2
    assert "session 2: chunks 1 full" in capsys.readouterr().out
    text = report.read_text()
    assert text.count("<polyline") >= 5
    assert not re.search(r"(src|href)=", text), "the page asks for something else"


def test_a_session_that_gets_anothers_frames_is_found_out(tmp_path, serve):
    code, result = loadtest(
        tmp_path, serve(EchoServer(crossed=True)), "--sessions", "2", "--seconds", "2", "--size", "256x144"
    )
    assert code == 1
    assert sum(session["frames_wrong"] for session in result["sessions"]) > 10


def test_a_refused_session_is_counted_with_its_reason(tmp_path, serve):
    code, result = loadtest(
        tmp_path, serve(EchoServer(places=0)), "--sessions", "1", "--seconds", "2", "--size", "256x144"
    )
    assert code == 1
    assert (result["sessions"], result["refused"]) == ([], 1)
    assert result["refusals"] == ["503 full: no place is left"]


def test_a_ramp_ends_where_a_session_is_refused(tmp_path, serve, capsys):
    options = ("--seconds", "40", "--step", "1", "--size", "256x144", "--budget", "5")
    code, result = loadtest(tmp_path, serve(EchoServer(places=1)), "--ramp", *options)
    assert code == 0
    steps = result["ramp"]["steps"]
    assert [step["sessions"] for step in steps] in ([1, 2], [1])  # a machine too busy for one ends there
    assert not steps[-1]["held"]
    assert result["ramp"]["max_sessions"] == sum(step["held"] for step in steps)
    assert "the most sessions that held" in capsys.readouterr().out


def test_cycles_open_see_a_frame_and_close(tmp_path, serve, capsys):
    server = EchoServer()
    options = ("--cycles", "5", "--at-once", "2", "--size", "256x144", "--fps", "30")
    code, result = loadtest(tmp_path, serve(server), *options)
    assert code == 0
    assert result["cycles"]["done"] == server.deleted == 5
    assert result["cycles"]["failed"] == 0
    assert 0 < result["cycles"]["first_frame_ms"]["p50"] <= result["cycles"]["first_frame_ms"]["p95"] < VISIT * 1000
    assert result["server"]["growth"]["server_rss_bytes"]["after"] == 2**20
    told = capsys.readouterr().out
    assert "cycles: 5 done, 0 failed" in told
    assert "server rss MiB: before 1.0, after 1.0, most 1.0" in told


def test_cycles_that_get_no_session_failed_and_say_why(tmp_path, serve, capsys):
    code, result = loadtest(
        tmp_path, serve(EchoServer(places=1)), "--cycles", "3", "--at-once", "1", "--size", "256x144"
    )
    assert (code, result["cycles"]["done"], result["cycles"]["failed"]) == (1, 1, 2)
    assert result["cycles"]["reasons"] == {"refused: 503 full": 2}
    assert "failed 2: refused: 503 full" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("deaf", r"not connected within 1 s \(ICE checking, DTLS new\)"),
        ("mute", r"no frame within 1 s \(ICE completed, DTLS connected\)"),
        ("gone", r"no answer to HTTP: ClientConnectorError"),
    ],
)
async def test_a_session_that_came_to_nothing_says_how_far_it_came(serve, fault, reason):
    url = "http://127.0.0.1:9" if fault == "gone" else serve(EchoServer(**{fault: True}))
    config = ClientConfig(url=url, width=256, height=144, seconds=1, linger=0.1, connect_timeout=1, visits=1)
    seconds, found = await visit(config, SyntheticScene(256, 144), asyncio.Event())
    assert seconds is None
    assert re.fullmatch(reason, found), found


def test_one_command_tells_what_a_bad_client_costs_the_others(tmp_path, serve, capsys):
    options = ("--sessions", "1", "--bad", "vanish", "--seconds", "1", "--size", "256x144")
    code, result = loadtest(tmp_path, serve(EchoServer()), *options)
    assert code == 0
    assert len(result["sessions"]) == 1
    phases = result["disturbance"]["phases"]
    assert [phase["companion"] for phase in phases] == ["none", "vanish", "none"]
    before, during, after = (phase["p95_ms"] for phase in phases)
    assert result["disturbance"]["moved_percent"] == pytest.approx(100 * (2 * during / (before + after) - 1), abs=0.1)
    assert len(result["misbehaving"]) == 1
    assert "the others' p95 by phase (none: " in capsys.readouterr().out


def test_one_command_tells_what_a_crowd_costs_and_when_quality_is_back(tmp_path, serve, capsys):
    options = ("--sessions", "2", "--overload", "--seconds", "1.5", "--size", "256x144")
    server = EchoServer(chunks_every=0.3)
    code, result = loadtest(tmp_path, serve(server), *options)
    assert code == 0
    assert server.processes == [2, 2], "the crowd's processes started while latency was measured"
    overload = result["overload"]
    assert [phase["companion"] for phase in overload["phases"]] == ["alone", "crowd"]
    alone, crowd = (phase["p95_ms"] for phase in overload["phases"])
    assert overload["p95_ratio"] == pytest.approx(crowd / alone, abs=0.01)
    assert 0 < overload["full_after"] < 2
    assert overload["full_share"] == 1
    assert "worst of the crowd" in capsys.readouterr().out


def test_the_device_of_a_server_elsewhere_is_not_killed(serve):
    """The pid that a server tells may be anybody's on this machine: only a device process is killed."""
    with pytest.raises(UsageError, match="is not on this machine"):
        kill_device({"processes": {"device": {"pid": os.getpid()}}})
    with pytest.raises(UsageError, match="is not on this machine"):
        kill_device({"processes": {"device": None}})
    options = ("--sessions", "1", "--kill-device", "--seconds", "1", "--size", "256x144")
    with pytest.raises(UsageError, match="is not on this machine"):
        run(arguments(serve(EchoServer()), *options))


def test_a_server_that_is_not_ready_or_not_there_is_said_in_one_sentence(serve):
    with pytest.raises(UsageError, match="is not ready: it warms up"):
        run(arguments(serve(EchoServer(ready=False)), "--sessions", "1"))
    with pytest.raises(UsageError, match="no server of this kind answers"):
        run(arguments("http://127.0.0.1:9", "--sessions", "1"))


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["ftp://x", "--sessions", "1"], "the URL of a server is http://HOST:PORT"),
        (["http://x", "--sessions", "0"], "1 to 200 sessions, not 0"),
        (["http://x", "--cycles", "0"], "1 to 100000 cycles, not 0"),
        (["http://x", "--cycles", "9", "--at-once", "0"], "1 to 200 sessions, not 0"),
        (["http://x", "--ramp", "--bad", "flood"], "go with --sessions"),
        (["http://x", "--cycles", "9", "--overload"], "go with --sessions"),
        (["http://x", "--sessions", "1", "--overload"], "--overload takes 2 sessions at least, not 1"),
        (["http://x", "--sessions", "1", "--bad", "flood", "--kill-device"], "one at a time"),
        (["http://x", "--sessions", "1", "--size", "64x64"], "a frame number needs a picture"),
        (["http://x", "--sessions", "1", "--size", "big"], "a size is WIDTHxHEIGHT"),
        (["http://x", "--sessions", "1", "--fps", "0"], "fps: "),
        (["http://x", "--sessions", "1", "--clip", "no.mp4"], "there is no clip no.mp4"),
        (["http://x", "--sessions", "1", "--report", "r.png"], "a report is an .html file"),
        (["http://x", "--sessions", "1", "--report", "no/r.html"], "there is no folder no"),
        (["http://x", "--ramp", "--step", "0"], "a step of a ramp takes 1 second at least"),
        (["http://x", "--ramp", "--step", "nan"], "a step of a ramp takes 1 second at least, not nan"),
        (["http://x", "--ramp", "--budget", "nan"], "a latency budget is 0 seconds or more, not nan"),
        (["http://x", "--ramp", "--budget", "-1"], "a latency budget is 0 seconds or more, not -1"),
    ],
)
def test_bad_input_is_said_in_one_sentence(argv, sentence):
    with pytest.raises(UsageError, match=re.escape(sentence)):
        run(arguments(*argv))


def test_the_report_shows_hostile_text_as_text():
    tally = Tally(refusal="503 <script>alert(1)</script>")
    settings = {"width": 1, "height": 1, "fps": 16, "operator": {"kind": "<b>"}}
    ramp = {"max_sessions": 0, "steps": [{"sessions": 1, "held": False, "why": "<i>", "fps": None, "p95_ms": None}]}
    result = {"sessions": [], "refused": 1, "refusals": [tally.refusal], "settings": settings, "ramp": ramp}
    text = page(result, [tally], [], 0.0)
    assert "<script" not in text
    assert "<i>" not in text
    assert "&lt;i&gt;" in text
    assert "&lt;b&gt;" in text


def test_a_summary_of_nothing_can_be_shown():
    result = summary(Outcome(clients=[Tally()]), {})
    assert result["sessions"][0]["latency_ms"] == {"p50": None, "p95": None, "p99": None}
    assert "-" in table(result)


def test_the_scene_is_the_same_for_the_same_number_and_moves():
    scene, again = SyntheticScene(96, 64, seed=1), SyntheticScene(96, 64, seed=1)
    assert np.array_equal(scene(7), again(7))
    assert not np.array_equal(scene(7), scene(8))
    assert scene(70_000).shape == (96, 96)
    scene(7)[:] = 0
    assert np.array_equal(scene(7), again(7)), "a caller drew on the scene itself"


def test_a_clip_runs_forwards_and_backwards_without_a_cut(tmp_path):
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 16)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for value in range(5):
            picture = np.full((64, 64, 3), 40 * value + 20, np.uint8)
            container.mux(stream.encode(VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    clip = Clip(path, 64, 64)
    levels = [int(clip(number)[:64].mean()) for number in range(10)]
    assert levels[:5] == sorted(levels[:5])
    assert levels[5:9] == levels[3::-1]
    with pytest.raises(UsageError, match="cannot read the clip"):
        Clip(tmp_path / "none.mp4", 64, 64)
