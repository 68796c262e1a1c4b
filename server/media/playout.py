"""When each restored frame leaves. Pure: no I/O, no clock; time is data, in seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from math import ceil, floor
from typing import Generic, TypeVar

F = TypeVar("F")

SLACK = 1
"""slots of reserve that an underrun adds beyond what it was late, and that a catch-up leaves"""


@dataclass
class Playout(Generic[F]):
    """Frames on an absolute clock: source slot n leaves in output slot n + delay, at origin + slot / fps.

    `delay` grows by whole slots when a chunk is late (an underrun). It shrinks, a frame dropped for each slot, when
    every chunk was early for a while. What an underrun added after a pause of the source is removed at once, by leaving
    out frames that only repeat the one before the pause. Output timestamps are output slots, so a receiver sees an even
    pace whatever happens here.
    """

    fps: float
    preroll: float = 0.1
    """seconds between the first frame's arrival and its departure"""
    capacity: int = 48
    """frames that may wait; the oldest are dropped"""
    window: float = 3.0
    """seconds over which early chunks must have been early to be caught up with"""
    stride: int = 8
    """frames played for each one dropped while catching up"""

    played: int = 0
    late: int = 0
    """frames dropped because their time had passed, or because too many waited"""
    underruns: int = 0
    caught_up: int = 0
    """frames dropped to reduce latency"""

    _origin: float | None = None
    _delay: int = 0
    _last: int = -1
    """source slot of the frame that left last"""
    _queue: deque[tuple[int, F]] = field(default_factory=deque)
    _margins: deque[tuple[float, float]] = field(default_factory=deque)
    """arrival and earliness in slots of each chunk within the window"""
    _since_drop: int = 0
    _standing: set[int] = field(default_factory=set)
    """source slots in the queue whose frames only repeat the one before a pause"""
    _owed: int = 0
    """slots that underruns added to `delay` while such frames were queued"""

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def put(self, frames: list[tuple[int, F]], now: float, standing: Collection[int] = ()) -> list[F]:
        """Queues frames with their source slots; returns those that are dropped: too late, or too many.

        A chunk may arrive after the one that follows it, if that has not left yet. `standing` are the slots of
        frames that repeat the one before while the source paused.
        """
        dropped = [frame for slot, frame in frames if slot <= self._last]
        frames = [(slot, frame) for slot, frame in frames if slot > self._last]
        self.late += len(dropped)
        if not frames:
            return dropped
        first = frames[0][0]
        if self._origin is None:
            self._origin, self._delay = now + self.preroll, -first
        margin = first + self._delay - self._slot(now)
        if margin < 0:
            late = ceil(-margin) + SLACK
            self.underruns += 1
            self._delay += late
            self._owed += late
            self._margins.clear()
            margin += late
        self._margins.append((now, margin))
        self._standing = {slot for slot in self._standing if slot > self._last}.union(standing)
        self._owed = self._owed if self._standing else 0
        self._queue = deque(sorted([*self._queue, *frames], key=lambda entry: entry[0]))
        excess = [self._queue.popleft()[1] for _ in range(len(self._queue) - self.capacity)]
        self.late += len(excess)
        # The rest leaves that much earlier; else, with a delay longer than the queue, nothing would ever be due.
        self._delay -= len(excess)
        self._owed = max(0, self._owed - len(excess))
        self._margins = deque((when, margin - len(excess)) for when, margin in self._margins)
        return dropped + excess

    def due(self) -> float | None:
        """When the next frame leaves; None while none waits."""
        return self.leaves(self._queue[0][0]) if self._queue else None

    def leaves(self, slot: int) -> float:
        """When the frame of a source slot leaves, with the present delay."""
        assert self._origin is not None, "no frame was put yet"
        return self._origin + (slot + self._delay) / self.fps

    def take(self, now: float) -> tuple[int, F, list[F]] | None:
        """The output slot and frame that leave by `now`, and what was dropped; None when none is due."""
        due = self.due()
        if due is None or now < due:
            return None
        dropped = self._drop_late(now)
        slot, frame = self._queue.popleft()
        self._last = slot
        output = slot + self._delay
        self.played += 1
        dropped += self._skip_standing() or self._catch_up(now)
        return output, frame, dropped

    def _drop_late(self, now: float) -> list[F]:
        """Drops all but the newest frame that is due: the caller took frames too slowly."""
        dropped: list[F] = []
        while len(self._queue) > 1 and self._queue[1][0] + self._delay <= floor(self._slot(now)):
            dropped.append(self._queue.popleft()[1])
        self.late += len(dropped)
        return dropped

    def _catch_up(self, now: float) -> list[F]:
        """Drops the next frame while chunks arrive earlier than needed."""
        while self._margins and now - self._margins[0][0] > self.window:
            self._margins.popleft()
        self._since_drop += 1
        enough = len(self._margins) > 1 and self._margins[0][0] + 0.5 * self.window < now
        if not enough or not self._queue or self._since_drop < self.stride:
            return []
        if min(margin for _, margin in self._margins) <= self.preroll * self.fps + SLACK:
            return []
        self._since_drop = 0
        return [self._skip()]

    def _skip_standing(self) -> list[F]:
        """Drops the next frames that only repeat one through a pause, as many as the pause has added to the delay."""
        dropped: list[F] = []
        while self._owed > 0 and self._queue and self._queue[0][0] in self._standing:
            self._owed -= 1
            dropped.append(self._skip())
        return dropped

    def _skip(self) -> F:
        """Drops the next frame, so that the rest leaves a slot earlier."""
        self._delay -= 1
        self.caught_up += 1
        self._margins = deque((when, margin - 1) for when, margin in self._margins)
        return self._queue.popleft()[1]

    def _slot(self, now: float) -> float:
        assert self._origin is not None, "no frame was put yet"
        return (now - self._origin) * self.fps
