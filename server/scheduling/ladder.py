"""How good a session's next chunk may be. Pure: `now`, lateness and cost come in as arguments, in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from core.contract import Rung

RUNGS: tuple[Rung, ...] = get_args(Rung)
"""Best first. Each costs less than the one before it; the last costs the device nothing."""


def rungs_of(num_steps: int) -> tuple[Rung, ...]:
    """The rungs of a session with `num_steps` denoising steps: of one step, `one_step` is no other rung than `full`."""
    return tuple(rung for rung in RUNGS if num_steps != 1 or rung != "one_step")


def below(rung: Rung, rungs: tuple[Rung, ...] = RUNGS) -> Rung:
    """The next cheaper rung; `passthrough` is the lowest."""
    return rungs[min(rungs.index(rung) + 1, len(rungs) - 1)]


def above(rung: Rung, rungs: tuple[Rung, ...] = RUNGS) -> Rung:
    """The next better rung; `full` is the highest."""
    return rungs[max(rungs.index(rung) - 1, 0)]


@dataclass
class Ladder:
    """One session's rung: down when a deadline slips, up one when deadlines have held for `hold` seconds."""

    hold: float = 0.7
    """seconds without a slip before the next rung up is tried"""
    margin: float = 0.05
    """seconds before its deadline a chunk must be ready to count as held; in between, the rung stays"""
    rungs: tuple[Rung, ...] = RUNGS
    """those that differ for this session, best first"""
    rung: Rung = "full"
    since: float = float("-inf")
    """when the rung last changed, or a deadline last came close"""

    @property
    def next_up(self) -> Rung:
        """The rung that the session would climb to."""
        return above(self.rung, self.rungs)

    def adapt(self, num_steps: int) -> None:
        """Takes in the session's denoising steps; from a rung that is none any more it goes to the next one up."""
        rungs = rungs_of(num_steps)
        if self.rung not in rungs:
            self.rung = above(self.rung)
        self.rungs = rungs

    def choose(self, now: float, deadline: float, cost: Callable[[Rung], float], lowest: Rung = "passthrough") -> Rung:
        """The rung of a chunk about to start: the best, not above the session's, that `deadline` allows.

        `cost` tells the seconds a chunk takes on a rung. When none will do it is `lowest`: `x_init` for a
        chunk that opens a stream and cannot pass the device by. A chunk that must go lower takes its session
        one rung down.
        """
        candidates = self.rungs[self.rungs.index(self.rung) : self.rungs.index(lowest)]
        fits = [rung for rung in candidates if now + cost(rung) <= deadline]
        chosen = fits[0] if fits else lowest
        if self.rungs.index(chosen) > self.rungs.index(self.rung):
            self._move(now, below(self.rung, self.rungs))
        return chosen

    def observe(self, now: float, lateness: float, room: bool = True, fits: bool = True) -> Rung:
        """Takes in how late a chunk came (negative: ahead of its deadline) and returns the session's rung.

        `room`: the device has the time for this session on `next_up`; without, the session stays where it is.
        `fits`: it has the time for all sessions as they are; without, this one goes down before it is late.
        """
        if lateness > 0 or not fits:
            self._move(now, below(self.rung, self.rungs))
        elif lateness > -self.margin:
            self.since = now
        elif room and self.rung != "full" and now - self.since >= self.hold:
            self._move(now, self.next_up)
        return self.rung

    def _move(self, now: float, rung: Rung) -> None:
        self.rung, self.since = rung, now
