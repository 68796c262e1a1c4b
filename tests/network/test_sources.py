"""Sources against servers of other makers: GStreamer's RTSP server, and FFmpeg's SRT."""

import asyncio
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import pytest

from server.api.keys import SESSIONS, SOURCES
from server.device.backoff import Backoff
from tests.server.conftest import serve
from tests.server.sources.conftest import Watcher
from tests.server.sources.test_source import transport_stream, until

pytestmark = pytest.mark.network

USER, PASSWORD = "camera", "hunter2"
PYTHON = "/usr/bin/python3"
PROGRAM = Path(__file__).with_name("rtsp_server.py")


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RtspServer:
    """GStreamer's, as a process that can be ended and started again."""

    def __init__(self):
        self.port, self.process = free_port(), None

    async def start(self):
        command = [PYTHON, "-u", str(PROGRAM), str(self.port), USER, PASSWORD]
        self.process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        assert (await asyncio.wait_for(self.process.stdout.readline(), 60)).strip() == b"ready"

    async def end(self):
        self.process.kill()
        await self.process.communicate()

    def url(self, path="/cam", password=PASSWORD):
        return f"rtsp://{USER}:{password}@127.0.0.1:{self.port}{path}"


@pytest.fixture(scope="module")
def gstreamer():
    look = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    if shutil.which(PYTHON) is None or subprocess.run([PYTHON, "-c", look], capture_output=True).returncode:
        pytest.skip("GStreamer's RTSP server is not installed: apt-get install gir1.2-gst-rtsp-server-1.0 python3-gi")


@pytest.fixture
async def rtsp(gstreamer):
    server = RtspServer()
    await server.start()
    yield server
    await server.end()


@pytest.mark.parametrize("transport", ["tcp", "udp"])
async def test_an_rtsp_camera_is_watched_and_outlives_a_restart_of_it(rtsp, transport, caplog):
    async with serve(source=[f"cam={rtsp.url()},operator=denoise,transport={transport}"]) as (app, http, url):
        source = app[SOURCES].all["cam"]
        source.backoff = Backoff(sys.maxsize, first=0.5, factor=1.0, most=0.5)
        player = await Watcher(http, f"{url}/whep/cam").open()
        assert player.status == 201, player.error
        seen = await player.sees(20, seconds=40)
        assert (seen[-1].width, seen[-1].height) == (128, 96)
        [session] = app[SESSIONS]
        await rtsp.end()
        if transport == "tcp":  # over UDP silence is all that is heard of it, after ten seconds
            await until(lambda: source.state != "live", seconds=40)
        await rtsp.start()
        if transport == "tcp":
            await until(lambda: source.state == "live", seconds=40)
            if session in list(app[SESSIONS]):
                await player.sees(len(player.seen) + 20, seconds=40)
        await player.close()
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize("path, password, reason", [("/cam", "wrong", "401"), ("/sound", PASSWORD, "no video")])
async def test_what_an_rtsp_server_refuses_or_lacks_is_told(rtsp, path, password, reason, caplog):
    async with serve(source=[f"cam={rtsp.url(path, password)}"]) as (_, http, url):
        player = await Watcher(http, f"{url}/whep/cam").open()
        assert player.status == 503 and reason in player.error, player.error
        await player.close()
    assert password not in caplog.text + player.error


async def test_a_source_comes_over_srt(tmp_path, caplog):
    transport_stream(tmp_path / "clip.ts", frames=160)
    port = free_port(socket.SOCK_DGRAM)
    to = f"srt://127.0.0.1:{port}?mode=listener&passphrase={PASSWORD * 2}"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-re", "-stream_loop", "-1"]
    command += ["-i", str(tmp_path / "clip.ts"), "-c", "copy", "-f", "mpegts", to]
    sender = await asyncio.create_subprocess_exec(*command, stdin=subprocess.DEVNULL)
    try:
        address = f"srt://127.0.0.1:{port}?passphrase={PASSWORD * 2}"
        async with serve(source=[f"cam={address},operator=denoise"]) as (_, http, url):
            player = await Watcher(http, f"{url}/whep/cam").open()
            assert player.status == 201, player.error
            await player.sees(10, seconds=40)
            await player.close()
    finally:
        sender.kill()
        await sender.wait()
    assert PASSWORD not in caplog.text


async def test_an_srt_server_that_is_not_there_is_told():
    async with serve(source=[f"cam=srt://127.0.0.1:{free_port(socket.SOCK_DGRAM)}?connect_timeout=500"]) as (
        _,
        http,
        url,
    ):
        player = await Watcher(http, f"{url}/whep/cam").open()
        assert player.status == 503 and "source_unavailable" in player.error, player.error
        await player.close()
