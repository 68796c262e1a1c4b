"""Frames from a reader's thread to the event loop, on one time line. Drops the oldest, never blocks either side."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from dataclasses import dataclass, replace

from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av import VideoFrame

from server.media.tracks import CLOCK_RATE, TIME_BASE
from server.webrtc.config import Arrival

MAILBOX = 8
"""frames that may wait for the event loop"""


@dataclass
class Timeline:
    """A source's times over all its interruptions: after each they go on by the clock. Pure; times are in seconds."""

    _began: float | None = None
    _shift: float | None = None

    def restart(self) -> None:
        """What comes next has times of its own."""
        self._shift = None

    def map(self, time: float | None, now: float) -> tuple[float, bool]:
        """The time of a frame that came at `now` with its own `time`, and whether an interruption lies before it."""
        first = self._began is None
        if self._began is None:
            self._began = now
        elapsed = now - self._began
        if time is None:
            return elapsed, False
        interrupted = self._shift is None and not first
        if self._shift is None:
            self._shift = elapsed - time
        return time + self._shift, interrupted


class SourceTrack(MediaStreamTrack):
    """The video of one source, for a session to take. `offer` may be called from any thread."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self.frames = 0
        self.dropped = 0
        self.arrived = asyncio.Event()
        """a frame came since the last restart"""
        self._home = asyncio.get_running_loop()
        self._timeline = Timeline()
        self._mailbox: deque[VideoFrame] = deque()
        self._guard = threading.Lock()
        self._told = False
        self._changed = asyncio.Event()

    def restart(self) -> None:
        """The frames that follow are read anew."""
        with self._guard:
            self._timeline.restart()
            self.arrived.clear()
            self._told = False

    def offer(self, frame: VideoFrame, time: float | None, at: float, lost: bool = False) -> None:
        """Queues a frame that was read at `at`; `lost`: frames before it are missing. The oldest is dropped."""
        with self._guard:
            mapped, interrupted = self._timeline.map(time, at)
            frame.pts, frame.time_base = round(mapped * CLOCK_RATE), TIME_BASE
            frame.opaque = Arrival(at, lost or interrupted)
            self.frames += 1
            self._mailbox.append(frame)
            if len(self._mailbox) > MAILBOX:
                self._mailbox.popleft()
                self.dropped += 1
                oldest = self._mailbox[0]
                assert isinstance(oldest.opaque, Arrival)
                oldest.opaque = replace(oldest.opaque, lost=True)
            tell, self._told = not self._told, True
        if tell and not self._home.is_closed():
            self._home.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self.arrived.set()
        self._changed.set()

    def stop(self) -> None:
        super().stop()
        self._changed.set()

    async def recv(self) -> VideoFrame:
        while self.readyState == "live":
            with self._guard:
                if self._mailbox:
                    return self._mailbox.popleft()
                self._told = False
                self._changed.clear()
            await self._changed.wait()
        raise MediaStreamError("the source was stopped")
