"""What can be restored, as a track: a file, a camera, arrays, another track. Paced in real time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
import numpy.typing as npt
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av.error import FFmpegError

Pixels = npt.NDArray[np.uint8]
"""One frame [H, W, 3], RGB."""
Source: TypeAlias = str | Path | MediaStreamTrack | Iterable[Pixels] | AsyncIterable[Pixels]
"""A video file, an address that FFmpeg reads, /dev/videoN; frames; a track of aiortc."""

CLOCK = 90_000
"""ticks a second of a video timestamp"""
LATE = 0.5
"""seconds that a source may be late before its clock begins anew"""
TAIL = 36
"""repeats of the last frame of a source that ended: they push it through the server's chunks"""
WAITING = 8
"""frames that may wait for a connection"""


class Feed:
    """The frames of a source, at their times. It goes on while one connection takes the place of another."""

    def __init__(self, source: Source, fps: float):
        self.ended: float | None = None
        """seconds that the source lasted, once it is over"""
        self.fault: Exception | None = None
        """why it could not be read on"""
        self._frames = timed(source, fps)
        self._fps = fps
        self._waiting: deque[av.VideoFrame] = deque(maxlen=WAITING)
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Reads the first frame, then goes on by itself. Raises what reading it raises, ValueError for no frame."""
        try:
            first = await anext(self._frames)
        except StopAsyncIteration:
            raise ValueError("expected a source with frames, found none") from None
        self._task = asyncio.get_running_loop().create_task(self._run(first))

    async def next(self) -> av.VideoFrame:
        """The next frame, when it is due; the oldest are left out where nobody takes them. Raises MediaStreamError."""
        while not self._waiting:
            if self._task is None or self._task.done():
                raise MediaStreamError("the source ended")
            self._changed.clear()
            await self._changed.wait()
        return self._waiting.popleft()

    async def _run(self, first: tuple[av.VideoFrame, float]) -> None:
        last, pace = first[0], Pace(first[1])
        try:
            last = await self._put(pace, *first)
            async for frame, shown in self._frames:
                last = await self._put(pace, frame, shown)
        except (FFmpegError, OSError, ValueError) as error:
            self.fault = error
        self.ended = pace.time + 1 / self._fps
        for _ in range(TAIL if self.fault is None else 0):
            await self._put(pace, last, pace.first + pace.time + 1 / self._fps)
        asyncio.get_running_loop().call_soon(self._changed.set)  # once this task is done

    async def _put(self, pace: Pace, frame: av.VideoFrame, shown: float) -> av.VideoFrame:
        await asyncio.sleep(pace.wait(shown, time.monotonic()))
        picture = frame.reformat(format="yuv420p")
        picture.pts, picture.time_base = round(pace.time * CLOCK), Fraction(1, CLOCK)
        self._waiting.append(picture)
        self._changed.set()
        return picture

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._frames.aclose()


class Pace:
    """When frames are due: as far apart as their times, which start with `first` seconds."""

    def __init__(self, first: float):
        self.first = first
        self.time = 0.0
        """of the last frame, from the first on"""
        self._origin: float | None = None

    def wait(self, shown: float, now: float) -> float:
        """Seconds to wait for the frame that is shown at `shown`."""
        self.time = shown - self.first
        if self._origin is None or now - self._origin - self.time > LATE:
            self._origin = now - self.time
        return max(0.0, self._origin + self.time - now)


class FeedTrack(MediaStreamTrack):
    """A feed on one connection: aiortc ends a track with the connection that sends it, and the feed goes on."""

    kind = "video"

    def __init__(self, feed: Feed):
        super().__init__()
        self._feed = feed

    async def recv(self) -> av.VideoFrame:
        if self.readyState != "live":
            raise MediaStreamError("the track was stopped")
        return await self._feed.next()


async def timed(source: Source, fps: float) -> AsyncGenerator[tuple[av.VideoFrame, float], None]:
    """The frames of a source with their times in seconds."""
    if isinstance(source, MediaStreamTrack):
        async for pair in of_track(source):
            yield pair
    elif isinstance(source, str | Path):
        async for pair in of_file(str(source)):
            yield pair
    else:
        number = 0
        async for pixels in arrays(source):
            yield av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels, np.uint8), format="rgb24"), number / fps
            number += 1


async def of_track(track: MediaStreamTrack) -> AsyncIterator[tuple[av.VideoFrame, float]]:
    while True:
        try:
            frame = await track.recv()
        except MediaStreamError:
            return
        assert isinstance(frame, av.VideoFrame), f"expected a track of video, found {type(frame).__name__}"
        yield frame, frame.time if frame.time is not None else time.monotonic()


async def arrays(source: Iterable[Pixels] | AsyncIterable[Pixels]) -> AsyncIterator[Pixels]:
    if isinstance(source, AsyncIterable):
        async for pixels in source:
            yield pixels
        return
    iterator = iter(source)
    while (found := await asyncio.to_thread(next, iterator, None)) is not None:
        yield found


async def of_file(path: str) -> AsyncIterator[tuple[av.VideoFrame, float]]:
    """Decodes in a thread, a few frames ahead."""
    loop, stop = asyncio.get_running_loop(), threading.Event()
    frames: asyncio.Queue[Any] = asyncio.Queue(maxsize=4)

    def read() -> None:
        end: object = None
        try:
            for pair in decoded(path):
                if stop.is_set():
                    return
                asyncio.run_coroutine_threadsafe(frames.put(pair), loop).result()
        except Exception as error:  # it is raised where the frames are taken
            end = error
        if not stop.is_set():
            asyncio.run_coroutine_threadsafe(frames.put(end), loop).result()

    thread = threading.Thread(target=read, name="avis-source", daemon=True)
    thread.start()
    try:
        while (found := await frames.get()) is not None:
            if isinstance(found, Exception):
                raise found
            yield found
    finally:
        stop.set()
        while thread.is_alive():  # it may wait for room
            while not frames.empty():
                frames.get_nowait()
            await asyncio.sleep(0.01)


def decoded(path: str) -> Iterator[tuple[av.VideoFrame, float]]:
    """The frames of a file or a camera. Raises FFmpegError for what cannot be read, ValueError for no video."""
    camera = path.startswith("/dev/video")
    with av.open(path, format="v4l2" if camera else None) as container:
        if not container.streams.video:
            raise ValueError(f"expected a video in {path}, found none")
        for number, frame in enumerate(container.decode(video=0)):
            yield frame, frame.time if frame.time is not None else number / 25
