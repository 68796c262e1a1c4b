"""One source: read while somebody wants it, restored by a session of its own, tried again when it fails."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from server.device.backoff import Backoff
from server.logs import Sparing
from server.refusals import Refusal
from server.sessions.config import SessionConfig, SessionState
from server.sessions.session import clock
from server.sessions.streams import Stream, Streams
from server.sessions.telemetry import EndCode
from server.sources.config import SourceConfig, session_config
from server.sources.reader import Reader
from server.sources.track import SourceTrack

logger = logging.getLogger(__name__)

LINGER = 10.0
"""seconds that a source which starts on demand goes on without a player"""
OPENING = 15.0
"""seconds from the start of a reader to its first picture"""
STEADY = 10.0
"""seconds of pictures after which the next failure is the first in a row"""
LOOK_EVERY = 0.25
"""seconds between two looks at whether a source is still wanted"""
PATIENCE = 8.0
"""seconds that a player is kept waiting for the first picture"""
LOG_EVERY = 30.0
"""seconds between two lines about one source's failures"""

State = Literal["idle", "connecting", "live", "failed"]


class Feed:
    """What stands in a session in the place of a client's peer connection."""

    def __init__(self, source: Source):
        self.track = SourceTrack()
        self._source = source

    @property
    def fault(self) -> str | None:
        return self._source.fault

    def counters(self) -> dict[str, Any]:
        return {"source": self._source.name, "frames": self.track.frames, "frames_overrun": self.track.dropped}

    async def close(self) -> None:
        self.track.stop()


MakeReader = Callable[[SourceConfig, SourceTrack, str], Reader]


@dataclass(eq=False)
class Source:
    """One source of a server."""

    name: str
    config: SourceConfig
    streams: Streams
    make_reader: MakeReader
    backoff: Backoff = field(default_factory=lambda: Backoff(sys.maxsize, first=1.0, factor=2.0, most=30.0))
    linger: float = LINGER
    opening: float = OPENING
    state: State = "idle"
    fault: str | None = None
    """why it is not read now, in words without its address"""
    faults: int = 0
    frames: int = 0
    """of feeds that are over"""
    dropped: int = 0
    _next: float = 0.0
    """when the next attempt begins"""
    _asked: float = float("-inf")
    """when a player asked last"""
    _feed: Feed | None = None
    _stream: Stream | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _lines: Sparing = field(default_factory=lambda: Sparing(LOG_EVERY))

    # --- players ----------------------------------------------------------------------------------

    async def want(self, patience: float = PATIENCE) -> None:
        """Starts the source, if need be, and waits until it plays. Raises Refusal with the reason when it does not."""
        self._asked = clock()
        try:
            async with asyncio.timeout(patience):
                while not self.lives:
                    if self.state == "failed":
                        raise self._unavailable()
                    self._changed.clear()
                    await self._changed.wait()
                    self._asked = clock()
        except TimeoutError:
            raise self._unavailable() from None

    @property
    def lives(self) -> bool:
        """Whether it has a stream that players can join."""
        return self._stream is not None and self._stream.session.state not in (
            SessionState.DRAINING,
            SessionState.CLOSED,
        )

    def is_wanted(self, now: float) -> bool:
        """Whether it should be read: somebody plays it; or did a moment ago, or it always is, and a model is ready."""
        if self._stream is not None and (self._stream.players or self._stream.pushes):
            self._asked = now
            return True
        sessions = self.streams.sessions
        if sessions.draining or sessions.closing or sessions.devices.state != "ready":
            return False
        return self.config.start == "always" or now - self._asked < self.linger

    def _unavailable(self) -> Refusal:
        state = self.streams.sessions.devices.state
        why = self.fault or ("it is still being opened" if state == "ready" else f"no model is ready: {state}")
        wait = max(1.0, self._next - clock())
        return Refusal(503, "source_unavailable", f"the source {self.name!r} gives no picture: {why}", wait)

    # --- its life ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Reads the source whenever it is wanted, until cancelled."""
        try:
            while True:
                while not self.is_wanted(clock()):
                    self._set("idle", None)
                    self._end("nobody plays the source")
                    await asyncio.sleep(LOOK_EVERY)
                fault = await self._read()
                if fault is not None:
                    await self._pause(fault)
        finally:
            self._end("the server stops its sources", "shutdown")

    async def _read(self) -> str | None:
        """Reads once; returns why that ended, None when nobody wants it any more."""
        self._set("connecting", self.fault)
        if self._feed is None or (self._stream is not None and not self.lives):
            self._forget()
            self._feed = Feed(self)
        feed = self._feed
        feed.track.restart()
        reader = self.make_reader(self.config, feed.track, self.name)
        reader.start()
        try:
            fault = await self._opening(reader, feed)
            if fault is not None:
                return fault
            self._set("live", None)
            began = clock()
            fault = await self._playing(reader)
            if clock() - began > STEADY:
                self.backoff.succeed()
            return fault
        finally:
            await reader.stop()

    async def _opening(self, reader: Reader, feed: Feed) -> str | None:
        """Waits for the first picture, and opens a session for it. Returns what went wrong."""
        arrived = asyncio.ensure_future(feed.track.arrived.wait())
        try:
            either: list[asyncio.Future[Any]] = [arrived, reader.ended]
            await asyncio.wait(either, timeout=self.opening, return_when=asyncio.FIRST_COMPLETED)
        finally:
            arrived.cancel()
        if not feed.track.arrived.is_set():
            return reader.ended.result() if reader.ended.done() else f"no picture within {self.opening:g} s"
        if self.lives:
            return None
        try:  # in a task: the name of the session is for the log lines of that session only
            self._stream = await asyncio.ensure_future(self._take_in(feed))
        except Refusal as refusal:
            return refusal.message
        return None

    async def _take_in(self, feed: Feed) -> Stream:
        return await self.streams.take_in(self.name, feed, feed.track, self._session())

    def _session(self) -> SessionConfig:
        sessions = self.streams.sessions
        return session_config(self.config, sessions.settings, sessions.solver.model_dump(mode="json"))

    async def _playing(self, reader: Reader) -> str | None:
        """Until the reader or the session ends, or nobody wants it: then None."""
        assert self._stream is not None
        session = self._stream.session
        while not reader.ended.done():
            if not self.lives:
                return f"its session ended: {session.reason or 'the server closes it'}"
            if not self.is_wanted(clock()):
                return None
            await asyncio.wait([reader.ended], timeout=LOOK_EVERY)
        return reader.ended.result()

    async def _pause(self, fault: str) -> None:
        """Waits before the next attempt, longer after each failure in a row."""
        wait = self.backoff.fail()
        self.faults += 1
        self._next = clock() + wait
        self._set("failed", fault)
        self._log(fault, wait)
        await asyncio.sleep(wait)

    def _log(self, fault: str, wait: float) -> None:
        unsaid = self._lines.due(self.name, clock())
        if unsaid is None:
            return
        more = f" ({unsaid} more failures since the last such line)" if unsaid else ""
        place, fields = self.config.place, {"event": "source_failed", "source": self.name, "unsaid": unsaid}
        text = "the source %r (%s) failed: %s; next attempt in %.0f s%s"
        logger.warning(text, self.name, place, fault, wait, more, extra={"fields": fields})

    def _set(self, state: State, fault: str | None) -> None:
        if (state, fault) != (self.state, self.fault):
            self.state, self.fault = state, fault
            self._changed.set()
            if state == "live":
                logger.info("the source %r (%s) plays", self.name, self.config.place)

    def _end(self, reason: str, code: EndCode = "unwatched") -> None:
        """Ends the session, if there is one."""
        if self._stream is not None and self.lives:
            self.streams.sessions.end(self._stream.session.id, reason, code)
        self._forget()

    def _forget(self) -> None:
        if self._feed is not None:
            self.frames += self._feed.track.frames
            self.dropped += self._feed.track.dropped
        self._feed, self._stream = None, None

    # --- figures ----------------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """What `GET /stats` says about it."""
        track = self._feed.track if self._feed is not None else None
        return {
            "state": self.state,
            "fault": self.fault,
            "from": self.config.place,
            "players": len(self._stream.players) if self._stream is not None else 0,
            "frames": self.frames + (track.frames if track else 0),
            "frames_dropped": self.dropped + (track.dropped if track else 0),
            "faults": self.faults,
        }
