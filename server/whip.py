"""Publish with WHIP (RFC 9725), watch with WHEP: two kinds of standard client, joined by a stream's name.

`POST /whip/NAME` opens a session whose restored video goes nowhere yet, `POST /whep/NAME` one more player.
Neither client needs to know of us: no JSON, no data channel, candidates by PATCH, the end by DELETE.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from server.broadcast import Broadcast, PlayerTrack
from server.ice import ice_servers
from server.rtc import PeerConnection
from server.sdp import Offer, OfferRefused, Purpose, SdpLimits, parse_fragment, parse_offer
from server.session import Session, SessionConfig, SessionState
from server.sessions import Refusal, Sessions, negotiate, rtc_config
from server.settings import Settings
from server.signaling import SESSIONS, Handler, read_body, sdp_limits, validate

logger = logging.getLogger(__name__)

SDP = "application/sdp"
FRAGMENT = "application/trickle-ice-sdpfrag"
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
CONFIG_QUERY = ("operator", "mode", "size", "fps", "seed", "record")
PLAYER_PACKETS = 50
"""packets of sound that may wait for a player: one second"""

CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Location, ETag, Link",
}
PREFLIGHT = {
    "Access-Control-Allow-Methods": "OPTIONS, GET, HEAD, POST, PATCH, DELETE",
    "Access-Control-Allow-Headers": "Content-Type, Authorization, If-Match",
    "Access-Control-Max-Age": "86400",
}


@dataclass(eq=False)
class Player:
    """One WHEP client of a stream."""

    id: str
    pc: PeerConnection
    offer: Offer
    tracks: list[tuple[Broadcast, PlayerTrack]] = field(default_factory=list)
    deadline: asyncio.Task[None] | None = None


@dataclass(eq=False)
class Stream:
    """What one WHIP client publishes, restored, and who watches it."""

    name: str
    session: Session
    offer: Offer
    video: Broadcast
    sound: Broadcast | None
    players: dict[str, Player] = field(default_factory=dict)

    @property
    def broadcasts(self) -> list[Broadcast]:
        return [self.video] if self.sound is None else [self.video, self.sound]


class Streams:
    """All named streams of one server."""

    def __init__(self, sessions: Sessions):
        self.sessions = sessions
        self.settings: Settings = sessions.settings
        self._streams: dict[str, Stream | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # --- publishing -----------------------------------------------------------------------------------------

    async def publish(self, name: str, offer: Offer, config: SessionConfig) -> tuple[Stream, str]:
        """Opens a session for `name`, and its answer. The name is taken before anything is awaited."""
        self._claim(name)
        try:
            opened = await self.sessions.open(offer, config, returns=False)
        except BaseException:
            del self._streams[name]
            raise
        session = opened.session
        sound = Broadcast(session.sound, PLAYER_PACKETS) if session.sound else None
        stream = Stream(name, session, offer, session.output, sound)
        self._streams[name] = stream
        self._spawn(self._play(stream))
        return stream, opened.answer

    def _claim(self, name: str) -> None:
        """Takes the name, from a publisher that has gone silent if need be."""
        if name not in self._streams:
            self._streams[name] = None
            return
        stream = self._streams[name]
        if stream is None or (self._lives(stream) and stream.session.silence < self.settings.idle_pause):
            raise Refusal(409, "name_taken", f"somebody publishes {name!r} already", retry_after=5)
        self._streams[name] = None
        self.sessions.end(stream.session.id, "another publisher took its name")

    async def _play(self, stream: Stream) -> None:
        """Plays the stream to its players until the session ends, then ends them."""
        sound = asyncio.create_task(stream.sound.run()) if stream.sound else None
        try:
            await stream.video.ended.wait()
        finally:
            if self._streams.get(stream.name) is stream:
                del self._streams[stream.name]
            if sound is not None:
                sound.cancel()
                [fault] = await asyncio.gather(sound, return_exceptions=True)
                if isinstance(fault, Exception):
                    logger.error("the sound of %r failed", stream.name, exc_info=fault)
            for player in list(stream.players.values()):
                await self.leave(stream, player)

    # --- watching -------------------------------------------------------------------------------------------

    async def watch(self, name: str, offer: Offer) -> tuple[Player, str]:
        """Opens one more player of `name`, and its answer."""
        stream = self.published(name)
        if len(stream.players) >= self.settings.max_players:
            raise Refusal(503, "full", f"{name!r} has {len(stream.players)} players, the most", retry_after=10)
        pc = PeerConnection(rtc_config(self.settings, stream.session.config.fps))
        player = Player(secrets.token_urlsafe(12), pc, offer)
        stream.players[player.id] = player
        player.deadline = self._spawn(self._expire(stream, player))
        tracks = self._connect(stream, player)
        try:
            answer = await negotiate(pc, offer, self.settings, tracks)
            self.published(name)  # it may have ended meanwhile
        except BaseException:
            await self.leave(stream, player)
            raise
        return player, answer

    def _connect(self, stream: Stream, player: Player) -> list[PlayerTrack]:
        """The player's tracks; and hears when it goes."""
        player.tracks = [(broadcast, broadcast.join()) for broadcast in stream.broadcasts]

        @player.pc.on("connectionstatechange")
        def on_connectionstatechange() -> None:
            if player.pc.connectionState in ("failed", "closed") and player.id in stream.players:
                self._spawn(self.leave(stream, player))

        return [track for _, track in player.tracks]

    async def _expire(self, stream: Stream, player: Player) -> None:
        """Ends a player that has not connected in time."""
        await asyncio.sleep(self.settings.connect_timeout)
        if player.pc.connectionState != "connected":
            player.deadline = None
            await self.leave(stream, player)

    async def leave(self, stream: Stream, player: Player) -> None:
        """Ends one player: what `watch` began, in reverse."""
        if stream.players.pop(player.id, None) is None:
            return
        for broadcast, track in player.tracks:
            broadcast.leave(track)
        await player.pc.close()
        if player.deadline is not None:
            player.deadline.cancel()

    def _lives(self, stream: Stream) -> bool:
        """Whether the publisher's session is open: it may have ended a moment ago."""
        return stream.session.state not in (SessionState.DRAINING, SessionState.CLOSED)

    def published(self, name: str) -> Stream:
        stream = self._streams.get(name)
        if stream is None or not self._lives(stream):
            raise Refusal(409, "not_published", f"nobody publishes {name!r} now", retry_after=2)
        return stream

    def find(self, kind: str, name: str, resource: str) -> tuple[Stream, Player | None]:
        """The stream, and for WHEP the player, that a session URL stands for."""
        stream = self._streams.get(name)
        if stream is not None and not self._lives(stream):
            stream = None
        if stream is not None and kind == "whip" and hmac.compare_digest(stream.session.id, resource):
            return stream, None
        if stream is not None and kind == "whep" and resource in stream.players:
            return stream, stream.players[resource]
        raise Refusal(404, "no_session", "no such session is open")

    async def close(self) -> None:
        """Ends every player; the sessions end their publishers."""
        for stream in list(filter(None, self._streams.values())):
            for player in list(stream.players.values()):
                await self.leave(stream, player)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def report(self) -> dict[str, Any]:
        """Who publishes and how many watch."""
        streams = filter(None, self._streams.values())
        return {stream.name: {"players": len(stream.players)} for stream in streams}

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("a stream's task failed", exc_info=error)


STREAMS = web.AppKey("streams", Streams)


# --- HTTP -----------------------------------------------------------------------------------------


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
    stream, answer = await streams.publish(name, offer, session_config(request))
    return created(request, f"/whip/{name}/{stream.session.id}", answer)


async def watch(request: web.Request) -> web.Response:
    """A new WHEP session. It speaks the publisher's sound or none."""
    streams, name = request.app[STREAMS], stream_name(request)
    stream = streams.published(name)
    offer = await read_offer(request, "play", sound_codec(stream))
    player, answer = await streams.watch(name, offer)
    return created(request, f"/whep/{name}/{player.id}", answer)


async def trickle(request: web.Request) -> web.Response:
    """More candidates: 204. ICE cannot be restarted: 422, and the session lives on (RFC 9725, 4.3)."""
    stream, player = find(request)
    if request.content_type != FRAGMENT:
        raise unsupported_type(request, FRAGMENT)
    fragment = parse_fragment(await read_text(request), limits(request))
    offer, pc = (player.offer, player.pc) if player else (stream.offer, stream.session.pc)
    if fragment.ufrag is not None and fragment.ufrag != offer.ufrag:
        raise Refusal(422, "no_ice_restart", "ICE cannot be restarted here: open a new session")
    await pc.add_candidates(fragment, offer.sections[0].mid)
    return web.Response(status=204)


async def end(request: web.Request) -> web.Response:
    stream, player = find(request)
    if player is not None:
        await request.app[STREAMS].leave(stream, player)
    else:
        request.app[SESSIONS].end(stream.session.id, "the client ended it")
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
    headers = {**PREFLIGHT, "Accept-Post": SDP}
    return web.Response(status=200, headers=headers)


@web.middleware
async def cross_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Lets pages of any origin use WHIP and WHEP: what they may do is said by a token, not by an origin."""
    response = await handler(request)
    if request.path.startswith(("/whip/", "/whep/")):
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
    unknown = set(request.query) - set(CONFIG_QUERY)
    if unknown:
        expected = ", ".join(CONFIG_QUERY)
        raise Refusal(422, "bad_setting", f"the query may have {expected}, not {sorted(unknown)[0][:40]!r}")
    fields: dict[str, Any] = {"fps": sessions.settings.fps, "solver": sessions.solver, **request.query}
    if "operator" in fields:
        fields["operator"] = operator_fields(fields["operator"])
    return validate(SessionConfig, fields)


def operator_fields(text: str) -> Any:
    """An operator in a query: its kind, or its JSON."""
    if not text.startswith("{"):
        return {"kind": text}
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "bad_json", f"operator is not JSON: {error}") from error


async def read_offer(request: web.Request, purpose: Purpose, sound: str = "") -> Offer:
    if request.content_type != SDP:
        raise unsupported_type(request, SDP)
    return parse_offer(await read_text(request), limits(request), purpose, sound)


def sound_codec(stream: Stream) -> str:
    """The codec of the publisher's sound; "none" fits no player."""
    section = stream.offer.section("audio") if stream.sound else None
    return section.codecs[0].name if section else "none"


async def read_text(request: web.Request) -> str:
    try:
        return (await read_body(request)).decode()
    except UnicodeDecodeError as error:
        raise OfferRefused(400, "bad_sdp", "the body is not UTF-8 text") from error


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
