"""Publish with WHIP (RFC 9725), watch with WHEP: two kinds of standard client, joined by a stream's name.

`POST /whip/NAME` opens a session whose restored video goes nowhere yet, `POST /whep/NAME` one more player.
Neither client needs to know of us: no JSON, no data channel, candidates by PATCH, the end by DELETE.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator

from aiohttp import web

from server.api.access import asks_of
from server.api.bodies import merged_solver, read_body, sdp_limits, validate
from server.api.guards import CROSS_ORIGIN, is_cross_origin
from server.api.keys import SESSIONS, SOURCES, STREAMS, Handler
from server.refusals import Refusal
from server.sessions.config import WORDS, SessionConfig, from_words
from server.sessions.streams import Player, Stream, Streams
from server.webrtc.candidates import parse_fragment
from server.webrtc.ice_servers import ice_servers
from server.webrtc.offer import Offer, Purpose, parse_offer
from server.webrtc.peer import FRAGMENTS, PeerConnection
from server.webrtc.sdp_lines import SdpLimits

SDP = "application/sdp"
FRAGMENT = "application/trickle-ice-sdpfrag"
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Location, ETag, Link",
}
PREFLIGHT = {
    "Access-Control-Allow-Methods": "OPTIONS, GET, HEAD, POST, PATCH, DELETE",
    "Access-Control-Allow-Headers": "Content-Type, Authorization, If-Match",
    "Access-Control-Max-Age": "86400",
}


def attach(app: web.Application) -> None:
    """Adds WHIP and WHEP to an application that has its sessions."""
    app[STREAMS] = Streams(app[SESSIONS])
    app.middlewares.insert(0, cross_origin)
    for kind, post in (("whip", publish), ("whep", watch)):
        app.router.add_route("OPTIONS", f"/{kind}/{{name}}", options)
        app.router.add_route("GET", f"/{kind}/{{name}}", look)
        app.router.add_route("HEAD", f"/{kind}/{{name}}", look)
        app.router.add_route("POST", f"/{kind}/{{name}}", post)
        app.router.add_route("OPTIONS", f"/{kind}/{{name}}/{{id}}", options)
        app.router.add_route("GET", f"/{kind}/{{name}}/{{id}}", look)
        app.router.add_route("PATCH", f"/{kind}/{{name}}/{{id}}", trickle)
        app.router.add_route("DELETE", f"/{kind}/{{name}}/{{id}}", end)
    app.cleanup_ctx.append(run_streams)


async def run_streams(app: web.Application) -> AsyncIterator[None]:
    yield
    await app[STREAMS].close()


async def publish(request: web.Request) -> web.Response:
    """A new WHIP session."""
    streams, name = request.app[STREAMS], stream_name(request)
    offer = await read_offer(request, "publish")
    stream, answer = await streams.publish(name, offer, session_config(request), asks_of(request))
    return created(request, f"/whip/{name}/{stream.session.id}", answer)


async def watch(request: web.Request) -> web.Response:
    """A new WHEP session. It speaks the publisher's sound or none."""
    streams, name = request.app[STREAMS], stream_name(request)
    await request.app[SOURCES].want(name)
    stream = streams.published(name)
    offer = await read_offer(request, "play", sound_codec(stream))
    player, answer = await streams.watch(name, offer, asks_of(request))
    return created(request, f"/whep/{name}/{player.id}", answer)


async def trickle(request: web.Request) -> web.Response:
    """More candidates: 204. ICE cannot be restarted: 422, and the session lives on (RFC 9725, 4.3)."""
    stream, player = find(request)
    if request.content_type != FRAGMENT:
        raise unsupported_type(request, FRAGMENT)
    offer, pc = (player.offer, player.pc) if player else (stream.offer, stream.session.pc)
    assert offer is not None and isinstance(pc, PeerConnection), "a source has no client, so no client knows its id"
    if not pc.may_trickle():
        raise Refusal(429, "too_many_changes", f"a connection may trickle {FRAGMENTS:g} times a second", retry_after=1)
    fragment = parse_fragment(await read_text(request), limits(request))
    if fragment.ufrag is not None and fragment.ufrag != offer.ufrag:
        raise Refusal(422, "no_ice_restart", "ICE cannot be restarted here: open a new session")
    await pc.add_candidates(fragment, offer.sections[0].mid)
    return web.Response(status=204)


async def end(request: web.Request) -> web.Response:
    stream, player = find(request)
    if player is not None:
        await request.app[STREAMS].leave(stream, player)
    else:
        request.app[SESSIONS].end(stream.session.id, "the client ended it", "client")
    return web.Response(status=200)


async def look(request: web.Request) -> web.Response:
    """GET and HEAD say that there is an endpoint, and of which kind."""
    stream_name(request)
    if "id" in request.match_info:
        find(request)
    if request.method == "HEAD":
        return web.Response(status=200, content_type=SDP)
    return web.Response(status=204)


async def options(request: web.Request) -> web.Response:
    headers = {"Accept-Post": SDP, **(PREFLIGHT if is_cross_origin(request) else {})}
    return web.Response(status=200, headers=headers)


@web.middleware
async def cross_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Lets pages of any origin use WHIP and WHEP where the server asks for a token, which says what they may do.

    Without one, a page that a user happens to open could publish, and watch what others publish.
    """
    response = await handler(request)
    if request.path.startswith(CROSS_ORIGIN):
        if is_cross_origin(request):
            response.headers.update(CORS)
        if response.status == 415:
            response.headers["Accept-Post"] = SDP
    return response


def stream_name(request: web.Request) -> str:
    name = request.match_info["name"]
    if not NAME.fullmatch(name):
        raise Refusal(404, "bad_name", "a stream's name has 1 to 64 letters, digits, dots, dashes or underscores")
    return name


def find(request: web.Request) -> tuple[Stream, Player | None]:
    name = stream_name(request)
    kind = request.path.split("/")[1]
    return request.app[STREAMS].find(kind, name, request.match_info["id"])


def session_config(request: web.Request) -> SessionConfig:
    """The session that the query asks for, as in `?operator=inpainting&fps=24`; the rest is default."""
    sessions = request.app[SESSIONS]
    unknown = set(request.query) - set(WORDS)
    if unknown:
        expected = ", ".join(WORDS)
        raise Refusal(422, "bad_setting", f"the query may have {expected}, not {sorted(unknown)[0][:40]!r}")
    try:
        said = from_words(request.query)
    except ValueError as error:
        raise Refusal(400, "bad_json", str(error)) from error
    asked = {"tier": said.pop("tier")} if "tier" in said else {}
    solver = merged_solver(sessions.solver, asked, sessions.settings.model).model_dump(mode="json")
    return validate(SessionConfig, {"fps": sessions.settings.fps, "solver": solver, **said})


async def read_offer(request: web.Request, purpose: Purpose, sound: str = "") -> Offer:
    if request.content_type != SDP:
        raise unsupported_type(request, SDP)
    return parse_offer(await read_text(request), limits(request), purpose, sound)


def sound_codec(stream: Stream) -> str:
    """The codec of the publisher's sound; "none" fits no player."""
    section = stream.offer.section("audio") if stream.offer and stream.sound else None
    return section.codecs[0].name if section else "none"


async def read_text(request: web.Request) -> str:
    try:
        return (await read_body(request)).decode()
    except UnicodeDecodeError as error:
        raise Refusal(400, "bad_sdp", "the body is not UTF-8 text") from error


def limits(request: web.Request) -> SdpLimits:
    return sdp_limits(request.app[SESSIONS])


def unsupported_type(request: web.Request, expected: str) -> Refusal:
    return Refusal(415, "bad_content_type", f"the body must be {expected}, not {request.content_type[:60]}")


def created(request: web.Request, location: str, answer: str) -> web.Response:
    """201 with the answer, where the session is, and the ICE servers to use."""
    servers = ice_servers(request.app[SESSIONS].settings, time.time())
    response = web.Response(status=201, text=answer, content_type=SDP, headers={"Location": location})
    for server in servers:
        response.headers.add("Link", server.link())
    return response
