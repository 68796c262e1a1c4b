"""Counters and recent figures, as data. Pure: no I/O, no clock; whoever counts brings the time."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from itertools import accumulate
from typing import Literal, get_args


def percentile(values: Iterable[float], share: float) -> float | None:
    """The smallest value that at least `share` of the values do not exceed; None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass
class Recent:
    """The values of the last `window` seconds, at most `limit` of them."""

    window: float = 30.0
    limit: int = 2000
    _values: deque[tuple[float, float]] = field(default_factory=deque)

    def add(self, value: float, now: float) -> None:
        self._values.append((now, value))
        while len(self._values) > self.limit:
            self._values.popleft()

    def values(self, now: float) -> list[float]:
        while self._values and now - self._values[0][0] > self.window:
            self._values.popleft()
        return [value for _, value in self._values]

    def rate(self, now: float) -> float:
        """Values a second, over the time they span."""
        values = self.values(now)
        if len(values) < 2:
            return 0.0
        return (len(values) - 1) / max(1e-3, now - self._values[0][0])

    def summary(self, now: float) -> dict[str, float | None]:
        values = self.values(now)
        return {name: percentile(values, share) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}


BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
"""seconds; close together where the latency of a chunk lies"""


RATIOS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""of residuals, |y - A(x)| over |y|"""
LIVES = (1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
"""seconds that sessions live"""

EndCode = Literal[
    "client",
    "connection",
    "timeout",
    "full",
    "taken_over",
    "unwatched",
    "chunk_failed",
    "device_lost",
    "shutdown",
    "fault",
]
"""why a session ended: `connection` failed or was closed, `timeout` of any deadline, `full`: too large to be carried,
`unwatched`: a source that nobody plays any more, `fault` of ours"""
END_CODES: tuple[EndCode, ...] = get_args(EndCode)


@dataclass
class Histogram:
    """How many values, durations in seconds unless its bounds are others, lie below which bound."""

    bounds: tuple[float, ...] = BOUNDS
    sum: float = 0.0
    counts: Counter[float | None] = field(default_factory=Counter)
    """by the least bound that is not exceeded; None beyond the last"""

    def add(self, value: float) -> None:
        place = bisect_left(self.bounds, value)
        self.counts[self.bounds[place] if place < len(self.bounds) else None] += 1
        self.sum += value

    def absorb(self, other: Histogram) -> None:
        self.counts.update(other.counts)
        self.sum += other.sum

    def cumulative(self) -> list[tuple[float | None, int]]:
        """For each bound, and then for no bound: how many do not exceed it."""
        bounds = (*self.bounds, None)
        return list(zip(bounds, accumulate(self.counts[bound] for bound in bounds), strict=True))


@dataclass
class SessionFigures:
    """What one session counts. A frame that came is, in the end, left or one kind of dropped."""

    frames_in: int = 0
    frames_repeated: int = 0
    """frames made up by repeating, where the source was slower than the session"""
    frames_lost: int = 0
    """frames made up where the way lost one: masked where the chunk is restored, else repeated too"""
    resumed: int = 0
    """connections that took the place of a lost one"""
    frames_left: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """frames dropped, by why: `rate` (more than the session's rate), `overrun` (conversion fell behind),
    `gap` (an unfinished chunk before an interruption), `late` (their time had passed)"""
    chunks: Counter[str] = field(default_factory=Counter)
    """chunks by rung"""
    guided: int = 0
    shed: int = 0
    failed: int = 0
    device_losses: int = 0
    reports_dropped: int = 0
    """reports that a slow data channel did not take"""
    arrivals: Recent = field(default_factory=Recent)
    departures: Recent = field(default_factory=Recent)
    latency_ms: Recent = field(default_factory=Recent)
    """from a frame's arrival to its departure, lately"""
    latency: Histogram = field(default_factory=Histogram)
    """the same in seconds, since the beginning"""
    first_frame: Histogram = field(default_factory=Histogram)
    """seconds from the offer to the first frame that left: one value of one session"""
    wire: Counter[str] = field(default_factory=Counter)
    """what happened to packets on the connections that are over, by the names of ReceptionCounters"""

    def left(self, latency: float, now: float) -> None:
        """A frame left, `latency` seconds after it came."""
        self.frames_left += 1
        self.departures.add(1.0, now)
        self.latency_ms.add(1000 * latency, now)
        self.latency.add(latency)

    def setbacks(self) -> dict[str, int]:
        """What went wrong so far: frames dropped, by why, and chunks shed, passed through or failed; no zeros."""
        chunks = {"shed": self.shed, "passed": self.chunks["passthrough"], "failed": self.failed}
        return {name: value for name, value in {**self.dropped, **chunks}.items() if value}

    def absorb(self, other: SessionFigures) -> None:
        """Adds what another session counted; what it did lately is left out."""
        for one in fields(self):
            mine, others = getattr(self, one.name), getattr(other, one.name)
            if isinstance(mine, int):
                setattr(self, one.name, mine + others)
            elif isinstance(mine, Counter):
                mine.update(others)
            elif isinstance(mine, Histogram):
                mine.absorb(others)

    def summary(self, now: float) -> dict[str, object]:
        """What the log tells of a session when it ends."""
        recent = self.latency_ms.summary(now)
        return {
            "frames_in": self.frames_in,
            "frames_out": self.frames_left,
            "frames_dropped": sum(self.dropped.values()),
            "frames_lost": self.frames_lost,
            "chunks": sum(self.chunks.values()),
            "chunks_passed": self.chunks["passthrough"],
            "chunks_shed": self.shed,
            "latency_p50_ms": recent["p50"] and round(recent["p50"]),
            "latency_p95_ms": recent["p95"] and round(recent["p95"]),
        }

    def as_dict(self, now: float) -> dict[str, object]:
        return {
            "frames": {
                "in": self.frames_in,
                "repeated": self.frames_repeated,
                "lost": self.frames_lost,
                "out": self.frames_left,
                "dropped": dict(self.dropped),
            },
            "chunks": {
                "by_rung": dict(self.chunks),
                "guided": self.guided,
                "shed": self.shed,
                "failed": self.failed,
            },
            "resumed": self.resumed,
            "device_losses": self.device_losses,
            "reports_dropped": self.reports_dropped,
            "fps_in": round(self.arrivals.rate(now), 2),
            "fps_out": round(self.departures.rate(now), 2),
            "latency_ms": self.latency_ms.summary(now),
        }
