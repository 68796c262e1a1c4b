"""Whether the device can carry one more session, and which rung each session may have. Pure.

Decides from the costs of chunks (seconds) and from bytes. Memory alone is the wrong signal: a device with half of its
memory free may have no time left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean

from pydantic import Field

from core.config import Config
from core.contract import Rung
from server.scheduling.costs import CostModel, Workload
from server.scheduling.ladder import RUNGS, above, below, rungs_of


class AdmissionConfig(Config):
    reserve: float = Field(0.15, ge=0, lt=1)
    """fraction of the device's time that is kept free for jitter, guided chunks that meet, and openings"""
    max_sessions: int = Field(64, ge=1, le=10_000)
    """most sessions, whatever their cost: the device does not pay for codecs and sockets"""
    memory_bytes: int = Field(0, ge=0, lt=2**63)
    """device memory for the state of sessions; 0 does not count bytes"""
    overloaded: float = Field(1.4, ge=1, le=1000)
    """latency bound on an overloaded device, as a multiple of (chunk duration + chunk cost)"""
    retry_after: float = Field(10.0, gt=0, le=3600)
    """seconds that a refused client is told to wait while no session has ended yet"""


@dataclass(frozen=True)
class Admit:
    """The session may open."""

    load: float
    """fraction of the device's time that is taken with it"""


@dataclass(frozen=True)
class Refuse:
    """The session may not open now."""

    reason: str
    retry_after: float
    """seconds, for the header of the same name"""


SLACK = 0.1
"""load beyond the limit at which sessions still keep their rungs, since costs jitter"""


@dataclass
class _Open:
    workload: Workload
    bytes: int
    since: float
    rung: Rung = "full"


FITTING = 32
"""sessions beyond which nobody asks how many more would fit"""


@dataclass
class Admission:
    """The open sessions of one device, and the costs of their chunks."""

    config: AdmissionConfig = field(default_factory=AdmissionConfig)
    costs: CostModel = field(default_factory=CostModel)
    _open: dict[str, _Open] = field(default_factory=dict)
    _lifetimes: deque[float] = field(default_factory=lambda: deque(maxlen=32))
    """seconds that the last sessions were open"""

    def open(self, session_id: str, workload: Workload, now: float, session_bytes: int = 0) -> None:
        """Counts a session that was admitted."""
        if session_id in self._open:
            raise ValueError(f"session {session_id} is open already")
        if not self._open:
            self.costs.busy(now)
        self._open[session_id] = _Open(workload, session_bytes, now)

    def close(self, session_id: str, now: float) -> None:
        """Forgets a session; one that is not open is not an error."""
        session = self._open.pop(session_id, None)
        if session is not None:
            self._lifetimes.append(now - session.since)
        if not self._open:
            self.costs.idle()

    def change(self, session_id: str, workload: Workload, session_bytes: int | None = None) -> None:
        """A session's operator, solver or size changed, and its cost with it; its memory as well, when it is given."""
        session = self._open[session_id]
        session.workload = workload
        session.bytes = session.bytes if session_bytes is None else session_bytes

    def set_rung(self, session_id: str, rung: Rung) -> None:
        """A session went up or down its ladder."""
        self._open[session_id].rung = rung

    @property
    def ids(self) -> set[str]:
        """The sessions that are counted."""
        return set(self._open)

    def load(self, now: float) -> float:
        """Fraction of the device's time that the open sessions take on their present rungs."""
        return self._load(now, {session_id: s.rung for session_id, s in self._open.items()})

    def level(self, now: float, limit: float) -> Rung:
        """The fair share: the best rung on which all open sessions together stay within `limit`."""
        return next(rung for rung in RUNGS if self._load(now, dict.fromkeys(self._open, rung)) <= limit)

    def tightened(self, session_id: str, deadline: float, now: float) -> float:
        """The deadline of a chunk, or an earlier one on an overloaded device.

        Otherwise each chunk would wait until its budget is used up: latency would suffer beside quality.
        """
        if self.level(now, self._limit() + SLACK) == "full":
            return deadline
        workload = self._open[session_id].workload
        return deadline - (workload.budget - self._tight(workload))

    def _tight(self, workload: Workload) -> float:
        """A session's budget on an overloaded device."""
        alone = workload.period + self.costs.base(workload, "full", False)
        return min(workload.budget, self.config.overloaded * alone - workload.period)

    def room(self, session_id: str, rung: Rung, now: float) -> bool:
        """Whether a session may climb to `rung`: its fair share, or one rung above it if the reserve stays free.

        Without the share, the first session to climb would keep the room: equal sessions stayed on `full` and on
        `passthrough`.
        """
        return self._grants(session_id, rung, now, self._limit())

    def fits(self, session_id: str, now: float) -> bool:
        """Whether a session may stay on its rung. Laxer than `room`."""
        return self._grants(session_id, self._open[session_id].rung, now, self._limit() + SLACK)

    def _grants(self, session_id: str, rung: Rung, now: float, limit: float) -> bool:
        level, steps = self.level(now, limit), self._open[session_id].workload.num_steps
        if RUNGS.index(rung) >= RUNGS.index(level):
            return True
        if rung != above(own_rung(level, steps), rungs_of(steps)):
            return False
        rungs = {other: min(s.rung, level, key=RUNGS.index) for other, s in self._open.items()} | {session_id: rung}
        return self._load(now, rungs) <= limit and self._together(now, rungs)

    def _together(self, now: float, rungs: Mapping[str, Rung]) -> bool:
        """Whether the chunks of all sessions, arriving at once, are ready in time on these rungs, with reserve."""
        sessions = [(self._open[session_id].workload, rung) for session_id, rung in rungs.items()]
        seconds = sum(self.costs.cost(now, w, own_rung(rung, w.num_steps)) for w, rung in sessions)
        return seconds <= (1 - self.config.reserve) * min(self._tight(w) for w, _ in sessions)

    def _load(self, now: float, rungs: Mapping[str, Rung]) -> float:
        """Fraction of the device's time that the open sessions would take on these rungs."""
        sessions = ((self._open[session_id].workload, rung) for session_id, rung in rungs.items())
        return sum(self.costs.mean_cost(now, w, own_rung(rung, w.num_steps)) / w.period for w, rung in sessions)

    def decide(self, workload: Workload, now: float, session_bytes: int = 0) -> Admit | Refuse:
        """Whether one more session may open: all at full quality, all deadlines held, with reserve.

        The first session is never refused for its cost: on a slow device its ladder takes care of that.
        """
        sessions = [s.workload for s in self._open.values()] + [workload]
        load = sum(self.costs.mean_base(w, "full") / w.period for w in sessions) * self.costs.slowness(now)
        reason = self._no_place(session_bytes)
        if reason is None and self._open:
            reason = self._no_time(now, sessions, load)
        return Refuse(reason, self._retry_after()) if reason else Admit(load)

    def readmit(self, session_id: str, now: float) -> Admit | Refuse:
        """Whether an open session, whose workload has changed, would be admitted beside the others."""
        session = self._open.pop(session_id)
        try:
            return self.decide(session.workload, now, session.bytes)
        finally:
            self._open[session_id] = session

    def fitting(self, workload: Workload, now: float, session_bytes: int = 0) -> int:
        """How many more sessions of this workload would be admitted, up to `FITTING`. None of them is opened."""
        names = [f"\0{index}" for index in range(FITTING)]
        try:
            for index, name in enumerate(names):
                if isinstance(self.decide(workload, now, session_bytes), Refuse):
                    return index
                self._open[name] = _Open(workload, session_bytes, now)
            return len(names)
        finally:
            for name in names:
                self._open.pop(name, None)

    def _limit(self) -> float:
        """The load to stay within. A session that is alone disturbs no other: it need only keep pace."""
        return 1.0 if len(self._open) == 1 else 1 - self.config.reserve

    def _no_place(self, session_bytes: int) -> str | None:
        if len(self._open) >= self.config.max_sessions:
            most = self.config.max_sessions
            return "its one place is taken" if most == 1 else f"all its {most} places are taken"
        taken = sum(s.bytes for s in self._open.values())
        if self.config.memory_bytes and taken + session_bytes > self.config.memory_bytes:
            free = self.config.memory_bytes - taken
            return f"the device has {free / 2**20:.0f} MiB left, the session needs {session_bytes / 2**20:.0f}"
        return None

    def _no_time(self, now: float, sessions: list[Workload], load: float) -> str | None:
        """Tests the long run, and the moment when the chunks of all arrive at once, one of them guided."""
        if load > 1 - self.config.reserve:
            return f"the device would be {load:.0%} busy, at most {1 - self.config.reserve:.0%} is given out"
        plain = [self.costs.base(w, "full", False) for w in sessions]
        guided = [self.costs.base(w, "full", True) for w in sessions]
        extra = max(g - p for g, p in zip(guided, plain, strict=True))
        at_once = (sum(plain) + extra) * self.costs.slowness(now)
        budget = min(w.budget for w in sessions)
        if at_once > budget:
            return f"chunks that come at once would take {at_once:.2f} s, the budget is {budget:.2f} s"
        return None

    def _retry_after(self) -> float:
        """The expected wait for the next session to end, from how long sessions last."""
        if not self._lifetimes or not self._open:
            return self.config.retry_after
        return min(60.0, max(1.0, fmean(self._lifetimes) / len(self._open)))


def own_rung(rung: Rung, num_steps: int) -> Rung:
    """Maps a rung to the nearest one, at or below it, that a session with `num_steps` has."""
    return rung if rung in rungs_of(num_steps) else below(rung)


def place(devices: list[Admission], workload: Workload, now: float, session_bytes: int = 0) -> int | Refuse:
    """Which of several devices takes a session: the least loaded that admits it, or the soonest refusal."""
    answers = [device.decide(workload, now, session_bytes) for device in devices]
    admitting = [(answer.load, index) for index, answer in enumerate(answers) if isinstance(answer, Admit)]
    if admitting:
        return min(admitting)[1]
    return min((answer for answer in answers if isinstance(answer, Refuse)), key=lambda refusal: refusal.retry_after)
