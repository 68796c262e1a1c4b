"""Whether one method is better than another on the same clips: paired differences and a sign test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb
from statistics import fmean


@dataclass(frozen=True)
class Paired:
    """`a` against `b` on the clips that both were run on."""

    differences: tuple[float, ...]
    """a - b of each clip"""

    @staticmethod
    def of(a: Mapping[str, float], b: Mapping[str, float]) -> Paired:
        """From the values of each by clip."""
        return Paired(tuple(a[clip] - b[clip] for clip in a if clip in b))

    @property
    def mean(self) -> float:
        return fmean(self.differences)

    @property
    def wins(self) -> int:
        """Clips on which a is larger."""
        return sum(value > 0 for value in self.differences)

    @property
    def losses(self) -> int:
        return sum(value < 0 for value in self.differences)

    @property
    def p(self) -> float:
        """Two-sided sign test: how often chance alone splits the clips at least as unevenly. Ties are left out."""
        return sign_test(self.wins, self.losses)


def sign_test(wins: int, losses: int) -> float:
    """The two-sided p of `wins` against `losses` under a fair coin; 1 where there are none."""
    total = wins + losses
    tail = sum(comb(total, k) for k in range(min(wins, losses) + 1))
    return min(1.0, tail / 2.0 ** (total - 1))
