"""The HTTP interface: sessions are opened, asked, changed and ended here. No input is answered with a 500."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from aiohttp import web
from pydantic import Field, ValidationError

from core.config import Config
from core.errors import explain
from core.operators import Operator
from core.solver import SolverConfig
from server.addresses import client_of
from server.ice import ice_servers
from server.sdp import OfferRefused, SdpLimits, parse_offer
from server.session import SessionConfig
from server.sessions import Asks, Place, Refusal, Sessions
from server.usage import usage_of

logger = logging.getLogger(__name__)

C = TypeVar("C", bound=Config)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SESSIONS = web.AppKey("sessions", Sessions)

WEB = Path(__file__).resolve().parents[1] / "web"

PAGE = frozenset(path.name for path in WEB.glob("*.*"))
"""the files of the page, all in one folder"""

BODY_TIMEOUT = 5.0
"""seconds that a request's body may take to arrive"""

GUARDED = ("/sessions", "/queue/", "/ice", "/stats", "/whip/", "/whep/")
"""what a client may not reach without the token, where the server asks for one"""


class OfferBody(Config):
    """What POST /sessions takes beside the fields of a SessionConfig."""

    sdp: str
    """the offer"""
    type: Literal["offer"]
    model: str | None = None
    """name of the model; unset takes the server's"""
    resume: str | None = None
    """id of a session whose connection was lost, to go on with it; other fields are then of no account"""
    queue: bool = False
    """where there is no place, wait for one: the refusal then tells the client's position and a ticket"""
    ticket: str | None = Field(None, max_length=64)
    """the ticket of an earlier refusal, which keeps the place in line"""


class Change(Config):
    """What PATCH /sessions/ID takes."""

    operator: Operator | None = None
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
    fields["solver"] = merged_solver(sessions.solver, fields.get("solver"))
    fields.setdefault("fps", sessions.settings.fps)
    config = validate(SessionConfig, fields)
    offer = parse_offer(offer_body.sdp, sdp_limits(sessions))
    if offer_body.resume is not None:
        opened = await sessions.resume(offer_body.resume, offer)
    else:
        forwarded = ",".join(request.headers.getall("X-Forwarded-For", []))
        client = client_of(request.remote, forwarded, sessions.settings.trusted_proxies)
        opened = await sessions.open(offer, config, asks=Asks(offer_body.queue, offer_body.ticket, client))
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
        "solver": merged_solver(wanted.solver, change.solver),
    }
    config = wanted.model_copy(update=update)
    return web.json_response({"applies_from_chunk": await sessions.change(session.id, config)})


async def end_session(request: web.Request) -> web.Response:
    sessions = request.app[SESSIONS]
    sessions.end(sessions.get(request.match_info["id"]).id, "the client ended it")
    return web.Response(status=204)


async def leave_line(request: web.Request) -> web.Response:
    request.app[SESSIONS].line.leave(request.match_info["ticket"])
    return web.Response(status=204)


async def health(request: web.Request) -> web.Response:
    """The process lives."""
    return web.json_response({"status": "ok"})


async def readiness(request: web.Request) -> web.Response:
    """200 when a model is warm, else 503 with the reason."""
    worker = request.app[SESSIONS].worker
    if worker.state != "ready":
        reason = f"{worker.state}: {worker.reason}" if worker.reason else worker.state
        raise Refusal(503, "not_ready", f"no model is ready: {reason}", retry_after=2)
    return web.json_response({"status": "ready", "model": request.app[SESSIONS].settings.model})


async def models(request: web.Request) -> web.Response:
    sessions = request.app[SESSIONS]
    worker = sessions.worker
    costs = worker.ready.chunk_seconds if worker.ready else {}
    model = {
        "name": sessions.settings.model,
        "state": worker.state,
        "device": worker.loaded.device if worker.loaded else None,
        "chunk_seconds": {f"{width}x{height}": round(s, 4) for (width, height), s in costs.items()},
        "solver": sessions.solver.model_dump(mode="json"),
    }
    return web.json_response({"models": [model]})


async def operators(request: web.Request) -> web.Response:
    """Every operator's kind, JSON schema and defaults."""
    union = get_args(Operator)[0]
    return web.json_response(
        {
            "operators": [
                {
                    "kind": schema["properties"]["kind"]["const"],
                    "schema": schema,
                    "defaults": defaults(schema),
                }
                for schema in (operator.model_json_schema() for operator in get_args(union))
            ]
        }
    )


async def ice(request: web.Request) -> web.Response:
    """The STUN and TURN servers, as a browser's RTCPeerConnection takes them. Their logins end: ask before an offer."""
    servers = ice_servers(request.app[SESSIONS].settings, time.time())
    body = {"iceServers": [server.as_dict() for server in servers]}
    return web.json_response(body, headers={"Cache-Control": "no-store"})


async def stats(request: web.Request) -> web.Response:
    """The server as a whole, for people and load tests. It names no session: who knows its id may end it."""
    sessions = request.app[SESSIONS]
    now = asyncio.get_running_loop().time()
    return web.json_response(
        {
            "device": {
                "state": sessions.worker.state,
                "restarts": sessions.worker.restarts,
                "load": round(sessions.admission.load(now), 3),
                "slowness": round(sessions.admission.slowness(now), 3),
                "waiting": sessions.scheduler.waiting(),
            },
            "processes": {"server": usage(os.getpid()), "device": usage(sessions.worker.pid)},
            "tasks": len(asyncio.all_tasks()),
            "frame_memory_bytes": sessions.worker.memory_bytes,
            "sessions": [nameless(session.report()) for session in sessions],
            "opened": sessions.opened_total,
            "refused": sessions.refused_total,
        }
    )


def nameless(report: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if key != "id"}


def usage(pid: int | None) -> dict[str, int] | None:
    found = usage_of(pid)
    return None if pid is None or found is None else {"pid": pid, **asdict(found)}


async def page(request: web.Request) -> web.StreamResponse:
    """One file of the page, `index.html` where none is named; a browser asks each time whether it is still the same."""
    name = request.match_info.get("file", "index.html")
    if name not in PAGE:
        raise web.HTTPNotFound
    return web.FileResponse(WEB / name, headers={"Cache-Control": "no-cache"})


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal in one form. What is left is a fault of ours, and only that is a 500."""
    try:
        return await handler(request)
    except Refusal as refusal:
        count_refusal(request, refusal.code)
        return error_response(refusal.status, refusal.code, refusal.message, refusal.retry_after, refusal.place)
    except OfferRefused as refusal:
        count_refusal(request, refusal.code)
        return error_response(refusal.status, refusal.code, refusal.message)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        count_refusal(request, code_of(error))
        response = error_response(error.status, code_of(error), f"{error.reason}: {request.method} {request.path[:80]}")
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response


@web.middleware
async def ask_token(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Lets nobody open, see or change anything without the server's token, if it has one. A preflight shows none."""
    token, shown = request.app[SESSIONS].settings.token, request.headers.get("Authorization", "")
    guarded = request.path.startswith(GUARDED) and request.method != "OPTIONS"
    if token is not None and guarded and not shows(shown, token):
        raise Refusal(401, "unauthorized", "an Authorization: Bearer header with the right token is expected")
    return await handler(request)


def shows(authorization: str, token: str) -> bool:
    """Whether an Authorization header holds the token, told in the same time whatever it holds."""
    scheme, _, shown = authorization.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(
        shown.strip().encode(errors="surrogateescape"), token.encode()
    )


def count_refusal(request: web.Request, code: str) -> None:
    """Counts a refused request to open something; each code stands in the source, so there are not many."""
    if request.method == "POST":
        request.app[SESSIONS].refusals[code] += 1


def error_response(
    status: int, code: str, message: str, retry_after: float | None = None, place: Place | None = None
) -> web.Response:
    headers = {} if retry_after is None else {"Retry-After": str(math.ceil(retry_after))}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body: dict[str, Any] = {"error": {"code": code, "message": message, "retryable": retry_after is not None}}
    if place is not None:
        body["queue"] = {"position": place.position, "ticket": place.ticket}
    return web.json_response(body, status=status, headers=headers)


def code_of(error: web.HTTPException) -> str:
    known = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "bad_content_type"}
    return known.get(error.status, "bad_request")


async def read_body(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            return await request.read()
    except TimeoutError as error:
        raise Refusal(400, "slow_body", f"the body did not arrive within {BODY_TIMEOUT:g} s") from error
    except web.RequestPayloadError as error:
        raise Refusal(400, "bad_body", "the body is not what its Content-Encoding says, or broke off") from error


async def read_json(request: web.Request) -> dict[str, Any]:
    """The body of a request, which must be one JSON object."""
    if request.content_type != "application/json":
        raise Refusal(415, "bad_content_type", f"the body must be application/json, not {request.content_type}")
    raw = await read_body(request)
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, a number of thousands of digits, too deep
        raise Refusal(400, "bad_json", f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise Refusal(400, "bad_json", f"the body must be a JSON object, not {type(body).__name__}")
    return body


def validate(config: type[C], values: dict[str, Any], within: str = "") -> C:
    """The values as a configuration; a 422 with one sentence that names the first wrong one, `within` what it is."""
    try:
        return config.model_validate(values)
    except ValidationError as error:
        raise Refusal(422, "bad_setting", within + explain(error)) from error


def merged_solver(base: SolverConfig, changes: object) -> SolverConfig:
    """`base` with some settings changed."""
    if changes is None:
        return base
    if not isinstance(changes, dict):
        raise Refusal(422, "bad_setting", f"solver: expected an object of settings, found {changes!r:.60}")
    return validate(SolverConfig, {**base.model_dump(), **changes}, "solver.")


def defaults(schema: dict[str, Any]) -> dict[str, Any]:
    """The values that a schema's properties have when nothing is said."""
    return {name: p["default"] for name, p in schema["properties"].items() if "default" in p}


def sdp_limits(sessions: Sessions) -> SdpLimits:
    return SdpLimits(allow_loopback=sessions.settings.host in ("127.0.0.1", "::1", "localhost"))
