"""The Python client against the real server: frames in, restored frames out, and every refusal in words."""

import asyncio
import subprocess
import sys
import types
from contextlib import aclosing
from fractions import Fraction
from itertools import pairwise

import avis_client
import numpy as np
import pytest
from aiortc import MediaStreamTrack
from av import VideoFrame
from av.error import FFmpegError
from avis_client import command
from avis_client.sources import Pace

from server.api.keys import SESSIONS
from tests.server.conftest import serve
from tests.server.sources.test_source import transport_stream, until

FPS = 16


def pictures(count):
    """Frames whose brightness tells their number."""
    for number in range(count):
        yield np.full((96, 128, 3), 40 + 4 * number, np.uint8)


async def taken(frames, count=10**6):
    """The first frames of an iterator."""
    found = []
    async with aclosing(frames):
        async for frame in frames:
            found.append(frame)
            if len(found) == count:
                break
    return found


async def test_arrays_come_back_in_order_as_many_as_were_sent_and_the_session_ends():
    reports = []
    async with serve() as (app, _, url):
        back = await taken(
            avis_client.restore(pictures(40), operator="denoise", url=url, fps=FPS, on_report=reports.append)
        )
        assert not len(app[SESSIONS]) and app[SESSIONS].closed["client"] == 1
    assert 30 <= len(back) <= 40 and back[0].pixels.shape == (96, 128, 3)
    levels = [frame.pixels.mean() for frame in back]
    assert all(later > earlier - 2 for earlier, later in pairwise(levels))
    assert levels[0] < 80 and levels[-1] > 150
    assert [frame.time for frame in back] == sorted(frame.time for frame in back)
    assert reports and {report["operator"] for report in reports if "chunk" in report} == {"denoise"}


class Camera(MediaStreamTrack):
    kind = "video"

    def __init__(self):
        super().__init__()
        self.number = 0

    async def recv(self):
        await asyncio.sleep(1 / FPS)
        frame = VideoFrame.from_ndarray(np.full((96, 128, 3), 90, np.uint8), format="rgb24")
        frame.pts, frame.time_base = self.number, Fraction(1, FPS)
        self.number += 1
        return frame


async def test_a_track_of_aiortc_is_a_source_and_whoever_has_enough_stops():
    async with serve(token="secret") as (app, _, url):
        operator = {"kind": "gaussian_blur", "sigma": 2}
        frames = avis_client.restore(
            Camera(), operator=operator, url=url, token="secret", size=(128, 96), mode="simulate"
        )
        back = await taken(frames, 5)
        assert not len(app[SESSIONS])
    assert (back[0].picture.width, back[0].picture.height) == (128, 96)


async def test_a_file_is_a_source_and_one_that_is_none_is_told_before_a_session_opens(tmp_path):
    transport_stream(tmp_path / "clip.ts", frames=30)
    (tmp_path / "text.mp4").write_text("nothing")
    async with serve() as (app, _, url):
        assert len(await taken(avis_client.restore(tmp_path / "clip.ts", operator="denoise", url=url), 9)) == 9
        with pytest.raises(FFmpegError):
            await taken(avis_client.restore(tmp_path / "text.mp4", url=url))
        with pytest.raises(ValueError, match="found none"):
            await taken(avis_client.restore([], url=url))
        assert app[SESSIONS].opened_total == 1


async def test_a_session_that_is_gone_is_opened_anew_and_the_source_goes_on():
    async with serve() as (app, _, url):
        frames, ids, seen = avis_client.restore(Camera(), operator="denoise", url=url, patience=20), set(), 0
        async with aclosing(frames):
            async for _ in frames:
                seen += 1
                ids |= {session.id for session in app[SESSIONS]}
                if seen == 5:  # as when the server restarts: the connection ends without a word
                    [session] = app[SESSIONS]
                    await session.pc.close()
                if len(ids) == 2 and seen > 10:
                    break
    assert len(ids) == 2


async def test_what_the_server_refuses_is_an_error_with_its_code(unused_tcp_port):
    async with serve(token="secret") as (_, _, url):
        with pytest.raises(avis_client.Refused, match="Bearer") as refused:
            await taken(avis_client.restore(pictures(3), url=url))
        assert (refused.value.status, refused.value.code) == (401, "unauthorized")
        with pytest.raises(avis_client.Refused, match="operator") as refused:
            await taken(avis_client.restore(pictures(3), operator="nonsense", url=url, token="secret"))
        assert refused.value.status == 422 and not refused.value.retryable
    with pytest.raises(avis_client.Unreachable, match=str(unused_tcp_port)):
        await taken(avis_client.restore(pictures(3), url=f"http://127.0.0.1:{unused_tcp_port}"))


async def test_a_full_server_is_waited_for_in_line():
    async with serve(max_sessions=1) as (app, _, url):
        first = avis_client.restore(Camera(), operator="denoise", url=url)
        await anext(first)
        second = asyncio.ensure_future(taken(avis_client.restore(Camera(), operator="denoise", url=url), 1))
        await until(lambda: app[SESSIONS].line.waiting(asyncio.get_running_loop().time()))
        await first.aclose()
        assert len(await second) == 1


def test_frames_are_due_as_far_apart_as_their_times_and_a_late_source_is_not_hurried():
    pace = Pace(7.0)
    assert [pace.wait(shown, now) for shown, now in ((7.0, 1.0), (7.5, 1.1), (8.0, 2.1))] == pytest.approx([0, 0.4, 0])
    assert pace.wait(9.0, 9.0) == 0 and pace.wait(9.5, 9.1) == pytest.approx(0.4)


def test_the_client_loads_neither_torch_nor_the_server():
    program = (
        "import sys, avis_client; print([n for n in sys.modules if n.split('.')[0] in ('torch', 'core', 'server')])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_virtual_camera_without_its_package_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    assert command.main(["camera", "x.mp4"]) == 1
    assert "avis-client[camera]" in capsys.readouterr().err


async def test_a_virtual_camera_shows_what_is_restored(tmp_path):
    transport_stream(tmp_path / "clip.ts", frames=30)
    shown = []

    class FakeCamera:
        device = "/dev/video9"

        def __init__(self, width, height, fps):
            shown.append((width, height, fps))

        def send(self, pixels):
            shown.append(pixels.shape)

        def close(self):
            shown.append("closed")

    async with serve() as (_, _, url):
        args = command.parser().parse_args(["camera", str(tmp_path / "clip.ts"), "--url", url, "--operator", "denoise"])
        await command.show(args, types.SimpleNamespace(Camera=FakeCamera))
    assert shown[0] == (128, 96, 16.0) and shown[1] == (96, 128, 3) and shown[-1] == "closed"
