"""Whether the device can carry one more session. Pure: decides from measured chunk costs (s) and bytes.

Memory alone is the wrong signal: a device with half of its memory free may have no time left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import exp, log, sqrt
from statistics import fmean

from pydantic import Field

from core.config import Config
from core.contract import Rung
from server.scheduling.ladder import RUNGS, above, below, rungs_of


class Workload(Config):
    """What a session asks of a device: one chunk of this kind every period."""

    model: str
    width: int = Field(gt=0)
    """restored pixels"""
    height: int = Field(gt=0)
    num_steps: int = Field(2, ge=1)
    """denoising steps per chunk, K"""
    reinject_every: int = Field(7, ge=0)
    """every n-th chunk is guided; 0 guides the first only"""
    fps: float = Field(16, gt=0)
    frames: int = Field(12, gt=0)
    """frames per chunk"""
    budget: float = Field(0.75, gt=0)
    """seconds from a chunk's last frame to its deadline"""

    @property
    def period(self) -> float:
        """Seconds from chunk to chunk."""
        return self.frames / self.fps


class AdmissionConfig(Config):
    reserve: float = Field(0.15, ge=0, lt=1)
    """fraction of the device's time that is kept free for jitter, guided chunks that meet, and openings"""
    max_sessions: int = Field(64, ge=1)
    """sessions at most, whatever their cost: codecs and sockets are not the device's"""
    memory_bytes: int = Field(0, ge=0)
    """device memory for the state of sessions; 0 does not count bytes"""
    smoothing: float = Field(1.5, gt=0)
    """seconds over which the device's slowness is averaged"""
    surprise: float = Field(6.0, gt=1)
    """times what was expected that one chunk can tell at most: it may have taken long for once"""
    overloaded: float = Field(1.4, ge=1)
    """times the fill and the cost of a chunk that its latency may be on an overloaded device"""
    spread: float = Field(3.0, ge=1)
    """factor within which the cost of a kind of chunk that warm-up did not measure is learned"""
    memory_of_slowness: float = Field(2.0, gt=0)
    """seconds without a measurement after which the device is trusted again, by halves"""
    retry_after: float = Field(10.0, gt=0)
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


RATIOS: dict[tuple[Rung, bool], float] = {
    ("full", False): 1.0,
    ("full", True): 2.5,
    ("one_step", False): 0.7,
    ("one_step", True): 1.5,
    ("no_reinjection", False): 0.7,
    ("no_reinjection", True): 1.5,
    ("x_init", False): 0.2,
    ("x_init", True): 0.2,
    ("passthrough", False): 0.0,
    ("passthrough", True): 0.0,
}
"""Cost of a chunk, by rung and whether it is guided, against a full unguided one: until it is measured."""

ON_CALENDAR: tuple[Rung, ...] = ("full", "one_step")
"""The rungs on which the calendar guides."""

MOST_TRIES = 16
"""times as long as at first that a device is left alone, at most, where it was tried in vain"""

LEARNED, FORGOTTEN = 0.2, 0.05
"""shares of what a chunk took beside what was expected that are taken into the cost of its kind, and given back"""

SLACK = 0.1
"""load beyond the limit on which sessions still stay as they are, as costs jitter"""

_Key = tuple[str, int, int, int, Rung, bool]
"""model, width, height, num_steps, rung, guided"""


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
    """The measured costs and the open sessions of one device."""

    config: AdmissionConfig = field(default_factory=AdmissionConfig)
    _costs: dict[_Key, float] = field(default_factory=dict)
    """seconds a chunk of a kind takes on the device at its warm-up speed"""
    _calibrated: set[_Key] = field(default_factory=set)
    _slowness: float = 1.0
    """how much slower chunks are now than then: a busy machine, a hot card"""
    _measured_at: float = float("-inf")
    _sure_at: float = float("-inf")
    """when a chunk of a kind that was calibrated came last"""
    _tries: int = 1
    """doubled by each chunk on x_init that was too slow, 1 again after one that was not"""
    _model_slowness: float = float("inf")
    """that of the last chunk which the model had a part in"""
    _low_since: float = float("-inf")
    """since when all chunks were on x_init, and in time"""
    _busy_since: float = float("-inf")
    """when the first of the open sessions came"""
    _open: dict[str, _Open] = field(default_factory=dict)
    _lifetimes: deque[float] = field(default_factory=lambda: deque(maxlen=32))
    """seconds that the last sessions were open"""

    def calibrate(self, workload: Workload, seconds: float, rung: Rung = "full", guided: bool = False) -> None:
        """Sets what a chunk takes on the undisturbed device, as warm-up measured it."""
        if seconds <= 0:
            raise ValueError(f"a chunk takes more than 0 seconds, not {seconds}")
        self._costs[_key(workload, rung, guided)] = seconds
        self._calibrated.add(_key(workload, rung, guided))

    def measure(
        self, now: float, workload: Workload, seconds: float, rung: Rung = "full", guided: bool = False
    ) -> None:
        """Takes in what a chunk took: how slow the device is, and the cost of a kind that warm-up did not measure."""
        key, base = _key(workload, rung, guided), self._base(workload, rung, guided)
        if base == 0:
            if rung == "full":
                self._costs[key] = seconds
            return
        slowness = self.slowness(now)
        error = log(min(max(seconds / base / slowness, 1 / self.config.surprise), self.config.surprise))
        if key not in self._calibrated:
            self._learn(now, key, base, self._prior(workload, rung, guided), error)
        weight = self._weight(now, error) * sqrt(base / self._base(workload, "full", guided))
        self._note(now, rung, seconds / base, seconds > workload.budget)
        self._slowness = slowness * exp(weight * error)
        self._measured_at = now
        self._sure_at = now if key in self._calibrated else self._sure_at

    def _note(self, now: float, rung: Rung, slowness: float, late: bool) -> None:
        """Keeps what tells whether a try is worth its while: of x_init after a silence, of the model after x_init."""
        if rung == "x_init":
            self._tries = min(2 * self._tries, MOST_TRIES) if late else 1
        else:
            self._model_slowness = slowness
        if rung != "x_init" or late or now - self._measured_at > self.config.memory_of_slowness:
            self._low_since = now

    def slowness(self, now: float) -> float:
        """How much slower the device is than at its warm-up; without news it is trusted again by and by."""
        if self._slowness <= 1:
            return self._slowness
        return 1 + (self._slowness - 1) * self._remembered(now, self._measured_at)

    def _remembered(self, now: float, since: float) -> float:
        """The part of a measurement that still counts: all of it for a while, then half in each such while."""
        memory = self.config.memory_of_slowness * self._tries
        return float(0.5 ** (max(0.0, now - since - memory) / memory))

    def _pace(self, now: float) -> float:
        """The slowness that rungs are chosen by. It falls while sessions are open and nothing is measured.

        So a device that was measured too slow for anything is tried again, and not passed by for ever; each
        time in vain it is given twice as long, since a try that is late costs its session latency.
        """
        if not self._open:
            return self.slowness(now)
        return self.slowness(now) * self._remembered(now, max(self._measured_at, self._busy_since))

    def _hoped(self, now: float, workload: Workload, rung: Rung, seconds: float) -> float:
        """`seconds`, or less where only a try can tell: chunks are on x_init alone, and the model's own last one, if
        there was one, found the device twice as slow as x_init does.
        """
        waited = now - max(self._low_since, self._busy_since) > self.config.memory_of_slowness
        doubted = waited and self.slowness(now) < self._model_slowness / 2
        if rung == "x_init" or not self._open or not doubted:
            return seconds
        hoped = max(seconds / self.config.surprise, workload.period / 2)  # at half a period one session has room
        return min(seconds, hoped)

    def cost(self, now: float, workload: Workload, rung: Rung = "full", guided: bool = False) -> float:
        """Seconds that one chunk on `rung` takes at `now`; 0 for a model of which nothing was measured."""
        return self._hoped(now, workload, rung, self._base(workload, rung, guided) * self._pace(now))

    def mean_cost(self, now: float, workload: Workload, rung: Rung = "full") -> float:
        """Seconds per chunk on `rung`, the guided ones averaged in."""
        return self._hoped(now, workload, rung, self._mean_base(workload, rung) * self._pace(now))

    def open(self, session_id: str, workload: Workload, now: float, session_bytes: int = 0) -> None:
        """Counts a session that was admitted."""
        if session_id in self._open:
            raise ValueError(f"session {session_id} is open already")
        if not self._open:
            self._busy_since = now
        self._open[session_id] = _Open(workload, session_bytes, now)

    def close(self, session_id: str, now: float) -> None:
        """Forgets a session; one that is not open is no error."""
        session = self._open.pop(session_id, None)
        if session is not None:
            self._lifetimes.append(now - session.since)

    def change(self, session_id: str, workload: Workload) -> None:
        """A session's operator or solver changed, and its cost with it."""
        self._open[session_id].workload = workload

    def set_rung(self, session_id: str, rung: Rung) -> None:
        """A session went up or down its ladder."""
        self._open[session_id].rung = rung

    @property
    def ids(self) -> set[str]:
        """The sessions that are counted."""
        return set(self._open)

    def load(self, now: float) -> float:
        """Fraction of the device's time that the open sessions take on the rungs they are on."""
        return self._load(now, {session_id: s.rung for session_id, s in self._open.items()})

    def level(self, now: float, limit: float) -> Rung:
        """The fair share: the best rung on which all open sessions together stay within `limit`."""
        return next(rung for rung in RUNGS if self._load(now, dict.fromkeys(self._open, rung)) <= limit)

    def tightened(self, session_id: str, deadline: float, now: float) -> float:
        """When a chunk with that deadline is wanted from the device: at its deadline, or sooner on an overloaded one.

        Else each chunk would wait until its budget is used up, and latency would pay beside quality.
        """
        if self.level(now, self._limit() + SLACK) == "full":
            return deadline
        workload = self._open[session_id].workload
        return deadline - (workload.budget - self._tight(workload))

    def _tight(self, workload: Workload) -> float:
        """A session's budget on an overloaded device."""
        alone = workload.period + self._base(workload, "full", False)
        return min(workload.budget, self.config.overloaded * alone - workload.period)

    def room(self, session_id: str, rung: Rung, now: float) -> bool:
        """Whether a session may climb to `rung`: its fair share, or one more where the device has its reserve
        with all others on theirs.

        Without the share, whoever climbed first kept the room: equal sessions stayed on `full` and `passthrough`.
        """
        return self._grants(session_id, rung, now, self._limit())

    def fits(self, session_id: str, now: float) -> bool:
        """Whether a session may stay on its rung. Laxer than `room`."""
        return self._grants(session_id, self._open[session_id].rung, now, self._limit() + SLACK)

    def _grants(self, session_id: str, rung: Rung, now: float, limit: float) -> bool:
        level, steps = self.level(now, limit), self._open[session_id].workload.num_steps
        if RUNGS.index(rung) >= RUNGS.index(level):
            return True
        if rung != above(share(level, steps), rungs_of(steps)):
            return False
        rungs = {other: min(s.rung, level, key=RUNGS.index) for other, s in self._open.items()} | {session_id: rung}
        return self._load(now, rungs) <= limit and self._together(now, rungs)

    def _together(self, now: float, rungs: Mapping[str, Rung]) -> bool:
        """Whether the chunks of all sessions are ready in time on these rungs when they come at once, with reserve."""
        sessions = [(self._open[session_id].workload, rung) for session_id, rung in rungs.items()]
        seconds = sum(self.cost(now, w, share(rung, w.num_steps)) for w, rung in sessions)
        return seconds <= (1 - self.config.reserve) * min(self._tight(w) for w, _ in sessions)

    def _load(self, now: float, rungs: Mapping[str, Rung]) -> float:
        """Fraction of the device's time that the open sessions would take on these rungs."""
        sessions = ((self._open[session_id].workload, rung) for session_id, rung in rungs.items())
        return sum(self.mean_cost(now, w, share(rung, w.num_steps)) / w.period for w, rung in sessions)

    def decide(self, workload: Workload, now: float, session_bytes: int = 0) -> Admit | Refuse:
        """Whether one more session may open: all at full quality, all deadlines held, with reserve.

        The first session is never refused for its cost: on a slow device its ladder answers.
        """
        sessions = [s.workload for s in self._open.values()] + [workload]
        load = sum(self._mean_base(w, "full") / w.period for w in sessions) * self.slowness(now)
        reason = self._no_place(session_bytes)
        if reason is None and self._open:
            reason = self._no_time(now, sessions, load)
        return Refuse(reason, self._retry_after()) if reason else Admit(load)

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
        """Tests the long run, and the moment when the chunks of all come at once, one of them guided."""
        if load > 1 - self.config.reserve:
            return f"the device would be {load:.0%} busy, at most {1 - self.config.reserve:.0%} is given out"
        plain = [self._base(w, "full", False) for w in sessions]
        guided = [self._base(w, "full", True) for w in sessions]
        extra = max(g - p for g, p in zip(guided, plain, strict=True))
        at_once = (sum(plain) + extra) * self.slowness(now)
        budget = min(w.budget for w in sessions)
        if at_once > budget:
            return f"chunks that come at once would take {at_once:.2f} s, the budget is {budget:.2f} s"
        return None

    def _retry_after(self) -> float:
        """The expected wait for the next session to end, from how long sessions last."""
        if not self._lifetimes or not self._open:
            return self.config.retry_after
        return min(60.0, max(1.0, fmean(self._lifetimes) / len(self._open)))

    def _mean_base(self, workload: Workload, rung: Rung) -> float:
        plain = self._base(workload, rung, False)
        if rung not in ON_CALENDAR or workload.reinject_every == 0:
            return plain
        return plain + (self._base(workload, rung, True) - plain) / workload.reinject_every

    def _base(self, workload: Workload, rung: Rung, guided: bool) -> float:
        """The cost at warm-up speed: measured, or by ratio to the full chunk, or scaled from another size.

        It is never more than that of a better rung: else one chunk that took long for once closed the way up.
        """
        known = self._costs.get(_key(workload, rung, guided))
        base = self._prior(workload, rung, guided) if known is None else known
        return base if rung == "full" else min(base, self._base(workload, above(rung), guided))

    def _prior(self, workload: Workload, rung: Rung, guided: bool) -> float:
        """What is expected of a kind that was not measured."""
        if (rung, guided) == ("full", False):
            return self._scaled(workload, rung, self._costs.keys())
        warmed_up = self._scaled(workload, rung, self._calibrated) if rung == "x_init" else 0.0
        return warmed_up or self._base(workload, "full", False) * ratio(rung, guided, workload.num_steps)

    def _learn(self, now: float, key: _Key, cost: float, prior: float, error: float) -> None:
        """Moves a cost towards what was measured, and back towards `prior`: few measurements prove little.

        Where no kind that warm-up measured came lately, nothing is learned: a costly kind looks like a slow device.
        """
        known = now - self._sure_at <= self.config.memory_of_slowness
        learned = cost * exp(LEARNED * error if known else 0.0) * (prior / cost) ** FORGOTTEN
        self._costs[key] = min(max(learned, prior / self.config.spread), prior * self.config.spread)

    def _weight(self, now: float, error: float) -> float:
        """How far a measurement moves the slowness: by the time since the last, more for a great change."""
        elapsed = (now - self._measured_at) / self.config.smoothing
        return 1 - exp(-min(1.0, elapsed) * (1 + (error / 0.5) ** 2))

    def _scaled(self, workload: Workload, rung: Rung, keys: Iterable[_Key]) -> float:
        """From the chunk on `rung`, of those in `keys`, that is nearest in pixels: by pixels and by passes."""
        pixels = workload.width * workload.height
        model, _, _, passes, _, _ = _key(workload, rung, False)
        known = [
            (abs(w * h - pixels), self._costs[key] * pixels / (w * h) * (passes + 1) / (steps + 1))
            for key in keys
            for name, w, h, steps, kind, guided in [key]
            if (name, kind, guided) == (model, rung, False)
        ]
        return min(known)[1] if known else 0.0


def ratio(rung: Rung, guided: bool, num_steps: int) -> float:
    """Cost against a full unguided chunk of as many steps: of one step, that is what one step costs."""
    if num_steps > 1 or rung in ("x_init", "passthrough"):
        return RATIOS[rung, guided]
    return RATIOS["one_step", guided] / RATIOS["one_step", False]


def share(rung: Rung, num_steps: int) -> Rung:
    """What a common rung is for a session of `num_steps`: the rung itself, or the next lower that is one for it."""
    return rung if rung in rungs_of(num_steps) else below(rung)


def _key(workload: Workload, rung: Rung, guided: bool) -> _Key:
    if rung == "x_init":  # the model has no part in it
        return workload.model, workload.width, workload.height, 0, rung, False
    return workload.model, workload.width, workload.height, workload.num_steps, rung, guided


def place(devices: list[Admission], workload: Workload, now: float, session_bytes: int = 0) -> int | Refuse:
    """Which of several devices takes a session: the least loaded that admits it, or the soonest refusal."""
    answers = [device.decide(workload, now, session_bytes) for device in devices]
    admitting = [(answer.load, index) for index, answer in enumerate(answers) if isinstance(answer, Admit)]
    if admitting:
        return min(admitting)[1]
    return min((answer for answer in answers if isinstance(answer, Refuse)), key=lambda refusal: refusal.retry_after)
