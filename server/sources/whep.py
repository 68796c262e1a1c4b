"""A WHEP server as a source: this server is its player."""

from __future__ import annotations

import asyncio

from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av import VideoFrame

from server.sources.config import WHEP, SourceConfig
from server.sources.track import SourceTrack
from server.webrtc.config import Arrival, RtcConfig
from server.webrtc.dial import Call, DialFailed
from server.webrtc.peer import PeerConnection


class WhepReader:
    """A `Reader` whose frames come from a WHEP server."""

    def __init__(self, config: SourceConfig, rtc: RtcConfig, track: SourceTrack):
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._config = config
        self._rtc = rtc
        self._track = track
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            reason = await self._read()
        except DialFailed as error:
            reason = str(error)
        if not self.ended.done():
            self.ended.set_result(reason)

    async def _read(self) -> str:
        """Plays until the other side ends it; returns why."""
        pc = PeerConnection(self._rtc)
        pc.addTransceiver("video", direction="recvonly")
        token = self._config.token.get_secret_value() if self._config.token else None
        async with Call(pc, address(self._config), token):
            receiver = pc.video
            if receiver is None or receiver.track is None:
                return "there is no video in it"
            await self._take(receiver.track)
            return pc.fault or "the other server ended it"

    async def _take(self, track: MediaStreamTrack) -> None:
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            assert isinstance(frame, VideoFrame) and isinstance(frame.opaque, Arrival)
            self._track.offer(frame, frame.time, frame.opaque.at, frame.opaque.lost)


def address(config: SourceConfig) -> str:
    """whep://HOST/PATH as the http:// that it stands for."""
    scheme, _, rest = config.url.get_secret_value().partition("://")
    return f"{WHEP[scheme.lower()]}://{rest}"
