"""Sending restored video: probing the path, pacing, key frames on request, retransmission."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from aiortc import MediaStreamTrack
from aiortc import clock as rtp_clock
from aiortc.codecs.base import Encoder
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpparameters import RTCRtpSendParameters
from aiortc.rtcrtpsender import RTCRtpSender
from aiortc.rtp import (
    RTCP_RTPFB_NACK,
    RTP_HISTORY_SIZE,
    RtcpRrPacket,
    RtcpRtpfbPacket,
    RtcpSrPacket,
    RtpPacket,
)

from server.webrtc.bitrate import Pacer, Repeats
from server.webrtc.config import RtcConfig
from server.webrtc.dtls import GuardedDtls
from server.webrtc.encoder import VideoEncoder
from server.webrtc.ice_agent import BoundConnection

logger = logging.getLogger(__name__)

MAX_REQUESTED = 100
"""packets of one request that are sent again: more are lost, and only a key frame helps"""


class History(dict[int, RtpPacket]):
    """Sent packets, for retransmission: aiortc keeps 128, which at 4 Mbit/s is a third of a second."""

    def __init__(self, limit: int = 1024):
        super().__init__()
        self._limit = limit
        self._sent: dict[int, RtpPacket] = {}

    def __setitem__(self, slot: int, packet: RtpPacket) -> None:
        super().__setitem__(slot, packet)
        self._sent.pop(packet.sequence_number, None)
        self._sent[packet.sequence_number] = packet
        if len(self._sent) > self._limit:
            del self._sent[next(iter(self._sent))]

    def holds(self, sequence: int) -> bool:
        """Whether the packet of that number can be sent again."""
        return sequence in self._sent

    def recall(self, sequence: int) -> None:
        """Puts an older packet back where aiortc looks for it, with the present time as its send time.

        With its first send time it would seem so late that each repaired loss lowered the receiver's estimate.
        """
        if packet := self._sent.get(sequence):
            packet.extensions.abs_send_time = rtp_clock.current_ntp_time() >> 14 & 0xFFFFFF
            super().__setitem__(sequence % RTP_HISTORY_SIZE, packet)


class VideoSender(RTCRtpSender):
    """Sends with our encoder, keeps a longer retransmission history, and probes the path before the first frame."""

    def __init__(self, track_or_kind: MediaStreamTrack | str, transport: RTCDtlsTransport, config: RtcConfig):
        super().__init__(track_or_kind, transport)
        self._config = config
        self._history = History()
        self._RTCRtpSender__rtp_history: dict[int, RtpPacket] = self._history
        self._pacer = Pacer()
        self._repeats = Repeats()
        self._last_key = float("-inf")
        self._later: asyncio.TimerHandle | None = None
        self._beginning: asyncio.Task[None] | None = None
        self.retransmitted = 0

    @property
    def encoder(self) -> VideoEncoder | None:
        encoder = getattr(self, "_RTCRtpSender__encoder", None)
        return encoder if isinstance(encoder, VideoEncoder) else None

    async def send(self, parameters: RTCRtpSendParameters) -> None:
        if parameters.codecs[0].name.upper() == "VP8" and self.encoder is None:
            clock = asyncio.get_running_loop().time
            self._RTCRtpSender__encoder: Encoder = VideoEncoder(self._config.fps, clock)
        if isinstance(self.transport, GuardedDtls):
            self.transport.paced[self._ssrc] = self._pace
        if self._beginning is None:
            self._beginning = asyncio.create_task(self._begin(parameters))

    async def _begin(self, parameters: RTCRtpSendParameters) -> None:
        """Probes the path, then starts to send. Runs as a task so that receiving can start meanwhile."""
        agent = self.transport.transport._connection
        if self.encoder is not None and isinstance(agent, BoundConnection):
            self.encoder.capacity = await agent.capacity()
        await super().send(parameters)

    async def stop(self) -> None:
        if self._beginning is not None:
            self._beginning.cancel()
            [end] = await asyncio.gather(self._beginning, return_exceptions=True)
            if isinstance(end, Exception):
                logger.warning("sending a video did not begin: %r", end)
        await super().stop()

    def _pace(self, sequence: int, size: int) -> float:
        """Seconds that a packet has to wait. Retransmissions do not wait."""
        if self.encoder is None or not self._pacer.is_new(sequence):
            return 0.0
        now = asyncio.get_running_loop().time()
        return self._pacer.wait(size, self.encoder.target_bitrate, now, self.encoder.capacity)

    async def _handle_rtcp_packet(self, packet: Any) -> None:
        if isinstance(packet, RtcpRtpfbPacket) and packet.fmt == RTCP_RTPFB_NACK:
            packet.lost = self._repeatable(packet.lost)
        if isinstance(packet, RtcpRrPacket | RtcpSrPacket) and self.encoder is not None:
            for report in packet.reports:
                if report.ssrc == self._ssrc:
                    self.encoder.lose(report.fraction_lost / 256)
        await super()._handle_rtcp_packet(packet)

    def _repeatable(self, numbers: Iterable[int]) -> list[int]:
        """The requested packets that can be sent again, up to the limit: a request can name thousands."""
        return [number for number in numbers if self._history.holds(number)][:MAX_REQUESTED]

    def _send_keyframe(self) -> None:
        """Rate-limits requested key frames: a request that comes too early is delayed, not dropped."""
        loop = asyncio.get_running_loop()
        due = self._last_key + self._config.key_frame_every
        if loop.time() >= due:
            self._last_key = loop.time()
            super()._send_keyframe()
        elif self._later is None or self._later.when() <= loop.time():
            self._later = loop.call_at(due, super()._send_keyframe)

    async def _retransmit(self, sequence_number: int) -> None:
        round_trip = self._RTCRtpSender__rtt or 0.0  # type: ignore[attr-defined]
        now, bps = asyncio.get_running_loop().time(), self.encoder.target_bitrate if self.encoder else 0
        for _ in range(self._repeats.copies(sequence_number, bps, round_trip, now)):
            self.retransmitted += 1
            self._history.recall(sequence_number)
            await super()._retransmit(sequence_number)
