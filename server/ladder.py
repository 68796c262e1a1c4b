"""How good a session's next chunk may be. Pure: `now`, lateness and cost come in as arguments, in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from core.solver import Rung

RUNGS: tuple[Rung, ...] = get_args(Rung)
"""Best first. Each costs less than the one before it; the last costs the device nothing."""


def below(rung: Rung) -> Rung:
    """The next cheaper rung; `passthrough` is the lowest."""
    return RUNGS[min(RUNGS.index(rung) + 1, len(RUNGS) - 1)]


def above(rung: Rung) -> Rung:
    """The next better rung; `full` is the highest."""
    return RUNGS[max(RUNGS.index(rung) - 1, 0)]


@dataclass
class Ladder:
    """One session's rung: down when a deadline slips, up one when deadlines have held for `hold` seconds."""

    hold: float = 0.7
    """seconds without a slip before the next rung up is tried"""
    margin: float = 0.05
    """seconds before its deadline a chunk must be ready to count as held; in between, the rung stays"""
    rung: Rung = "full"
    since: float = float("-inf")
    """when the rung last changed, or a deadline last came close"""

    @property
    def next_up(self) -> Rung:
        """The rung that the session would climb to."""
        return above(self.rung)

    def choose(self, now: float, deadline: float, cost: Callable[[Rung], float], lowest: Rung = "passthrough") -> Rung:
        """The rung of a chunk about to start: the best, not above the session's, that `deadline` allows.

        `cost` tells the seconds a chunk takes on a rung. When none will do it is `lowest`: `x_init` for a
        chunk that opens a stream and cannot pass the device by. A chunk that must go lower takes its session
        one rung down.
        """
        candidates = RUNGS[RUNGS.index(self.rung) : RUNGS.index(lowest)]
        fits = [rung for rung in candidates if now + cost(rung) <= deadline]
        chosen = fits[0] if fits else lowest
        if RUNGS.index(chosen) > RUNGS.index(self.rung):
            self._move(now, below(self.rung))
        return chosen

    def observe(self, now: float, lateness: float, room: bool = True, fits: bool = True) -> Rung:
        """Takes in how late a chunk came (negative: ahead of its deadline) and returns the session's rung.

        `room`: the device has the time for this session on `next_up`; without, the session stays where it is.
        `fits`: it has the time for all sessions as they are; without, this one goes down before it is late.
        """
        if lateness > 0 or not fits:
            self._move(now, below(self.rung))
        elif lateness > -self.margin:
            self.since = now
        elif room and self.rung != "full" and now - self.since >= self.hold:
            self._move(now, above(self.rung))
        return self.rung

    def _move(self, now: float, rung: Rung) -> None:
        self.rung, self.since = rung, now
