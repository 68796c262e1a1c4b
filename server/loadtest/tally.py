"""What one load-test client saw, and what is said of it. Pure: takes the lines that the client tells."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean
from typing import Any

from pydantic import Field

from core.config import Config

FREEZE = 0.5
"""seconds without a new picture that are one"""


class Limits(Config):
    """What a session must hold to be counted as carried."""

    fps: float = Field(gt=0, le=1000)
    budget: float = Field(ge=0, le=3600)
    """seconds of latency at p95 beyond the fill of a chunk"""
    chunk_frames: int = Field(ge=1, le=1000)
    share: float = Field(0.95, ge=0, le=1)
    """of the frames that must come back"""

    @property
    def latency(self) -> float:
        """Seconds from input to output at p95, at most."""
        return self.chunk_frames / self.fps + self.budget


@dataclass(frozen=True)
class Back:
    """A frame that came back."""

    number: int
    sent: float
    at: float

    @property
    def latency(self) -> float:
        return self.at - self.sent


@dataclass
class Tally:
    """One client's frames: sent, back, back twice, not its own or out of order; and its chunks."""

    tag: int = 0
    fps: float = 16.0
    frames: list[Back] = field(default_factory=list)
    """each frame's first return, in order"""
    sent: int = 0
    wrong: int = 0
    repeated: int = 0
    unreadable: int = 0
    psnrs: list[float] = field(default_factory=list)
    rungs: Counter[str] = field(default_factory=Counter)
    chunks: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    """(when, report) of each chunk, from the data channel"""
    refusal: str | None = None
    failure: str | None = None
    ready: bool = False
    """whether its process has started and waits to connect"""
    opened: float | None = None
    last: int | None = None
    """number of the last frame that counts"""
    exit_code: int | None = None
    ended: bool = False
    visits: list[float | None] = field(default_factory=list)
    """seconds until the first frame of each session that was opened only to be closed; None when none came"""
    reasons: Counter[str] = field(default_factory=Counter)
    """why none came"""

    @property
    def over(self) -> bool:
        return self.ended or self.exit_code is not None or self.refusal is not None or self.failure is not None

    def take(self, line: dict[str, Any]) -> None:
        """Takes in one line."""
        match line["event"]:
            case "ready":
                self.ready = True
            case "opened":
                self.opened = line["at"]
            case "frames":
                self._take_frames(line)
            case "report":
                self._take_report(line["at"], line["report"])
            case "stopping":
                self.last = line["last"]
            case "refused":
                self.refusal = f"{line['status']} {line['code']}: {line['reason']}"
            case "failed":
                self.failure = line["reason"]
            case "visited":
                self._take_visit(line["seconds"], line.get("reason"))
            case "end":
                self.ended = True
                if line["ended_by_server"]:
                    self.failure = self.failure or "the server ended the session"

    def latencies(self, start: float = -math.inf, end: float = math.inf) -> list[float]:
        """Seconds from input to output of the frames that came back in [start, end)."""
        return [frame.latency for frame in self.frames if start <= frame.at < end]

    def gaps(self, start: float = -math.inf, end: float = math.inf) -> list[float]:
        """Seconds between new pictures, of those that begin in [start, end)."""
        times = [frame.at for frame in self.frames]
        return [b - a for a, b in pairwise(times) if start <= a < end]

    def after(self, moment: float, end: float) -> dict[str, float | None]:
        """What losing the device at `moment` meant until `end`: seconds without a new picture, until the first that
        passed and until the first that was restored again."""
        since = [(at - moment, chunk) for at, chunk in self.chunks if at > moment]
        passed = next((at for at, chunk in since if chunk["rung"] == "passthrough"), None)
        restored = [at for at, chunk in since if passed is not None and at > passed and chunk["rung"] != "passthrough"]
        until = moment + restored[0] if restored else end
        times = [moment, *(frame.at for frame in self.frames if moment < frame.at < until), until]
        return {
            "longest_gap": max(b - a for a, b in pairwise(times)),
            "passed_after": passed,
            "restored_after": restored[0] if restored else None,
        }

    def relieved(self, moment: float) -> dict[str, float | None]:
        """Seconds from `moment` to the first chunk at full quality, and the share of such among those from then on."""
        rungs = [(at - moment, chunk["rung"]) for at, chunk in self.chunks if at > moment]
        after = next((at for at, rung in rungs if rung == "full"), None)
        since = [rung == "full" for at, rung in rungs if after is not None and at >= after]
        return {"full_after": after, "full_share": round(fmean(since), 2) if since else None}

    def rate(self, start: float, end: float) -> float:
        """New pictures per second in [start, end)."""
        return sum(start <= frame.at < end for frame in self.frames) / (end - start)

    def complaint(self, limits: Limits, start: float, end: float) -> str | None:
        """What the session does not hold in [start, end), None when it holds all."""
        name, rate = f"session {self.tag + 1}", self.rate(start, end)
        if self.failure is not None:
            return f"{name}: {self.failure}"
        if self.wrong:
            return f"{name}: {self.wrong} wrong frames"
        if rate < limits.share * limits.fps:
            return f"{name}: {rate:.1f} frames per second, {limits.share:.0%} of {limits.fps:g} are due"
        p95 = quantile(self.latencies(start, end), 0.95)
        if p95 is not None and p95 > limits.latency:
            return f"{name}: p95 {1000 * p95:.0f} ms, {1000 * limits.latency:.0f} at most"
        longest = max(self.gaps(start, end), default=0.0)
        return f"{name}: a freeze of {longest:.2f} s" if longest > FREEZE else None

    def summary(self) -> dict[str, Any]:
        """The figures of the whole session."""
        latencies, gaps, numbers = self.latencies(), self.gaps(), [frame.number for frame in self.frames]
        span = self.frames[-1].at - self.frames[0].at if len(numbers) > 1 else 0.0
        lost = numbers[-1] - numbers[0] + 1 - len(numbers) if numbers else 0
        return {
            "fps": round((len(numbers) - 1) / span, 2) if span > 0 else 0.0,
            "frames_sent": self.sent,
            "frames_back": len(numbers),
            "frames_lost": lost,
            "frames_repeated": self.repeated,
            "frames_wrong": self.wrong,
            "frames_unreadable": self.unreadable,
            "latency_ms": {f"p{p}": milliseconds(quantile(latencies, p / 100)) for p in (50, 95, 99)},
            "server_latency_ms": {f"p{p}": quantile(self._server_latencies(), p / 100) for p in (50, 95)},
            "first_frame_ms": milliseconds(self._until_first()),
            "freezes": sum(gap > FREEZE for gap in gaps),
            "longest_gap_ms": milliseconds(max(gaps, default=None)),
            "psnr": round(fmean(self.psnrs), 2) if self.psnrs else None,
            "rungs": dict(self.rungs),
            "failure": self.failure,
        }

    def _take_frames(self, line: dict[str, Any]) -> None:
        self.unreadable += line["unreadable"]
        if self.last is None:
            self.sent = line["sent"]
        for number, tag, sent, at, psnr in line["back"]:
            self._take_frame(number, tag, sent, at)
            if psnr is not None:
                self.psnrs.append(psnr)

    def _take_frame(self, number: int, tag: int, sent: float | None, at: float) -> None:
        newest = self.frames[-1].number if self.frames else -1
        if tag != self.tag or sent is None or number < newest:
            self.wrong += 1
        elif number == newest:
            self.repeated += 1
        elif self.last is None or number <= self.last:
            self.frames.append(Back(number, sent, at))

    def _take_visit(self, seconds: float | None, reason: str | None) -> None:
        """The next session's numbers begin anew."""
        self.visits.append(seconds)
        if seconds is None:
            self.reasons[reason or "unknown"] += 1
        self.frames.clear()
        self.last = None

    def _take_report(self, at: float, report: dict[str, Any]) -> None:
        if "chunk" in report:
            self.rungs[report["rung"]] += 1
            self.chunks.append((at, report))

    def _server_latencies(self) -> list[float]:
        """Milliseconds that the first frame of each chunk spent in the server, as it tells itself."""
        return [report["latency_ms"] for _, report in self.chunks if report.get("latency_ms") is not None]

    def _until_first(self) -> float | None:
        return self.frames[0].at - self.opened if self.frames and self.opened is not None else None


def worst(tallies: Sequence[Tally], start: float, end: float) -> dict[str, Any]:
    """The worst session's figures in [start, end)."""
    p95s = [quantile(tally.latencies(start, end), 0.95) for tally in tallies]
    known = [p95 for p95 in p95s if p95 is not None]
    rates = [tally.rate(start, end) for tally in tallies] if end > start else []
    fps = round(min(rates), 2) if rates else None
    return {"fps": fps, "p95_ms": milliseconds(max(known, default=None))}


def quantile(values: Sequence[float], fraction: float) -> float | None:
    """The value that `fraction` of the values do not exceed; None of nothing."""
    if not values:
        return None
    return sorted(values)[min(math.ceil(fraction * len(values)), len(values)) - 1]


def milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 1)
