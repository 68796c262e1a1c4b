"""Source timestamps to the slots of a session's frame rate. Pure: no I/O, no clock; times are in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """What to do with one frame that arrived."""

    slot: int | None
    """its slot at the session's rate, counted from 0; None drops it"""
    repeats: int = 0
    """empty slots right before it, to be filled with the previous frame"""
    gap: bool = False
    """too many frames are missing before it to be filled: what follows is a new stream to every temporal operator"""


DROPPED = Sample(None)


@dataclass
class FrameSampler:
    """Samples a track to `fps` by its own timestamps, so that network jitter neither drops nor repeats a frame.

    Timestamps may differ from arrival times by `tolerance` seconds. A sudden jump beyond that means another source: it
    gets a new anchor, and is a gap. A source that gradually runs ahead sends too many frames, and some are dropped.
    """

    fps: float
    max_fill: float = 2.0
    """seconds of missing frames that are filled by repeating; more is a gap"""
    tolerance: float = 2.0
    _source: float = 0.0
    """timestamp of slot 0"""
    _arrival: float = 0.0
    """arrival of the frame that anchored slot 0"""
    _seen: tuple[float, float] | None = None
    """timestamp and arrival of the frame before"""
    _last: int = -1
    """slot of the last frame that was kept"""

    def accept(self, timestamp: float, now: float) -> Sample:
        """Decides on the frame with `timestamp` that arrived at `now`."""
        before, self._seen = self._seen, (timestamp, now)
        if before is None:
            return self._anchor(timestamp, now, slot=0, gap=False)
        elapsed = now - before[1]
        if abs((timestamp - before[0]) - elapsed) > self.tolerance + elapsed:
            return self._anchor(timestamp, now, self._last + max(1, round(elapsed * self.fps)), gap=True)
        if (timestamp - self._source) - (now - self._arrival) > self.tolerance:
            return DROPPED
        slot = round((timestamp - self._source) * self.fps)
        missing = slot - self._last - 1
        if missing < 0:
            return DROPPED
        self._last = slot
        if missing > self.max_fill * self.fps:
            return Sample(slot, gap=True)
        return Sample(slot, repeats=missing)

    def _anchor(self, timestamp: float, now: float, slot: int, gap: bool) -> Sample:
        self._source, self._arrival = timestamp - slot / self.fps, now - slot / self.fps
        self._last = slot
        return Sample(slot, gap=gap)
