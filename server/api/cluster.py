"""The side of a node that gateways see: its report, its draining, and the waiting line that it may keep for all nodes.

Served only where the setting `node` names this server, and behind its token.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from aiohttp import web
from pydantic import Field

from core.config import Config
from server.api.bodies import read_json, validate
from server.api.keys import SESSIONS, STREAMS
from server.gateway.report import PROTOCOL, Report
from server.sessions.sessions import Sessions
from server.sessions.waiting import WaitingList

logger = logging.getLogger(__name__)


class DrainBody(Config):
    """What POST /cluster/drain takes."""

    seconds: float = Field(30.0, ge=0, le=86_400)
    """time that clients have to move; sessions that are left then are closed"""


class LineBody(Config):
    """What POST /cluster/line takes."""

    ticket: str | None = Field(None, max_length=64)
    wait: bool
    """whether the client takes or keeps a place; else only its position is told"""
    address: str = Field("", max_length=64)
    """whose request it is, for the share of one address"""
    too_large: bool = False
    """there are free places, and none would do for what it asks for"""


class ServedBody(Config):
    """What POST /cluster/line/served takes."""

    ticket: str | None = Field(None, max_length=64)
    """of a client that waited; one that did not has none"""


class NodeSide:
    """This server as one node of a cluster."""

    def __init__(self, sessions: Sessions):
        self.sessions = sessions
        settings = sessions.settings
        self.line: WaitingList[bool] = WaitingList(
            sessions.new_id, settings.queue_most, settings.queue_each, settings.queue_patience
        )
        self._closing: asyncio.Task[None] | None = None

    def report(self, streams: tuple[str, ...]) -> Report:
        """What this node can take now."""
        sessions, settings, now = self.sessions, self.sessions.settings, asyncio.get_running_loop().time()
        return Report(
            protocol=PROTOCOL,
            node=settings.node,
            version=software_version(),
            model=settings.model,
            state=sessions.devices.state,
            draining=sessions.draining,
            places=settings.max_sessions,
            open=sessions.devices.reserved,
            free=sessions.free(now),
            load=round(sessions.devices.load(now), 4),
            waiting=self.line.waiting(now),
            refused=sessions.refused_total,
            streams=streams,
        )

    def drain(self, seconds: float) -> int:
        """Takes no new session from now on, and tells the clients to move within `seconds`. How many there are."""
        self.sessions.draining = True
        for session in self.sessions:
            session.channel.send({"event": "draining", "seconds": seconds})
        if self._closing is not None:
            self._closing.cancel()
        self._closing = asyncio.get_running_loop().create_task(self._close_rest(seconds))
        return len(self.sessions)

    def undrain(self) -> None:
        """Takes new sessions again."""
        self.sessions.draining = False
        if self._closing is not None:
            self._closing.cancel()

    async def _close_rest(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        for session in list(self.sessions):
            self.sessions.end(session.id, "this node is drained")

    async def close(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            await asyncio.gather(self._closing, return_exceptions=True)


NODE_SIDE = web.AppKey("node_side", NodeSide)


def attach(app: web.Application) -> None:
    """Adds the routes of a node to an application that has its sessions and streams, where it has a name."""
    if not app[SESSIONS].settings.node:
        return
    app[NODE_SIDE] = NodeSide(app[SESSIONS])
    app.add_routes(
        [
            web.get("/cluster/node", report),
            web.post("/cluster/drain", drain),
            web.delete("/cluster/drain", undrain),
            web.post("/cluster/line", stand_in_line),
            web.post("/cluster/line/served", served),
            web.delete("/cluster/line/{ticket}", leave_line),
        ]
    )
    app.cleanup_ctx.append(run_node_side)


async def run_node_side(app: web.Application) -> AsyncIterator[None]:
    yield
    await app[NODE_SIDE].close()


async def report(request: web.Request) -> web.Response:
    streams = request.app[STREAMS]
    names = tuple({**streams.report(), **dict.fromkeys(streams.reserved)})
    return web.json_response(request.app[NODE_SIDE].report(names).model_dump())


async def drain(request: web.Request) -> web.Response:
    """202 with the number of sessions that have to move."""
    body = validate(DrainBody, await read_json(request))
    sessions = request.app[NODE_SIDE].drain(body.seconds)
    logger.info("draining: %d sessions have %.0f s to move", sessions, body.seconds)
    return web.json_response({"sessions": sessions}, status=202)


async def undrain(request: web.Request) -> web.Response:
    request.app[NODE_SIDE].undrain()
    logger.info("no longer draining")
    return web.Response(status=204)


async def stand_in_line(request: web.Request) -> web.Response:
    """The client's position in the line of the whole cluster, and its ticket where it waits and there is room.

    `before` are those of the clients before it whom it may not overtake.
    """
    body = validate(LineBody, await read_json(request))
    line, now = request.app[NODE_SIDE].line, asyncio.get_running_loop().time()
    answer: dict[str, Any] = {"position": line.position(body.ticket, now), "ticket": None}
    held = line.wait(body.ticket, now, body.address, body.too_large) if body.wait else None
    if held is not None:
        answer = {"position": held[0], "ticket": held[1]}
    answer["before"] = line.before(answer["ticket"] or body.ticket, now, fits=lambda too_large: not too_large)
    return web.json_response(answer)


async def served(request: web.Request) -> web.Response:
    """A client got its place: those before it in line were overtaken."""
    body = validate(ServedBody, await read_json(request))
    request.app[NODE_SIDE].line.serve(body.ticket, asyncio.get_running_loop().time())
    return web.Response(status=204)


async def leave_line(request: web.Request) -> web.Response:
    request.app[NODE_SIDE].line.leave(request.match_info["ticket"])
    return web.Response(status=204)


def software_version() -> str:
    """The version of this software; "unknown" where it runs from a checkout that is not installed."""
    try:
        return version("avis-server")
    except PackageNotFoundError:
        return "unknown"
