"""`/sessions` of a gateway: a new session goes where there is a place, all else to the node named in its id."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from aiohttp import web
from pydantic import Field

from core.config import Config
from server.api.bodies import read_body, read_json, validate
from server.gateway.forward import Answer
from server.gateway.gateway import GATEWAY, Gateway, refusal_code, to_its_node
from server.gateway.line import RETRY_AFTER
from server.gateway.placement import RETRIED, Cluster, Node, may_try, owner
from server.refusals import Place, Refusal


class Opening(Config):
    """What a gateway reads of the body of POST /sessions; the node reads the rest."""

    model: str | None = Field(None, max_length=200)
    resume: str | None = Field(None, max_length=200)
    queue: bool = False
    ticket: str | None = Field(None, max_length=64)


OURS = ("resume", "queue", "ticket")
"""fields that a node does not get: the gateway has answered them"""


def routes() -> list[web.RouteDef]:
    return [
        web.post("/sessions", open_session),
        web.get("/sessions/{id}", to_its_node),
        web.patch("/sessions/{id}", to_its_node),
        web.delete("/sessions/{id}", to_its_node),
        web.delete("/queue/{ticket}", leave_line),
    ]


async def open_session(request: web.Request) -> web.Response:
    """Opens a session, or goes on with one. A session of a node that is lost or draining is opened elsewhere."""
    gateway = request.app[GATEWAY]
    body = await read_json(request)
    opening = validate(Opening, {name: body[name] for name in Opening.model_fields if name in body})
    gateway.check_rate(request)
    if opening.resume is None:
        return await open_new(request, gateway, opening, body)
    return await go_on(request, gateway, opening, body)


async def go_on(request: web.Request, gateway: Gateway, opening: Opening, body: dict[str, Any]) -> web.Response:
    """Resumes a session on its node, asked anew whether it drains; elsewhere where it does or is lost.

    A session of a draining node stays there while no other has a place.
    """
    node = gateway.cluster.named(owner(opening.resume or ""))
    if node is not None:
        await gateway.probes.ask(node.url)
    if node is not None and node.state != "draining" and node.answers:
        return (await gateway.send(node, request, await read_body(request))).response()
    answer = await gateway.place(request, without(body), candidates(gateway.cluster, opening.model))
    if node is not None and node.answers and refusal_code(answer) in RETRIED:
        return (await gateway.send(node, request, await read_body(request))).response()
    return marked(answer, resumed=False)


async def open_new(request: web.Request, gateway: Gateway, opening: Opening, body: dict[str, Any]) -> web.Response:
    """Opens a session for a client whose turn it is; others are told where they stand in line."""
    cluster, ticket = gateway.cluster, opening.ticket
    waits = ticket is not None or cluster.waiting() > 0
    if (waits or cluster.free() == 0) and cluster.live():
        before = await gateway.line.before(ticket, cluster.free())
        if not may_try(before, cluster.free()):
            return await turned_away(request, opening, f"{before} in line come first")
    answer = await gateway.place(request, without(body), candidates(cluster, opening.model))
    code = refusal_code(answer)
    if code in RETRIED:
        message = json.loads(answer.body)["error"]["message"] if code == "full" else f"every node is {code}"
        return await turned_away(request, opening, message, answer)
    if waits and answer.status == 201:
        await gateway.line.serve(ticket)
    return answer.response()


async def turned_away(
    request: web.Request, opening: Opening, reason: str, answer: Answer | None = None
) -> web.Response:
    """503, with a place in line for a client that waits; a node's own refusal where there is no place in line."""
    gateway = request.app[GATEWAY]
    standing = None
    if opening.queue or opening.ticket is not None:
        too_large = answer is not None and gateway.cluster.told_free() > 0
        standing = await gateway.line.wait(opening.ticket, gateway.client(request), too_large)
    if standing is None and answer is not None:
        return answer.response()
    place = Place(standing.position, standing.ticket) if standing and standing.ticket else None
    if answer is None:
        gateway.outcomes["full"] += 1
    raise Refusal(503, "full", f"every node is full: {reason}", RETRY_AFTER, place)


def candidates(cluster: Cluster, model: str | None) -> Iterator[Node]:
    """The nodes to ask for a place, each looked up when its turn comes."""
    tried: set[str] = set()
    while (node := cluster.next(tried, model)) is not None:
        tried.add(node.url)
        yield node


def without(body: dict[str, Any]) -> bytes:
    """The body of an offer as a node takes it."""
    return json.dumps({name: value for name, value in body.items() if name not in OURS}).encode()


def marked(answer: Answer, **values: Any) -> web.Response:
    """A node's 201 with some values more in its body; any other answer as it is."""
    if answer.status != 201:
        return answer.response()
    body = json.dumps({**json.loads(answer.body), **values})
    return Answer(201, answer.headers, body.encode()).response()


async def leave_line(request: web.Request) -> web.Response:
    await request.app[GATEWAY].line.leave(request.match_info["ticket"][:64])
    return web.Response(status=204)
