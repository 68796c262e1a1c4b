"""Named streams: one client publishes each, and any number watch it."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from aiortc import MediaStreamTrack

from server.media.broadcast import Broadcast, PlayerTrack
from server.quotas import Quota, Quotas
from server.refusals import Asks, Refusal
from server.sessions.config import SessionConfig, SessionState
from server.sessions.negotiation import negotiate, rtc_config
from server.sessions.session import Connection, Session
from server.sessions.sessions import Sessions
from server.settings import Settings
from server.webrtc.offer import Offer
from server.webrtc.peer import PeerConnection
from server.webrtc.quality_classes import KEPT, QualityClasses

logger = logging.getLogger(__name__)

PLAYER_PACKETS = 50
"""packets of sound that may wait for a player: one second"""


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
    """What one WHIP client publishes or a source gives, restored, and who watches it."""

    name: str
    session: Session
    offer: Offer | None
    """the publisher's; a source has none"""
    video: Broadcast
    sound: Broadcast | None
    classes: QualityClasses
    """the encoders of its players"""
    players: dict[str, Player] = field(default_factory=dict)
    pushes: int = 0
    """other servers that it is pushed to"""


class Streams:
    """All named streams of one server."""

    def __init__(self, sessions: Sessions):
        self.sessions = sessions
        self.reserved: frozenset[str] = frozenset()
        """names that nobody may publish: the server's own sources have them"""
        self.settings: Settings = sessions.settings
        self._streams: dict[str, Stream | None] = {}
        self._places = Quotas()
        """the players of all streams, and whose they are"""
        self._tasks: set[asyncio.Task[None]] = set()

    # --- publishing -----------------------------------------------------------------------------------------

    async def publish(self, name: str, offer: Offer, config: SessionConfig, asks: Asks) -> tuple[Stream, str]:
        """Opens a session for `name`, and its answer. The name is taken before anything is awaited."""
        if name in self.reserved:
            raise Refusal(409, "name_taken", f"{name!r} is a source of the server itself")
        self._claim(name)
        try:
            opened = await self.sessions.open(offer, config, returns=False, asks=asks)
        except BaseException:
            del self._streams[name]
            raise
        return self._begin(name, opened.session, offer), opened.answer

    async def take_in(
        self, name: str, connection: Connection, track: MediaStreamTrack, config: SessionConfig
    ) -> Stream:
        """Opens a session for the source `name`, which must have no stream. Raises Refusal."""
        return self._begin(name, await self.sessions.take_in(connection, track, config), None)

    def _begin(self, name: str, session: Session, offer: Offer | None) -> Stream:
        sound = Broadcast(session.outlet.sound, PLAYER_PACKETS) if session.outlet.sound else None
        fps, clock = session.config.fps, asyncio.get_running_loop().time
        classes = QualityClasses(fps, rtc_config(self.settings, fps).key_frame_every, clock)
        stream = Stream(name, session, offer, session.outlet.broadcast, sound, classes)
        self._streams[name] = stream
        self._spawn(self._play(stream))
        return stream

    def _claim(self, name: str) -> None:
        """Takes the name, from a publisher that has gone silent if need be."""
        if name not in self._streams:
            self._streams[name] = None
            return
        stream = self._streams[name]
        if stream is None or (self._lives(stream) and stream.session.silence < self.settings.idle_pause):
            raise Refusal(409, "name_taken", f"somebody publishes {name!r} already", retry_after=5)
        self._streams[name] = None
        self.sessions.end(stream.session.id, "another publisher took its name", "taken_over")

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

    async def watch(self, name: str, offer: Offer, asks: Asks) -> tuple[Player, str]:
        """Opens one more player of `name`, and its answer."""
        stream = self.published(name)
        self._check_room(stream, asks)
        pc = PeerConnection(rtc_config(self.settings, stream.session.config.fps), stream.classes)
        player = Player(self.sessions.new_id(), pc, offer)
        stream.players[player.id] = player
        self._places.open(player.id, self._quotas(asks))
        player.deadline = self._spawn(self._expire(stream, player))
        tracks = self._connect(stream, player)
        try:
            answer = await negotiate(pc, offer, self.settings, tracks)
            self.published(name)  # it may have ended meanwhile
        except BaseException:
            await self.leave(stream, player)
            raise
        return player, answer

    def _quotas(self, asks: Asks) -> tuple[Quota, ...]:
        return (Quota(f"address {asks.address}", self.settings.most_players_each),)

    def _check_room(self, stream: Stream, asks: Asks) -> None:
        """Refuses a player where there are too many: of the stream, in all, or of its address."""
        self.sessions.check_rate(asks)
        if len(stream.players) >= self.settings.max_players:
            raise Refusal(503, "full", f"{stream.name!r} has {len(stream.players)} players, the most", retry_after=10)
        if len(self._places.ids) >= self.settings.most_players:
            raise Refusal(503, "full", f"this server has {len(self._places.ids)} players, the most", retry_after=10)
        if (full := self._places.exceeded(self._quotas(asks))) is not None:
            raise Refusal(429, "too_many_players", f"{full.holder} has {full.sessions} players, its most", 10)

    def _connect(self, stream: Stream, player: Player) -> list[PlayerTrack]:
        """The player's tracks; and hears when it goes."""
        player.tracks = [(stream.video, stream.video.join(KEPT))]
        if stream.sound is not None:
            player.tracks.append((stream.sound, stream.sound.join()))

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
        self._places.close(player.id)
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
        if (
            stream is not None
            and stream.offer is not None
            and kind == "whip"
            and is_same_id(stream.session.id, resource)
        ):
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


def is_same_id(known: str, shown: str) -> bool:
    """Whether two ids are one, told in the same time whatever was shown, also for what is no ASCII."""
    return hmac.compare_digest(known.encode(), shown.encode(errors="backslashreplace"))
