"""How many nodes a cluster wants, and which may go. Pure: reports and `now`, in seconds, come in as arguments."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import Field

from core.config import Config
from server.gateway.report import Report


class AutoscaleConfig(Config):
    """The bounds of a cluster and its patience."""

    places: int = Field(8, ge=1, le=10_000)
    """sessions that one node holds, where no node has said so yet"""
    spare: int = Field(1, ge=0, le=1000)
    """nodes beyond the demand: where the sessions of a node that is lost go"""
    least: int = Field(1, ge=0, le=10_000)
    """nodes that stay, whatever the demand"""
    most: int = Field(10, ge=1, le=10_000)
    """nodes at most"""
    window: float = Field(30.0, gt=0, le=3600)
    """seconds in which a refused offer counts as demand"""
    patience: float = Field(300.0, ge=0, le=86_400)
    """seconds for which fewer nodes must have been enough before one is drained"""


@dataclass
class Autoscale:
    """Demand is what is open, what waits in line and what was refused lately, in sessions."""

    config: AutoscaleConfig
    _refused: dict[str, int] = field(default_factory=dict)
    """refusals that each node had counted at the last look"""
    _refusals: deque[tuple[float, int]] = field(default_factory=deque)
    """when offers were refused, and how many"""
    _enough: deque[tuple[float, int]] = field(default_factory=deque)
    """how many nodes were wanted at each look in the last `patience`"""

    def wanted(self, reports: Sequence[Report], now: float) -> int:
        """Nodes that there should be. It rises at once and falls when no look in `patience` wanted more.

        It never falls below the nodes that hold sessions.
        """
        config = self.config
        self._count(reports, now)
        places = max((report.places for report in reports), default=config.places)
        demand = sum(report.open + report.waiting for report in reports) + sum(n for _, n in self._refusals)
        if not self._enough:  # the nodes there are were wanted, by an earlier watcher
            self._enough.append((now, min(sum(not report.draining for report in reports), config.most)))
        bare = math.ceil(demand / places) + config.spare
        self._enough.append((now, min(max(bare, config.least), config.most)))
        while now - self._enough[0][0] > config.patience:
            self._enough.popleft()
        return max(max(wanted for _, wanted in self._enough), sum(report.open > 0 for report in reports))

    def _count(self, reports: Sequence[Report], now: float) -> None:
        """Notes the offers refused since the last look. Each was refused by several nodes, so the most of one count."""
        news = [max(0, r.refused - self._refused.get(r.node, r.refused)) for r in reports]
        self._refused = {report.node: report.refused for report in reports}
        if any(news):
            self._refusals.append((now, max(news)))
        while self._refusals and now - self._refusals[0][0] > self.config.window:
            self._refusals.popleft()


@dataclass(frozen=True)
class Steps:
    """What is to be done with the nodes there are, by name."""

    take_back: list[str]
    """drain no longer: they are wanted after all"""
    drain: list[str]
    remove: list[str]
    """drained, without a session, and not wanted"""


def steps(reports: Sequence[Report], wanted: int) -> Steps:
    """How the cluster gets to `wanted` nodes. Only an empty drained node is ever removed."""
    leaving = sorted((r for r in reports if r.draining), key=lambda r: (-r.open, r.node))
    back = leaving[: max(0, wanted - (len(reports) - len(leaving)))]
    remove = [report.node for report in leaving if report.open == 0 and report not in back]
    return Steps([report.node for report in back], to_drain(reports, wanted), remove)


def to_drain(reports: Sequence[Report], wanted: int) -> list[str]:
    """The nodes to drain so that `wanted` stay: those with the fewest sessions, if the others have places for them."""
    staying = sorted((r for r in reports if not r.draining), key=lambda r: (r.open, r.node))
    going: list[str] = []
    while len(staying) > wanted and staying[0].open <= sum(r.free for r in staying[1:]) - staying[0].places:
        going.append(staying.pop(0).node)
    return going
