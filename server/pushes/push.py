"""A restored stream on its way to a WHIP server: pushed while it is there, dialled again when the connection ends."""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

from server.device.backoff import Backoff
from server.logs import Sparing
from server.pushes.config import PushConfig
from server.refusals import Refusal
from server.sessions.negotiation import rtc_config
from server.sessions.session import clock
from server.sessions.streams import Stream, Streams
from server.sources.sources import Sources
from server.webrtc.dial import Call, DialFailed, prefer
from server.webrtc.peer import PeerConnection
from server.webrtc.quality_classes import KEPT

logger = logging.getLogger(__name__)

STEADY = 10.0
"""seconds of a connection after which the next failure is the first in a row"""
LOOK_EVERY = 0.5
"""seconds between two looks whether the stream is there"""
LOG_EVERY = 30.0
"""seconds between two lines about one push's failures"""

State = Literal["waiting", "connecting", "live", "failed"]


@dataclass(eq=False)
class Push:
    """One push of a server. It is a player of its stream: a source that starts on demand starts for it."""

    name: str
    config: PushConfig
    streams: Streams
    sources: Sources
    backoff: Backoff = field(default_factory=lambda: Backoff(sys.maxsize, first=1.0, factor=2.0, most=30.0))
    state: State = "waiting"
    """waiting for its stream"""
    fault: str | None = None
    """why nothing is pushed now, in words without the address"""
    faults: int = 0
    _lines: Sparing = field(default_factory=lambda: Sparing(LOG_EVERY))

    async def run(self) -> None:
        """Pushes whenever there is something to push, until cancelled."""
        while True:
            stream = await self._stream()
            if stream is None:
                await asyncio.sleep(LOOK_EVERY)
                continue
            began = clock()
            try:
                await self._push(stream)
            except DialFailed as error:
                if clock() - began > STEADY:
                    self.backoff.succeed()
                await self._pause(str(error))

    async def _stream(self) -> Stream | None:
        """The stream, if it is there or its source can be started."""
        try:
            await self.sources.want(self.name)
            return self.streams.published(self.name)
        except Refusal as refusal:
            known = self.name in self.sources.all
            self.state, self.fault = "waiting", refusal.message if known else None
            return None

    async def _push(self, stream: Stream) -> None:
        """Pushes until the stream ends. Raises DialFailed when the other side does, or takes nothing."""
        self.state = "connecting"
        settings = self.streams.settings
        pc = PeerConnection(rtc_config(settings, stream.session.config.fps), stream.classes)
        track = stream.video.join(KEPT)
        stream.pushes += 1
        try:
            prefer(pc.addTransceiver(track, direction="sendonly"), self.config.codec)
            async with Call(pc, self.config.address, token_of(self.config)) as call:
                self.state, self.fault = "live", None
                logger.info("the stream %r is pushed to %s", self.name, self.config.place)
                await either(call.over, stream.video.ended)
        finally:
            stream.pushes -= 1
            stream.video.leave(track)
        if not stream.video.ended.is_set():
            raise DialFailed("the other server ended the connection")

    async def _pause(self, fault: str) -> None:
        wait = self.backoff.fail()
        self.faults += 1
        self.state, self.fault = "failed", fault
        unsaid = self._lines.due(self.name, clock())
        if unsaid is not None:
            fields = {"event": "push_failed", "push": self.name, "unsaid": unsaid}
            text = "the push of %r to %s failed: %s; next attempt in %.0f s"
            logger.warning(text, self.name, self.config.place, fault, wait, extra={"fields": fields})
        await asyncio.sleep(wait)

    def report(self) -> dict[str, Any]:
        """What `GET /stats` says about it."""
        return {"state": self.state, "fault": self.fault, "to": self.config.place, "faults": self.faults}


def token_of(config: PushConfig) -> str | None:
    return config.token.get_secret_value() if config.token is not None else None


async def either(*events: asyncio.Event) -> None:
    """Waits until one of the events is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
