"""Which node of a cluster a request goes to. Pure: no I/O and no clock; `now` is an argument, in seconds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from server.gateway.report import PROTOCOL, Report

MISSES = 2
"""probes in a row without an answer after which a node is lost"""

RETRIED = frozenset({"full", "draining", "shutting_down", "warming", "not_ready", "no_device", "no_port"})
"""refusals after which another node may be asked: the node that refused holds nothing of the client"""

LINE = "line"
"""the name whose hash picks the node that keeps the cluster's waiting line"""

NodeState = Literal["unknown", "live", "draining", "warming", "unusable", "lost"]


def owner(resource: str) -> str:
    """The node named in an id of a session or a player: NODE.TOKEN. Empty where it names none."""
    name, dot, _ = resource.partition(".")
    return name if dot else ""


def score(name: str, node: str) -> bytes:
    """A node's weight for a name (rendezvous hashing): the node with the highest is asked first."""
    return hashlib.blake2b(f"{name}\0{node}".encode(errors="surrogateescape"), digest_size=8).digest()


@dataclass
class Node:
    """One node, as this gateway knows it."""

    url: str
    report: Report | None = None
    """the last one"""
    asked: float = 0.0
    """when that one was asked for"""
    misses: int = 0
    """probes in a row that got no answer"""
    why: str = "it was not asked yet"
    """why it takes no session, where it takes none"""
    duplicate: bool = False
    """another address told the same name first"""
    placed: list[float] = field(default_factory=list)
    """when this gateway sent it each session that its report does not count yet"""
    refused: bool = False
    """it said that it is full, after its last report"""

    @property
    def name(self) -> str:
        return self.report.node if self.report else ""

    @property
    def state(self) -> NodeState:
        if self.report is None:
            return "unknown" if self.misses < MISSES else "lost"
        if self.misses >= MISSES:
            return "lost"
        if self.duplicate or not self.report.node or self.report.protocol != PROTOCOL:
            return "unusable"
        if self.report.draining:
            return "draining"
        return "live" if self.report.state == "ready" else "warming"

    @property
    def answers(self) -> bool:
        """Whether requests that concern its sessions go there."""
        return self.state in ("live", "draining", "warming")

    @property
    def free(self) -> int:
        """Places left after what this gateway has sent meanwhile."""
        return 0 if self.refused else self.told_free

    @property
    def told_free(self) -> int:
        """The same, also after the node refused somebody, who may have asked for more than there was."""
        if self.report is None or self.state != "live":
            return 0
        return max(0, self.report.free - len(self.placed))

    @property
    def preference(self) -> tuple[float, float, str]:
        """Sorts nodes, the best first: by the free share of places, then by load, then by name.

        Of full nodes the one whose report is the oldest is the likeliest to have a place again.
        """
        assert self.report is not None, "a node without a report is never ranked"
        load = self.report.load if self.free else self.asked
        return -self.free / max(1, self.report.places), load, self.report.node


class Cluster:
    """The nodes that membership lists, and what each of them said last."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._holders: dict[str, str] = {}
        """the address of the node that has each name"""

    # --- what is learnt -----------------------------------------------------------------------------

    def list_urls(self, urls: Iterable[str]) -> None:
        """Membership lists these nodes now. One that is listed still keeps what is known of it."""
        self._nodes = {url: self._nodes.get(url) or Node(url) for url in dict.fromkeys(urls)}

    def heard(self, url: str, report: Report, asked: float) -> None:
        """A node answered a probe that was sent at `asked`: placements sent before are counted in it."""
        node = self._nodes.get(url)
        if node is None:
            return
        node.report, node.asked, node.misses, node.refused = report, asked, 0, False
        node.placed = [when for when in node.placed if when >= asked]
        holder = self._nodes.get(self._holders.get(report.node, url))
        node.duplicate = bool(holder and holder is not node and holder.name == report.node and holder.answers)
        if not node.duplicate:
            self._holders[report.node] = url
        node.why = self._fault(node)

    def missed(self, url: str, why: str) -> bool:
        """A node did not answer a probe. Whether it is lost by that."""
        node = self._nodes.get(url)
        if node is None:
            return False
        was_lost = node.state == "lost"
        node.misses += 1
        if node.state == "lost":
            node.why, node.placed = why, []
        return node.state == "lost" and not was_lost

    def sent(self, url: str, now: float) -> None:
        """A session is being opened there."""
        if url in self._nodes:
            self._nodes[url].placed.append(now)

    def refused(self, url: str, sent: float, code: str) -> None:
        """The session that was sent there at `sent` was not opened."""
        node = self._nodes.get(url)
        if node is None:
            return
        if sent in node.placed:
            node.placed.remove(sent)
        node.refused = node.refused or code in RETRIED

    @staticmethod
    def _fault(node: Node) -> str:
        """Why a node that answers takes no session, or an empty text."""
        report = node.report
        assert report is not None, "a node that answered has a report"
        if report.protocol != PROTOCOL:
            return f"it speaks version {report.protocol} of the cluster's protocol, this gateway {PROTOCOL}"
        if not report.node:
            return "it has no name: start it with --node NAME"
        if node.duplicate:
            return f"another node has the name {report.node} already"
        if report.draining:
            return "it is draining"
        return "" if report.state == "ready" else f"its device is {report.state}"

    # --- what is asked ------------------------------------------------------------------------------

    @property
    def nodes(self) -> list[Node]:
        """All listed nodes, in the order of the list."""
        return list(self._nodes.values())

    def at(self, url: str) -> Node | None:
        return self._nodes.get(url)

    def named(self, name: str) -> Node | None:
        """The node of that name that answers, or None."""
        node = self._nodes.get(self._holders.get(name, "")) if name else None
        return node if node and node.answers and node.name == name else None

    def live(self) -> list[Node]:
        """Nodes that take sessions, the best first."""
        nodes = (node for node in self.nodes if node.state == "live")
        return sorted(nodes, key=lambda node: node.preference)

    def answering(self) -> list[Node]:
        """Nodes that answer, those that take sessions first."""
        return self.live() + [node for node in self.nodes if node.answers and node.state != "live"]

    def next(self, tried: set[str], model: str | None = None) -> Node | None:
        """The node to ask for a place after those in `tried`. One with a free place comes first; no more than
        two others are asked, for a place may have come free since their reports.
        """
        left = [node for node in self.nodes if node.state == "live" and node.url not in tried]
        fitting = [node for node in left if model is None or (node.report and node.report.model == model)]
        best = min(fitting or left, key=lambda node: node.preference, default=None)
        if best is None or best.free > 0:
            return best
        full = sum(node.free == 0 for url in tried if (node := self._nodes.get(url)))
        return best if full < 2 else None

    def by_name(self, name: str) -> list[Node]:
        """Nodes that take sessions, in the order in which every gateway asks them for a stream of this name."""
        return sorted(self.live(), key=lambda node: score(name, node.name), reverse=True)

    def publishing(self, name: str) -> Node | None:
        """The node that reports a stream of this name, or None. Of two that do, one that is not draining."""
        return next((node for node in self.answering() if node.report and name in node.report.streams), None)

    def line_keeper(self) -> Node | None:
        """The node that keeps the waiting line: all gateways pick the same one."""
        ranked = self.by_name(LINE)
        return ranked[0] if ranked else None

    def free(self) -> int:
        return sum(node.free for node in self.nodes)

    def told_free(self) -> int:
        return sum(node.told_free for node in self.nodes)

    def waiting(self) -> int:
        """Clients in line, as the nodes reported."""
        return sum(node.report.waiting for node in self.nodes if node.answers and node.report)

    def reason(self) -> str:
        """Why no node takes a session."""
        if not self.nodes:
            return "no node is listed"
        return "; ".join(f"{node.name or node.url}: {node.why}" for node in self.nodes[:4])


def may_try(before: int, free: int) -> bool:
    """Whether a client whom so many in line come before may ask for a place: the first always may."""
    return before < max(1, free)
