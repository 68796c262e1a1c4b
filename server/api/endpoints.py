"""The HTTP interface: sessions are opened, asked, changed and ended here. No input is answered with a 500."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from aiohttp import web
from pydantic import Field

from core.config import Config
from core.models.table import latencies, tiers
from core.operators.config import OperatorConfig
from server.api.access import asks_of
from server.api.bodies import merged_solver, read_json, sdp_limits, validate
from server.api.keys import PUSHES, SESSIONS, SOURCES, VITALS
from server.api.usage import usage_of
from server.refusals import Refusal
from server.sessions.config import SessionConfig
from server.sessions.dispatch import Dispatch
from server.webrtc.ice_servers import ice_servers
from server.webrtc.offer import parse_offer

WEB = Path(__file__).resolve().parents[2] / "web"

PAGE = frozenset(path.name for path in WEB.glob("*.*"))
"""the files of the page, all in one folder"""


class OfferBody(Config):
    """What POST /sessions takes beside the fields of a SessionConfig."""

    sdp: str = Field(max_length=2**20)
    """the offer"""
    type: Literal["offer"]
    model: str | None = Field(None, max_length=64)
    """name of the model; unset takes the server's"""
    resume: str | None = Field(None, max_length=64)
    """id of a session whose connection was lost, to go on with it; other fields are then of no account"""
    queue: bool = False
    """where there is no place, wait for one: the refusal then tells the client's position and a ticket"""
    ticket: str | None = Field(None, max_length=64)
    """the ticket of an earlier refusal, which keeps the place in line"""


class Change(Config):
    """What PATCH /sessions/ID takes."""

    operator: OperatorConfig | None = None
    solver: dict[str, Any] | None = None
    """the settings that change; the others stay"""


def routes() -> list[web.RouteDef]:
    return [
        web.post("/sessions", open_session),
        web.get("/sessions/{id}", report_session),
        web.patch("/sessions/{id}", change_session),
        web.delete("/sessions/{id}", end_session),
        web.delete("/queue/{ticket}", leave_line),
        web.get("/healthz", health),
        web.get("/readyz", readiness),
        web.get("/models", models),
        web.get("/operators", operators),
        web.get("/ice", ice),
        web.get("/stats", stats),
        web.get("/", page),
        web.get("/{file}", page),
    ]


async def open_session(request: web.Request) -> web.Response:
    sessions = request.app[SESSIONS]
    body = await read_json(request)
    fields = {name: body.pop(name) for name in list(body) if name in SessionConfig.model_fields}
    offer_body = validate(OfferBody, body)
    if offer_body.model not in (None, sessions.settings.model):
        found = f"{offer_body.model[:40]!r}"
        raise Refusal(422, "unknown_model", f"this server has the model {sessions.settings.model}, not {found}")
    solver = merged_solver(sessions.solver, fields.get("solver"), sessions.settings.model)
    fields["solver"] = solver.model_dump(mode="json")
    fields.setdefault("fps", sessions.settings.fps)
    config = validate(SessionConfig, fields)
    offer = parse_offer(offer_body.sdp, sdp_limits(sessions))
    asks = asks_of(request, offer_body.queue, offer_body.ticket)
    if offer_body.resume is not None:
        opened = await sessions.resume(offer_body.resume, offer, asks)
    else:
        opened = await sessions.open(offer, config, asks=asks)
    answer = {"id": opened.session.id, "sdp": opened.answer, "type": "answer"}
    headers = {"Location": f"/sessions/{opened.session.id}"}
    return web.json_response(answer, status=201, headers=headers)


async def report_session(request: web.Request) -> web.Response:
    return web.json_response(request.app[SESSIONS].get(request.match_info["id"]).report())


async def change_session(request: web.Request) -> web.Response:
    sessions = request.app[SESSIONS]
    session = sessions.get(request.match_info["id"])
    change = validate(Change, await read_json(request))
    wanted = session.wanted
    update = {
        "operator": change.operator or wanted.operator,
        "solver": merged_solver(wanted.solver, change.solver, sessions.settings.model),
    }
    config = wanted.model_copy(update=update)
    return web.json_response({"applies_from_chunk": await sessions.change(session.id, config)})


async def end_session(request: web.Request) -> web.Response:
    sessions = request.app[SESSIONS]
    sessions.end(sessions.get(request.match_info["id"]).id, "the client ended it", "client")
    return web.Response(status=204)


async def leave_line(request: web.Request) -> web.Response:
    request.app[SESSIONS].line.leave(request.match_info["ticket"])
    return web.Response(status=204)


async def health(request: web.Request) -> web.Response:
    """The process lives."""
    return web.json_response({"status": "ok"})


async def readiness(request: web.Request) -> web.Response:
    """200 when a model is warm, else 503 with the reason."""
    devices = request.app[SESSIONS].devices
    if request.app[SESSIONS].draining:
        raise Refusal(503, "draining", "this node takes no new sessions: it is draining", retry_after=2)
    for name, fault in request.app[VITALS].faults.items():
        raise Refusal(503, "not_ready", f"the {name} died and starts again: {fault}", retry_after=2)
    if devices.state != "ready":
        reason = f"{devices.state}: {devices.reason}" if devices.reason else devices.state
        raise Refusal(503, "not_ready", f"no model is ready: {reason}", retry_after=2)
    told: dict[str, Any] = {"status": "ready", "model": request.app[SESSIONS].settings.model}
    pushes = {name: {"state": push.state, "fault": push.fault} for name, push in request.app[PUSHES].items()}
    relays = {"sources": request.app[SOURCES].state(), "pushes": pushes}
    return web.json_response(told | {name: states for name, states in relays.items() if states})


async def models(request: web.Request) -> web.Response:
    sessions = request.app[SESSIONS]
    worker = sessions.worker
    costs = worker.ready.chunk_seconds if worker.ready else {}
    start = sessions.devices.start_size(asyncio.get_running_loop().time())
    model = {
        "name": sessions.settings.model,
        "state": sessions.devices.state,
        "device": sessions.devices.name if worker.loaded else None,
        "chunk_seconds": {f"{width}x{height}": round(s, 4) for (width, height), s in costs.items()},
        "start_size": f"{start[0]}x{start[1]}" if start else None,
        "latencies": latencies(sessions.settings.model),
        "solver": sessions.solver.model_dump(mode="json"),
        "tiers": tiers(sessions.settings.model),
    }
    return web.json_response({"models": [model]})


async def operators(request: web.Request) -> web.Response:
    """Every operator's kind, JSON schema and defaults."""
    return web.json_response({"operators": described_operators()})


@cache
def described_operators() -> list[dict[str, Any]]:
    """They stay the same, and making them takes 10 ms."""
    schemas = [operator.model_json_schema() for operator in get_args(get_args(OperatorConfig)[0])]
    return [
        {"kind": schema["properties"]["kind"]["const"], "schema": schema, "defaults": defaults(schema)}
        for schema in schemas
    ]


async def ice(request: web.Request) -> web.Response:
    """The STUN and TURN servers, as a browser's RTCPeerConnection takes them. Their logins end: ask before an offer."""
    servers = ice_servers(request.app[SESSIONS].settings, time.time())
    body = {"iceServers": [server.as_dict() for server in servers]}
    return web.json_response(body, headers={"Cache-Control": "no-store"})


async def stats(request: web.Request) -> web.Response:
    """The server as a whole, for people and load tests. It names no session: who knows its id may end it."""
    sessions, now = request.app[SESSIONS], asyncio.get_running_loop().time()
    devices = sessions.devices
    return web.json_response(
        {
            "device": {
                "state": devices.state,
                "restarts": sum(worker.restarts for worker in devices.workers),
                "load": round(devices.load(now), 3),
                "slowness": round(devices.slowness(now), 3),
                "waiting": devices.waiting(),
            },
            "devices": [device_stats(dispatch, now) for dispatch in devices.all],
            "processes": {"server": usage(os.getpid()), "device": usage(sessions.worker.pid)},
            "tasks": len(asyncio.all_tasks()),
            "frame_memory_bytes": sum(worker.memory_bytes for worker in devices.workers),
            "sessions": [nameless(session.report()) for session in sessions],
            "sources": request.app[SOURCES].report(),
            "pushes": {name: push.report() for name, push in request.app[PUSHES].items()},
            "opened": sessions.opened_total,
            "refused": sessions.refused_total,
        }
    )


def device_stats(dispatch: Dispatch, now: float) -> dict[str, Any]:
    """One device of the server."""
    worker = dispatch.worker
    return {
        "name": worker.device_name,
        "state": worker.state,
        "restarts": worker.restarts,
        "load": round(dispatch.admission.load(now), 3),
        "sessions": dispatch.reserved,
        "process": usage(worker.pid),
    }


def nameless(report: dict[str, Any]) -> dict[str, Any]:
    """A session's report without what is its client's alone: its id, and what it drew."""
    return {**{key: value for key, value in report.items() if key != "id"}, "operator": undrawn(report["operator"])}


def undrawn(operator: dict[str, Any]) -> dict[str, Any]:
    """An operator's settings without its picture, and without those of its parts."""
    found = {key: value for key, value in operator.items() if key != "png"}
    return found | ({"operators": list(map(undrawn, found["operators"]))} if "operators" in found else {})


def usage(pid: int | None) -> dict[str, int] | None:
    found = usage_of(pid)
    return None if pid is None or found is None else {"pid": pid, **asdict(found)}


async def page(request: web.Request) -> web.StreamResponse:
    """One file of the page, `index.html` where none is named; a browser asks each time whether it is still the same."""
    name = request.match_info.get("file", "index.html")
    if name not in PAGE:
        raise web.HTTPNotFound
    return web.FileResponse(WEB / name, headers={"Cache-Control": "no-cache"})


def defaults(schema: dict[str, Any]) -> dict[str, Any]:
    """The values that a schema's properties have when nothing is said."""
    return {name: p["default"] for name, p in schema["properties"].items() if "default" in p}
