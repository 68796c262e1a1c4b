"""Clients of up to a thousand simulated nodes, placed by the gateways' own decisions, in simulated time.

What it finds is compared and printed by server.gateway.comparison.
"""

from __future__ import annotations

import heapq
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Annotated

from pydantic import Field

from core.config import Config
from server.gateway.placement import Cluster, Node
from server.gateway.probes import PATIENCE, PERIOD
from server.gateway.report import PROTOCOL, Report

Policy = Callable[[Cluster, set[str], random.Random], Node | None]
"""the node to ask after those that were tried, or None"""

WARM_UP = 5.0
"""seconds until all clients of the steady state have come"""


class Plan(Config):
    """One run. Times in seconds."""

    nodes: int = Field(8, ge=1, le=2000)
    places: tuple[Annotated[int, Field(ge=0, le=10_000)], ...] = (4, 8, 8, 12)
    """sessions that a node holds, one node after the other: machines differ"""
    gateways: int = Field(2, ge=1, le=16)
    offered: float = Field(0.8, gt=0, le=10)
    """sessions that would be open if none were refused, as a share of all places"""
    stay: float = Field(120.0, gt=0, le=1e5)
    """mean length of a session"""
    seconds: float = Field(60.0, gt=0, le=1e6)
    hop: float = Field(0.01, gt=0, le=1)
    """from a gateway to a node"""
    notice: float = Field(2.5, ge=0, le=60)
    """after which a client notices that its node is gone"""
    dies: float | None = Field(None, ge=0, le=1e6)
    """when an eighth of the nodes dies at once"""
    deploys: float | None = Field(None, ge=0, le=1e6)
    """when a rolling deploy begins: one node after the other drains, and is back `restart` after it is empty"""
    drain_time: float = Field(30.0, ge=0, le=3600)
    restart: float = Field(10.0, ge=0, le=3600)
    seed: int = Field(0, ge=0, lt=2**31)


@dataclass(eq=False)
class Machine:
    """A simulated node. It lets in as many as it has places."""

    url: str
    places: int
    alive: bool = True
    draining: bool = False
    refused: int = 0
    clients: dict[Client, None] = field(default_factory=dict)
    """in the order in which they came"""

    @property
    def free(self) -> int:
        return self.places - len(self.clients) if self.alive and not self.draining else 0

    def report(self) -> Report:
        held = len(self.clients)
        return Report.model_construct(
            protocol=PROTOCOL,
            node=self.url.rpartition("/")[2],
            version="1",
            model="simulated",
            state="ready",
            draining=self.draining,
            places=self.places,
            open=held,
            free=self.places - held,
            load=held / self.places,
            waiting=0,
            refused=self.refused,
            streams=(),
        )


@dataclass(eq=False)
class Client:
    """One client, and where it is served."""

    leaves: float
    home: Machine | None = None
    since: float = 0.0
    """when it first asked, or lost its node"""
    tried: set[str] = field(default_factory=set)
    attempts: int = 0
    """offers since then that found no place"""
    was_served: bool = False


@dataclass
class Outcome:
    """What clients and machines saw."""

    offers: int = 0
    refused: int = 0
    needless: int = 0
    """offers that were refused while a place was free"""
    tries: list[int] = field(default_factory=list)
    """nodes that each offer asked"""
    unevenness: list[float] = field(default_factory=list)
    """each second, the standard deviation over the nodes of the share of their places that is taken"""
    moved: int = 0
    """sessions that left a draining node before it closed them"""
    cut: int = 0
    """sessions that lost their node: it died, or closed what was left when its time to drain was over"""
    restored: list[float] = field(default_factory=list)
    """seconds that each of them was without a node"""
    deployed: int = 0
    """nodes that a rolling deploy has restarted"""

    def summary(self) -> dict[str, float]:
        """Shares and means, for a table."""
        ordered = sorted(self.restored)
        return {
            "needless": self.needless / max(1, self.offers),
            "tries": statistics.fmean(self.tries) if self.tries else 0.0,
            "most_tries": max(self.tries, default=0),
            "unevenness": statistics.fmean(self.unevenness) if self.unevenness else 0.0,
            "restored": len(ordered) / self.cut if self.cut else 1.0,
            "restored_p95": ordered[int(0.95 * len(ordered))] if ordered else 0.0,
        }


class Simulation:
    """Clients, gateways and machines on one simulated clock. `run` returns what they saw."""

    def __init__(self, plan: Plan, policy: Policy):
        self.plan = plan
        self.now = 0.0
        self.outcome = Outcome()
        self._policy = policy
        self._random = random.Random(plan.seed)
        places = [plan.places[index % len(plan.places)] for index in range(plan.nodes)]
        self.machines = {f"http://n{index}": Machine(f"http://n{index}", most) for index, most in enumerate(places)}
        self._views = [Cluster() for _ in range(plan.gateways)]
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def run(self) -> Outcome:
        self._begin()
        while self._events and self._events[0][0] <= self.plan.seconds:
            self.now, _, event = heapq.heappop(self._events)
            event()
        for machine in self.machines.values():
            assert len(machine.clients) <= machine.places, "a node holds more than it has places for"
        return self.outcome

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    def _begin(self) -> None:
        plan = self.plan
        for view in self._views:
            view.list_urls(self.machines)
            for machine in self.machines.values():
                begin = self._random.uniform(0.0, PERIOD)
                self._at(begin, lambda view=view, machine=machine: self._probe(view, machine))  # type: ignore[misc]
        places = sum(machine.places for machine in self.machines.values())
        for _ in range(int(plan.offered * places)):
            self._at(self._random.uniform(1.0, WARM_UP - 1), self._arrive)
        self._rate = plan.offered * places / plan.stay
        self._at(WARM_UP, self._stream)
        self._at(WARM_UP + 1, self._measure)
        if plan.dies is not None:
            self._at(plan.dies, self._kill)
        if plan.deploys is not None:
            self._at(plan.deploys, lambda: self._deploy(list(self.machines.values())))

    # --- gateways -----------------------------------------------------------------------------------

    def _probe(self, view: Cluster, machine: Machine) -> None:
        """Asks a node for its report; one that is gone answers nothing."""
        if machine.alive:
            view.heard(machine.url, machine.report(), self.now)
            return self._at(self.now + PERIOD, lambda: self._probe(view, machine))
        self._at(self.now + PATIENCE, lambda: self._miss(view, machine))

    def _miss(self, view: Cluster, machine: Machine) -> None:
        view.missed(machine.url, "no answer")
        self._probe(view, machine)

    def _offer(self, client: Client, view: Cluster) -> None:
        """Asks the next node for a place."""
        node = self._policy(view, client.tried, self._random)
        if node is None:
            return self._refuse(client)
        view.sent(node.url, self.now)
        sent, url = self.now, node.url
        client.tried.add(url)
        self._at(self.now + self.plan.hop, lambda: self._decide(client, view, self.machines[url], sent))

    def _decide(self, client: Client, view: Cluster, machine: Machine, sent: float) -> None:
        """A node answers an offer. One that is draining refuses; one that is dead cannot be reached."""
        if machine.free > 0:
            return self._open(client, machine)
        machine.refused += machine.alive
        view.refused(machine.url, sent, "full" if machine.alive else "unreachable")
        self._offer(client, view)

    # --- clients ------------------------------------------------------------------------------------

    def _stream(self) -> None:
        """New clients come at random moments."""
        self._arrive()
        self._at(self.now + self._random.expovariate(self._rate), self._stream)

    def _arrive(self) -> None:
        client = Client(self.now + self._random.expovariate(1 / self.plan.stay), since=self.now)
        self.outcome.offers += 1
        self._dial(client)

    def _dial(self, client: Client) -> None:
        client.tried = set()
        self._offer(client, self._random.choice(self._views))

    def _open(self, client: Client, machine: Machine) -> None:
        """A new session, or one that goes on: a client that moves leaves its old node now, not before."""
        outcome = self.outcome
        outcome.tries.append(len(client.tried))
        if client.home is not None:
            outcome.moved += 1
            client.home.clients.pop(client, None)
        elif client.was_served:
            outcome.restored.append(self.now - client.since)
        else:
            self._at(client.leaves, lambda: self._leave(client))
        machine.clients[client] = None
        client.home, client.attempts, client.was_served = machine, 0, True

    def _refuse(self, client: Client) -> None:
        """No node took it. One that had a session asks again, as the page does; a newcomer goes away."""
        outcome = self.outcome
        outcome.tries.append(len(client.tried))
        outcome.refused += 1
        outcome.needless += any(machine.free > 0 for machine in self.machines.values())
        if client.was_served and client.leaves > self.now:
            client.attempts += 1
            self._at(self.now + min(15.0, 2.0 ** (client.attempts - 1)), lambda: self._again(client))

    def _again(self, client: Client) -> None:
        """Dials anew, unless it has a place that it need not leave, or has gone."""
        if client.leaves > self.now and (client.home is None or client.home.draining):
            self._dial(client)

    def _leave(self, client: Client) -> None:
        if client.home is not None:
            client.home.clients.pop(client, None)
            client.home = None

    def _cut(self, machine: Machine, notice: float) -> None:
        """The sessions of a machine end; their clients dial again once they notice."""
        for client in machine.clients:
            client.home, client.since = None, self.now
            if client.leaves > self.now + notice + 1:
                self.outcome.cut += 1
                self._at(self.now + notice, lambda client=client: self._again(client))  # type: ignore[misc]
        machine.clients = {}

    # --- machines -----------------------------------------------------------------------------------

    def _measure(self) -> None:
        shares = [len(m.clients) / m.places for m in self.machines.values() if m.alive and not m.draining]
        self.outcome.unevenness.append(statistics.pstdev(shares) if shares else 0.0)
        self._at(self.now + 1.0, self._measure)

    def _kill(self) -> None:
        machines = list(self.machines.values())
        for machine in self._random.sample(machines, max(1, len(machines) // 8)):
            machine.alive = False
            self._cut(machine, self.plan.notice)

    def _deploy(self, machines: list[Machine]) -> None:
        """Drains the next node: its clients hear of it and dial at once."""
        if not machines:
            return
        machine, *rest = machines
        machine.draining = True
        for client in machine.clients:
            client.since = self.now
            self._at(self.now + self._random.uniform(0.0, 0.5), lambda client=client: self._again(client))  # type: ignore[misc]
        self._await(machine, rest, self.now + self.plan.drain_time)

    def _await(self, machine: Machine, rest: list[Machine], until: float) -> None:
        """Waits until a draining node is empty, or its time is over; then it ends and comes back."""
        if machine.clients and self.now < until:
            return self._at(self.now + 0.5, lambda: self._await(machine, rest, until))
        machine.alive = False
        self._cut(machine, 0.0)
        self._at(self.now + self.plan.restart, lambda: self._return(machine, rest))

    def _return(self, machine: Machine, rest: list[Machine]) -> None:
        machine.alive, machine.draining = True, False
        self.outcome.deployed += 1
        self._at(self.now + 2 * PERIOD, lambda: self._deploy(rest))
