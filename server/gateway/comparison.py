"""Placement, rolling deploys and autoscaling compared in simulated time: `python -m server.gateway.comparison`."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass
from itertools import count

from server.gateway.autoscale import Autoscale, AutoscaleConfig, steps
from server.gateway.placement import Cluster, Node
from server.gateway.simulated import Client, Machine, Plan, Policy, Simulation

# --- policies -------------------------------------------------------------------------------------

TRIES = 3
"""nodes that the policies we compare with ask for one offer"""


def ours(view: Cluster, tried: set[str], chance: random.Random) -> Node | None:
    """What a gateway does."""
    return view.next(tried)


def least_loaded(view: Cluster, tried: set[str], chance: random.Random) -> Node | None:
    """The least loaded by the last reports, which do not know what was sent since."""
    nodes = _untried(view, tried)
    return min(nodes, key=lambda node: (node.report.load if node.report else 1.0, node.url), default=None)


def at_random(view: Cluster, tried: set[str], chance: random.Random) -> Node | None:
    nodes = _untried(view, tried)
    return chance.choice(nodes) if nodes else None


class RoundRobin:
    """One node after the other, each gateway on its own."""

    def __init__(self) -> None:
        self._turns: dict[int, int] = {}

    def __call__(self, view: Cluster, tried: set[str], chance: random.Random) -> Node | None:
        nodes = _untried(view, tried)
        turn = self._turns[id(view)] = self._turns.get(id(view), -1) + 1
        return nodes[turn % len(nodes)] if nodes else None


def _untried(view: Cluster, tried: set[str]) -> list[Node]:
    if len(tried) >= TRIES:
        return []
    return [node for node in view.nodes if node.state == "live" and node.url not in tried]


def policies() -> dict[str, Policy]:
    """The policies to compare, by the names in the table."""
    return {"gateway": ours, "least loaded": least_loaded, "round robin": RoundRobin(), "random": at_random}


# --- autoscaling ------------------------------------------------------------------------------------


@dataclass
class Scaled:
    """What an autoscaled cluster gave and cost over one run."""

    offers: int = 0
    refused: int = 0
    node_seconds: float = 0.0
    least_node_seconds: float = 0.0
    """of a cluster that at each moment has just the nodes that its sessions need"""


def autoscaled(rule: Autoscale, seconds: float, peak: float, boot: float = 60.0, seed: int = 0) -> Scaled:
    """A day of `seconds` in which the demand rises to `peak` sessions and falls again, one look every two seconds.

    A node is there `boot` seconds after it was asked for. Refused clients do not wait in line.
    """
    chance, found, order = random.Random(seed), Scaled(), count()
    stay = 120.0
    machines: list[Machine] = []
    booting: list[float] = []
    leaves: list[tuple[float, int, Machine, Client]] = []
    for look in range(int(seconds / 2)):
        now = 2.0 * look
        while leaves and leaves[0][0] <= now:
            _, _, machine, client = heapq.heappop(leaves)
            machine.clients.pop(client, None)
        demand = peak * (0.05 + 0.95 * math.sin(math.pi * now / seconds) ** 2)
        for _ in range(poisson(demand * 2 / stay, chance)):
            found.offers += 1
            ready = [machine for machine in machines if machine.free > 0]
            if not ready:
                found.refused += 1
                if machines:
                    machines[0].refused += 1
                continue
            machine, client = max(ready, key=lambda machine: machine.free), Client(now)
            machine.clients[client] = None
            heapq.heappush(leaves, (now + chance.expovariate(1 / stay), next(order), machine, client))
        machines = scaled(rule, machines, booting, now, boot, order)
        taken = sum(len(machine.clients) for machine in machines)
        found.node_seconds += 2.0 * (len(machines) + len(booting))
        found.least_node_seconds += 2.0 * max(1, math.ceil(taken / rule.config.places))
    return found


def scaled(
    rule: Autoscale, machines: list[Machine], booting: list[float], now: float, boot: float, order: count[int]
) -> list[Machine]:
    """One look of the rule: what is asked for, what is drained, what ends. Only an empty drained node ends."""
    while booting and booting[0] <= now:
        booting.pop(0)
        machines = [*machines, Machine(f"http://s{next(order)}", rule.config.places)]
    reports = [machine.report() for machine in machines]
    wanted = rule.wanted(reports, now)
    todo = steps(reports, wanted)
    for machine, report in zip(machines, reports, strict=True):
        machine.draining = (machine.draining or report.node in todo.drain) and report.node not in todo.take_back
    booting += [now + boot] * (wanted - len(booting) - sum(not machine.draining for machine in machines))
    return [machine for machine, report in zip(machines, reports, strict=True) if report.node not in todo.remove]


def poisson(mean: float, chance: random.Random) -> int:
    """A number of arrivals (Knuth's method; the mean is a few)."""
    limit, product, number = math.exp(-mean), chance.random(), 0
    while product > limit:
        product *= chance.random()
        number += 1
    return number


# --- the comparison -------------------------------------------------------------------------------


def main() -> None:
    """Prints every figure that DESIGN.md quotes."""
    for nodes in (8, 64, 256, 1000):
        for title, values in (
            ("95 % full", {"offered": 0.95}),
            ("80 % full, an eighth dies", {"offered": 0.8, "dies": 20.0}),
        ):
            for name, policy in policies().items():
                outcome = Simulation(Plan(nodes=nodes, **values), policy).run()
                figures = "  ".join(f"{key} {value:.3g}" for key, value in outcome.summary().items())
                print(f"{nodes:5} nodes, {title:26} {name:13} {figures}", flush=True)
    for nodes in (8, 32):
        outcome = Simulation(Plan(nodes=nodes, offered=0.7, stay=3600, deploys=10.0, seconds=60.0 * nodes), ours).run()
        print(
            f"{nodes:5} nodes, rolling deploy: {outcome.deployed} restarted, {outcome.moved} moved, {outcome.cut} cut"
        )
    for spare in (0, 1, 2, 4):
        rule = Autoscale(AutoscaleConfig(places=8, spare=spare, least=1, most=200))
        day = autoscaled(rule, seconds=4 * 3600.0, peak=400)
        cost = day.node_seconds / day.least_node_seconds
        print(
            f"autoscaling, {spare} spare: {day.refused / day.offers:.2%} refused, {cost:.2f} x the least nodes",
            flush=True,
        )


if __name__ == "__main__":
    main()
