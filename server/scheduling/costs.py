"""What a chunk costs on one device, in seconds: measured at warm-up, and corrected by every chunk since. Pure.

A cost is a base (the cost at warm-up speed, by kind of chunk) times a slowness (how much slower the device is now).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import exp, log

from pydantic import Field

from core.config import Config
from core.contract import Rung
from server.scheduling.ladder import above


class Workload(Config):
    """What a session asks of a device: one chunk of this kind every period."""

    model: str
    width: int = Field(gt=0, le=99_999)
    """restored pixels"""
    height: int = Field(gt=0, le=99_999)
    num_steps: int = Field(2, ge=1, le=64)
    """denoising steps per chunk, K"""
    reinject_every: int = Field(7, ge=0, le=1000)
    """every n-th chunk is guided; 0 guides the first only"""
    fps: float = Field(16, gt=0, le=1000)
    frames: int = Field(12, gt=0, le=1000)
    """frames per chunk"""
    budget: float = Field(0.75, gt=0, le=3600)
    """seconds from a chunk's last frame to its deadline"""

    @property
    def period(self) -> float:
        """Seconds from chunk to chunk."""
        return self.frames / self.fps


class CostConfig(Config):
    """How fast measurements change the expected costs."""

    smoothing: float = Field(1.5, gt=0, le=3600)
    """seconds over which the device's slowness is averaged"""
    surprise: float = Field(6.0, gt=1, le=1000)
    """outlier clip: one chunk counts as at most this multiple of its expected cost"""
    memory: float = Field(2.0, gt=0, le=3600)
    """seconds without a measurement after which a measured slowness starts to fade, halving in each such interval"""


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
"""Prior cost of a chunk relative to a full unguided one, by rung and whether it is guided."""

ON_CALENDAR: tuple[Rung, ...] = ("full", "one_step")
"""The rungs on which the calendar guides chunks."""

MOST_TRIES = 16
"""Upper bound of the back-off between trials, as a multiple of the first wait."""

LEARNED = 0.2
"""Learning rate towards the measured cost, per chunk."""

_Key = tuple[str, int, int, int, int, Rung, bool]
"""model, width, height, frames, num_steps, rung, guided"""


@dataclass
class CostModel:
    """The costs of all kinds of chunks on one device."""

    config: CostConfig = field(default_factory=CostConfig)
    _costs: dict[_Key, float] = field(default_factory=dict)
    """base of each kind: seconds at warm-up speed"""
    _calibrated: set[_Key] = field(default_factory=set)
    _slowness: float = 1.0
    """how much slower chunks are now than at warm-up: a busy machine, a hot card"""
    _measured_at: float = float("-inf")
    _sure_at: float = float("-inf")
    """when a chunk of a calibrated kind was last measured"""
    _tries: int = 1
    """back-off of trials: doubled by each chunk on x_init that was too slow, 1 again after one that was not"""
    _model_slowness: float = float("inf")
    """slowness that the last chunk with a part of the model showed"""
    _low_since: float = float("-inf")
    """since when all chunks were on x_init, and in time"""
    _busy_since: float | None = None
    """since when sessions have been open; None while there are none"""

    def calibrate(self, workload: Workload, seconds: float, rung: Rung = "full", guided: bool = False) -> None:
        """Sets what a chunk takes on the undisturbed device, as warm-up measured it."""
        if seconds <= 0:
            raise ValueError(f"a chunk takes more than 0 seconds, not {seconds}")
        self._costs[_key(workload, rung, guided)] = seconds
        self._calibrated.add(_key(workload, rung, guided))

    def busy(self, now: float) -> None:
        """The first session opens: from now on chunks are expected, and their absence counts as silence."""
        self._busy_since = now

    def idle(self) -> None:
        """The last session has closed."""
        self._busy_since = None

    def measure(
        self, now: float, workload: Workload, seconds: float, rung: Rung = "full", guided: bool = False
    ) -> None:
        """Takes in what a chunk took: updates the slowness, and the base of a kind that warm-up did not measure."""
        key, base = _key(workload, rung, guided), self.base(workload, rung, guided)
        if base == 0:
            if rung == "full":
                self._costs[key] = seconds
            return
        slowness = self.slowness(now)
        error = log(min(max(seconds / base / slowness, 1 / self.config.surprise), self.config.surprise))
        if key not in self._calibrated:
            self._learn(now, key, base, error)
        weight = self._weight(now, error)
        self._update_trials(now, rung, seconds / base, seconds > workload.budget)
        self._slowness = slowness * exp(weight * error)
        self._measured_at = now
        self._sure_at = now if key in self._calibrated else self._sure_at

    def slowness(self, now: float) -> float:
        """How much slower the device is than at warm-up. Without measurements it gradually returns to 1."""
        if self._slowness <= 1:
            return self._slowness
        return 1 + (self._slowness - 1) * self._remembered(now, self._measured_at)

    def cost(self, now: float, workload: Workload, rung: Rung = "full", guided: bool = False) -> float:
        """Seconds that one chunk on `rung` takes at `now`; 0 for a model of which nothing was measured."""
        return self._trial_cost(now, workload, rung, self.base(workload, rung, guided) * self._pace(now))

    def mean_cost(self, now: float, workload: Workload, rung: Rung = "full") -> float:
        """Seconds per chunk on `rung`, the guided ones averaged in."""
        return self._trial_cost(now, workload, rung, self.mean_base(workload, rung) * self._pace(now))

    def mean_base(self, workload: Workload, rung: Rung) -> float:
        """Seconds per chunk on `rung` at warm-up speed, the guided ones averaged in."""
        plain = self.base(workload, rung, False)
        if rung not in ON_CALENDAR or workload.reinject_every == 0:
            return plain
        return plain + (self.base(workload, rung, True) - plain) / workload.reinject_every

    def base(self, workload: Workload, rung: Rung, guided: bool) -> float:
        """Seconds of a chunk at warm-up speed: measured, or by ratio to the full chunk, or scaled from another size.

        Capped at the cost of the next better rung; otherwise one slow chunk would block climbing forever.
        """
        known = self._costs.get(_key(workload, rung, guided))
        base = self._prior(workload, rung, guided) if known is None else known
        return base if rung == "full" else min(base, self.base(workload, above(rung), guided))

    # --- the slowness, and when a slow device is tried again ---------------------------------------

    def _remembered(self, now: float, since: float) -> float:
        """The part of a measurement that still counts: all of it for one memory, then half in each further one."""
        memory = self.config.memory * self._tries
        return float(0.5 ** (max(0.0, now - since - memory) / memory))

    def _pace(self, now: float) -> float:
        """The slowness that rungs are chosen by. It falls while sessions are open and nothing is measured.

        So a device that was measured too slow for anything is tried again. Each trial that is late doubles the wait
        for the next one, since it costs its session latency.
        """
        if self._busy_since is None:
            return self.slowness(now)
        return self.slowness(now) * self._remembered(now, max(self._measured_at, self._busy_since))

    def _trial_cost(self, now: float, workload: Workload, rung: Rung, seconds: float) -> float:
        """`seconds`, or an optimistic cost for one trial chunk.

        The latter only when x_init alone has run lately and the last model chunk suggested a device at least twice as
        slow as x_init now measures: warm-up or that chunk may have been wrong, and only a trial can tell.
        """
        if rung == "x_init" or self._busy_since is None:
            return seconds
        waited = now - max(self._low_since, self._busy_since) > self.config.memory
        if not waited or self.slowness(now) >= self._model_slowness / 2:
            return seconds
        return min(seconds, max(seconds / self.config.surprise, workload.period / 2))  # one session fits half a period

    def _update_trials(self, now: float, rung: Rung, slowness: float, late: bool) -> None:
        """Updates the state that decides when a slow device is tried again."""
        if rung == "x_init":
            self._tries = min(2 * self._tries, MOST_TRIES) if late else 1
        else:
            self._model_slowness = slowness
        if rung != "x_init" or late or now - self._measured_at > self.config.memory:
            self._low_since = now

    def _weight(self, now: float, error: float) -> float:
        """How far a measurement moves the slowness: by the time since the last one, more for a large change."""
        elapsed = (now - self._measured_at) / self.config.smoothing
        return 1 - exp(-min(1.0, elapsed) * (1 + (error / 0.5) ** 2))

    # --- the bases ---------------------------------------------------------------------------------

    def _prior(self, workload: Workload, rung: Rung, guided: bool) -> float:
        """The expected base of a kind that was not measured."""
        if (rung, guided) == ("full", False):
            return self._scaled(workload, rung, self._costs.keys())
        warmed_up = self._scaled(workload, rung, self._calibrated) if rung == "x_init" else 0.0
        return warmed_up or self.base(workload, "full", False) * ratio(rung, guided, workload.num_steps)

    def _learn(self, now: float, key: _Key, base: float, error: float) -> None:
        """Moves the base of a kind towards what was measured.

        Learns nothing unless a calibrated kind was measured lately: a costly kind and a slow device look alike.
        """
        if now - self._sure_at <= self.config.memory:
            self._costs[key] = base * exp(LEARNED * error)

    def _scaled(self, workload: Workload, rung: Rung, keys: Iterable[_Key]) -> float:
        """From the chunk on `rung`, of those in `keys`, nearest in length, then in pixels: by both and by passes."""
        model, width, height, length, passes, _, _ = _key(workload, rung, False)
        pixels = width * height
        known = [
            (
                (abs(frames - length), abs(w * h - pixels)),
                self._costs[key] * pixels / (w * h) * length / frames * (passes + 1) / (steps + 1),
            )
            for key in keys
            for name, w, h, frames, steps, kind, guided in [key]
            if (name, kind, guided) == (model, rung, False)
        ]
        return min(known)[1] if known else 0.0


def ratio(rung: Rung, guided: bool, num_steps: int) -> float:
    """Cost relative to a full unguided chunk with the same number of steps."""
    if num_steps > 1 or rung in ("x_init", "passthrough"):
        return RATIOS[rung, guided]
    return RATIOS["one_step", guided] / RATIOS["one_step", False]


def _key(workload: Workload, rung: Rung, guided: bool) -> _Key:
    shape = workload.model, workload.width, workload.height, workload.frames
    if rung == "x_init":  # the model has no part in it
        return *shape, 0, rung, False
    return *shape, workload.num_steps, rung, guided
