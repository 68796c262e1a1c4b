"""What a gateway says of the whole cluster: `/healthz`, `/readyz`, `/stats` and `/metrics`."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, get_args

from aiohttp import web
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from server.api.metrics import counter, counters, gauge, gauges
from server.gateway.forward import Broken, NotSent
from server.gateway.gateway import GATEWAY, Gateway, no_node, of_any
from server.gateway.placement import Node, NodeState

SUMMED = ("opened", "refused", "tasks", "frame_memory_bytes")
"""figures of the nodes' `/stats` that are added up"""

TOLD = {"version", "model", "places", "open", "free", "load", "waiting"}
"""what is told of a node's report"""


def routes() -> list[web.RouteDef]:
    return [
        web.get("/healthz", health),
        web.get("/readyz", readiness),
        web.get("/stats", stats),
        web.get("/models", of_any),
        web.get("/operators", of_any),
        web.get("/ice", of_any),
    ]


async def health(request: web.Request) -> web.Response:
    """The process lives."""
    return web.json_response({"status": "ok"})


async def readiness(request: web.Request) -> web.Response:
    """200 when a node takes sessions, else 503 with the reason."""
    live = request.app[GATEWAY].cluster.live()
    if not live:
        raise no_node(request.app[GATEWAY].cluster)
    models = sorted({node.report.model for node in live if node.report})
    return web.json_response({"status": "ready", "model": ", ".join(models), "nodes": len(live)})


async def stats(request: web.Request) -> web.Response:
    """The cluster as a whole, in the form of one server, with a line for each node. It names no session."""
    gateway = request.app[GATEWAY]
    told = await asyncio.gather(*(stats_of(gateway, node) for node in gateway.cluster.answering()))
    bodies = [body for body in told if body is not None]
    summed: dict[str, Any] = {name: sum(int(body.get(name, 0)) for body in bodies) for name in SUMMED}
    sessions = [session for body in bodies for session in body.get("sessions", [])]
    nodes = [node_line(node) for node in gateway.cluster.nodes]
    return web.json_response({"device": device(gateway), **summed, "sessions": sessions, "nodes": nodes})


async def stats_of(gateway: Gateway, node: Node) -> dict[str, Any] | None:
    """What one node says of itself; None where it does not answer."""
    try:
        answer = await gateway.forward.ask(node, "GET", "/stats")
        body = json.loads(answer.body) if answer.status == 200 else None
    except (NotSent, Broken, ValueError):
        return None
    return body if isinstance(body, dict) else None


def device(gateway: Gateway) -> dict[str, Any]:
    """The devices of all nodes, as if they were one."""
    reports = [node.report for node in gateway.cluster.live() if node.report]
    load = sum(report.load for report in reports) / len(reports) if reports else 0.0
    return {"state": "ready" if reports else "starting", "load": round(load, 3), "waiting": gateway.cluster.waiting()}


def node_line(node: Node) -> dict[str, Any]:
    """What people and `avis cluster status` are told of one node."""
    report = node.report
    told = report.model_dump(include=TOLD) if report else {}
    return {"name": node.name, "url": node.url, "state": node.state, "reason": node.why, **told}


class GatewayCollector(Collector):
    """The figures of one gateway and the nodes that it knows."""

    def __init__(self, gateway: Gateway):
        self._gateway = gateway

    def collect(self) -> Iterator[Metric]:
        gateway, cluster = self._gateway, self._gateway.cluster
        reports = [node.report for node in cluster.nodes if node.answers and node.report]
        states = Counter(node.state for node in cluster.nodes)
        known = {state: states[state] for state in get_args(NodeState)}
        yield gauges("avis_gateway_nodes", "Nodes that are listed.", "state", known)
        yield gauge("avis_gateway_places", "Places of the nodes that answer.", sum(r.places for r in reports))
        yield gauge("avis_gateway_sessions", "Sessions of the nodes that answer.", sum(r.open for r in reports))
        yield gauge("avis_gateway_free", "Places that are free.", cluster.free())
        yield gauge("avis_gateway_clients_waiting", "Clients that wait in line.", cluster.waiting())
        yield counters("avis_gateway_offers", "Offers by what became of them.", "outcome", gateway.outcomes)
        yield counter("avis_gateway_retries", "Offers that went on to another node.", gateway.retries)
        yield counter("avis_gateway_probes_missed", "Probes that got no answer.", gateway.probes.missed_total)
