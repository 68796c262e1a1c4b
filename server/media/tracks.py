"""The outgoing track: restored frames leave at their playout times. Knows no session and no device."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av import VideoFrame

from server.media.playout import Playout

CLOCK_RATE = 90_000
TIME_BASE = Fraction(1, CLOCK_RATE)


@dataclass(frozen=True)
class Outgoing:
    """An outgoing frame, with what its session needs when it leaves."""

    image: VideoFrame
    arrival: float
    """when its source frame arrived, in seconds of the server's clock"""
    chunk: Any = None


class RestoredTrack(MediaStreamTrack):
    """Plays what `playout` decides. For each frame that was put, `on_left` or `on_dropped` is called once."""

    kind = "video"

    def __init__(
        self,
        playout: Playout[Outgoing],
        on_left: Callable[[Outgoing, float], None],
        on_dropped: Callable[[Outgoing], None],
    ):
        super().__init__()
        self.playout = playout
        self._on_left = on_left
        self._on_dropped = on_dropped
        self._changed = asyncio.Event()

    def put(self, frames: list[tuple[int, Outgoing]], standing: Collection[int] = ()) -> None:
        """Queues frames with their slots; those in the slots `standing` repeat the frame before a pause."""
        for frame in self.playout.put(frames, asyncio.get_running_loop().time(), standing):
            self._on_dropped(frame)
        self._changed.set()

    def stop(self) -> None:
        super().stop()
        self._changed.set()

    async def recv(self) -> VideoFrame:
        """The next frame, when it is due: the peer connection sends it at once."""
        clock = asyncio.get_running_loop().time
        while self.readyState == "live":
            now = clock()
            taken = self.playout.take(now)
            if taken is not None:
                slot, frame, dropped = taken
                for late in dropped:
                    self._on_dropped(late)
                self._on_left(frame, now)
                return stamp(frame.image, slot, self.playout.fps)
            await changed_or_due(self._changed, self.playout.due())
        raise MediaStreamError("the session ended")


async def changed_or_due(changed: asyncio.Event, due: float | None) -> None:
    """Waits until `changed` is set anew, but not beyond `due` in the loop's time."""
    changed.clear()
    with suppress(TimeoutError):
        async with asyncio.timeout_at(due):
            await changed.wait()


def stamp(image: VideoFrame, slot: int, fps: float) -> VideoFrame:
    """The frame with the timestamp of output slot `slot`, in the 90 kHz of RTP."""
    image.pts = round(slot * CLOCK_RATE / fps)
    image.time_base = TIME_BASE
    return image
