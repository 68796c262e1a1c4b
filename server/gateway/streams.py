"""WHIP and WHEP of a gateway: a stream lives on one node, which its players must be sent to."""

from __future__ import annotations

from collections.abc import Iterator

from aiohttp import web

from server.api.bodies import read_body
from server.gateway.gateway import GATEWAY, no_node, of_any, to_its_node
from server.gateway.placement import Cluster, Node
from server.refusals import Refusal


def routes() -> list[web.RouteDef]:
    found = [web.post("/whip/{name}", publish), web.post("/whep/{name}", watch)]
    for kind in ("whip", "whep"):
        found += [web.route(method, f"/{kind}/{{name}}", of_any) for method in ("OPTIONS", "GET")]
        found += [web.route("OPTIONS", f"/{kind}/{{name}}/{{id}}", of_any)]
        found += [web.route(m, f"/{kind}/{{name}}/{{id}}", to_its_node) for m in ("GET", "PATCH", "DELETE")]
    return found


async def publish(request: web.Request) -> web.Response:
    """A new stream. Every gateway asks the same node first, so of two publishers at once one is refused."""
    gateway = request.app[GATEWAY]
    gateway.check_rate(request)
    nodes = homes(gateway.cluster, request.match_info["name"])
    return (await gateway.place(request, await read_body(request), nodes)).response()


def homes(cluster: Cluster, name: str) -> Iterator[Node]:
    """The nodes that a stream may be published on: the one that has it, else by the hash of its name."""
    holder = cluster.publishing(name)
    if holder is not None and holder.state == "live":
        yield holder
        return
    yield from cluster.by_name(name)[:3]


async def watch(request: web.Request) -> web.Response:
    """A new player, on the node that has the stream. Reports are up to half a second old, so a miss asks anew."""
    gateway, name = request.app[GATEWAY], request.match_info["name"]
    gateway.check_rate(request)
    node = gateway.cluster.publishing(name)
    if node is None:
        await gateway.probes.refresh()
        node = gateway.cluster.publishing(name)
    if node is None and not gateway.cluster.answering():
        raise no_node(gateway.cluster)
    if node is None:
        raise Refusal(409, "not_published", f"nobody publishes {name[:64]!r} now", retry_after=2)
    return (await gateway.send(node, request, await read_body(request))).response()
