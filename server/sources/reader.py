"""One thread that reads a source with FFmpeg until it ends, fails, or is told to stop. Knows no session.

What a failure says never holds the source's address: FFmpeg's own messages do, and the address may hold a password.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import av
from av import VideoFrame
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition

from core.errors import UsageError
from server.files.source import leave_out
from server.sources.config import SourceConfig
from server.sources.srt import LOW_DELAY, QUICK, SrtPipe
from server.sources.track import SourceTrack
from server.webrtc.config import RtcConfig
from server.webrtc.decoder import misfit

logger = logging.getLogger(__name__)

TIMEOUTS = (10.0, 10.0)
"""seconds to open a source, and to wait for its next packet"""
LATE = 0.5
"""seconds that a paced source may be late before the pace begins anew"""
AHEAD = 5.0
"""seconds that a frame may lie ahead; more is a jump of the source's clock"""
FORMATS = {"camera": "v4l2"}
"""formats that FFmpeg does not find out by itself, by the kind of source"""


class Unreadable(Exception):
    """Why a source cannot be read, in words without its address."""


@dataclass
class Pace:
    """When the frames of a recording are due, in seconds: as far apart as their times. Pure."""

    _origin: float | None = None

    def due(self, time: float, now: float) -> float:
        """When the frame with `time` is due. A source that falls behind, or whose times jump, gets a new origin."""
        if self._origin is None or not -LATE <= self._origin + time - now <= AHEAD:
            self._origin = now - time
        return self._origin + time


@dataclass(frozen=True)
class Shot:
    """One frame as it was read."""

    frame: VideoFrame
    time: float | None
    """of the source, in seconds"""
    at: float
    """when its packet came, by the monotonic clock"""
    lost: bool = False
    """frames before it were damaged"""


Read = Callable[[threading.Event], Iterator[Shot]]
"""Gives the frames of a source until the event is set. Raises Unreadable, FFmpegError, OSError or UsageError."""


class Reader(Protocol):
    """Brings the frames of one source to a track, once."""

    ended: asyncio.Future[str]
    """why it ended, in words"""

    def start(self) -> None: ...

    async def stop(self) -> None:
        """It brings no more."""
        ...


class ThreadReader:
    """A `Reader` whose frames come from a thread."""

    def __init__(self, read: Read, track: SourceTrack, name: str):
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._read = read
        self._track = track
        self._stop = threading.Event()
        self._loop = asyncio.get_running_loop()
        # A thread that waits for the network cannot be woken: it ends within the timeout, and holds nobody up.
        self._thread = threading.Thread(target=self._run, name=f"source-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        reason = "it ended"
        try:
            for shot in self._read(self._stop):
                if self._stop.is_set():
                    break
                self._track.offer(shot.frame, shot.time, shot.at, shot.lost)
        except (Unreadable, UsageError) as error:
            reason = str(error)
        except Exception as error:  # whatever it is, its message may hold the address
            reason = in_words(error)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell, reason)

    def _tell(self, reason: str) -> None:
        if not self.ended.done():
            self.ended.set_result(reason)


def in_words(error: Exception) -> str:
    """What went wrong, without an address."""
    if isinstance(error, av.error.ExitError):
        return f"no answer within {TIMEOUTS[0]:g} s"
    if isinstance(error, FFmpegError | OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    logger.error("reading a source failed: %s", type(error).__name__)
    return f"an internal error: {type(error).__name__}"


def reading(config: SourceConfig, limits: RtcConfig) -> Read:
    """How the source of `config` is read."""
    if config.kind == "file":
        return lambda stop: read_file(Path(config.url.get_secret_value().removeprefix("file://")), stop)
    return lambda stop: read_stream(config, limits, stop)


def read_file(path: Path, stop: threading.Event) -> Iterator[Shot]:
    """The pictures of a file again and again, each when it is due."""
    from server.files.inputs import open_source

    pace, base = Pace(), 0.0
    while not stop.is_set():
        source = open_source(path)
        try:
            about, end = source.about, 0.0
            height, width = about.height, max(1, round(about.height * about.shape))
            for picture in source.pictures((height, width), leave_out):
                shown = float(picture.pts * about.time_base)
                end = shown + float(picture.duration * about.time_base or 1 / about.rate)
                if not wait_for(pace.due(base + shown, time.monotonic()), stop):
                    return
                frame = VideoFrame.from_ndarray(picture.pixels, format="rgb24")
                yield Shot(frame, base + shown, time.monotonic())
        finally:
            source.close()
        base += end


def read_stream(config: SourceConfig, limits: RtcConfig, stop: threading.Event) -> Iterator[Shot]:
    """The frames of a stream: as they come, or paced where they come faster than they are due."""
    with opened(config, stop) as container:
        video = video_of(container)
        video.codec_context.options = {"max_pixels": str(limits.max_pixels)}
        video.thread_type = "SLICE"  # threads that each take a frame would hold frames back
        pace = Pace() if is_paced(config, container) else None
        lost = False
        for packet in container.demux(video):
            at = time.monotonic()
            try:
                frames = video.codec_context.decode(packet)
            except EOFError:
                return
            except FFmpegError:
                lost = True
                continue
            for frame in frames:
                if fault := misfit(frame.width, frame.height, limits):
                    raise Unreadable(fault)
                if frame.is_corrupt:
                    lost = True
                    continue
                if pace is not None and frame.time is not None and not wait_for(pace.due(frame.time, at), stop):
                    return
                yield Shot(frame, frame.time, at if pace is None else time.monotonic(), lost)
                lost = False
            if stop.is_set():
                return


def wait_for(due: float, stop: threading.Event) -> bool:
    """Waits until `due`; false when it is told to stop meanwhile."""
    return not stop.wait(max(0.0, due - time.monotonic()))


@contextmanager
def opened(config: SourceConfig, stop: threading.Event) -> Iterator[InputContainer]:
    url = config.url.get_secret_value()
    if config.kind == "srt":
        with SrtPipe(url, stop) as pipe, av.open(pipe, "r", format="mpegts", options=LOW_DELAY) as container:
            yield container
        return
    with av.open(url, "r", format=FORMATS.get(config.kind), options=options_of(config), timeout=TIMEOUTS) as container:
        yield container


def options_of(config: SourceConfig) -> dict[str, str]:
    """What FFmpeg is told of how to read the source."""
    if config.kind != "live":
        return QUICK if config.kind == "web" else {}
    is_rtsp = config.url.get_secret_value().lower().startswith("rtsp")
    return {**LOW_DELAY, **({"rtsp_transport": config.transport} if is_rtsp else {})}


def video_of(container: InputContainer) -> av.VideoStream:
    """The first video that is no cover picture. Raises Unreadable."""
    found = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not found:
        others = " and ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise Unreadable(f"there is no video in it, only {others}")
    if found[0].codec_context is None:
        raise Unreadable("FFmpeg cannot decode its video")
    return found[0]


def is_paced(config: SourceConfig, container: InputContainer) -> bool:
    """Whether the frames of a stream come faster than they are due: segments do, and files from a web server."""
    return config.kind == "web" and (container.format.name == "hls" or container.duration is not None)
