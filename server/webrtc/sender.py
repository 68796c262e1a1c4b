"""Sending restored video: probing the path, pacing, key frames on request, retransmission.

Like the receivers, the sender is a plain class with the names that aiortc uses: `track`, `replaceTrack`, `transport`,
`setTransport`, `send`, `stop`, `_enabled`, `_ssrc`, `_rtx_ssrc`, `_stream_id`, `_track_id` and `_handle_rtcp_packet`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Coroutine, Iterable
from typing import Any

from aiortc import MediaStreamTrack
from aiortc import clock as ntp_clock
from aiortc.codecs import get_encoder, is_rtx
from aiortc.codecs.base import Encoder
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpparameters import RTCRtpCodecParameters, RTCRtpSendParameters
from aiortc.rtp import (
    RTCP_PSFB_APP,
    RTCP_PSFB_FIR,
    RTCP_PSFB_PLI,
    RTCP_RTPFB_NACK,
    AnyRtcpPacket,
    HeaderExtensionsMap,
    RtcpByePacket,
    RtcpPsfbPacket,
    RtcpRrPacket,
    RtcpRtpfbPacket,
    RtcpSdesPacket,
    RtcpSourceInfo,
    RtcpSrPacket,
    RtpPacket,
    unpack_remb_fci,
    wrap_rtx,
)
from aiortc.utils import random32
from av import VideoFrame

from server.webrtc.bitrate import Pacer, Repeats
from server.webrtc.config import RtcConfig
from server.webrtc.encoder import FollowingEncoder, VideoEncoder
from server.webrtc.ice_agent import BoundConnection
from server.webrtc.quality_classes import QualityClasses, SharedEncoder
from server.webrtc.sender_reports import SenderReports

logger = logging.getLogger(__name__)

HEADER = 24
"""bytes of an RTP header with our extensions"""
LEAST_PAUSE = 0.002
"""seconds; a shorter sleep costs more than it spreads"""
MAX_REQUESTED = 100
"""packets of one request that are sent again: when more are lost, only a key frame helps"""
SEQUENCES, TIMESTAMPS = 1 << 16, 1 << 32


class History:
    """The last packets that were sent, for retransmission."""

    def __init__(self, limit: int = 1024):
        self._limit = limit
        self._sent: dict[int, RtpPacket] = {}

    def __len__(self) -> int:
        return len(self._sent)

    def add(self, packet: RtpPacket) -> None:
        """Keeps `packet`, and forgets the oldest one over the limit."""
        self._sent.pop(packet.sequence_number, None)
        self._sent[packet.sequence_number] = packet
        if len(self._sent) > self._limit:
            del self._sent[next(iter(self._sent))]

    def holds(self, sequence: int) -> bool:
        """Whether the packet of that number can be sent again."""
        return sequence in self._sent

    def recall(self, sequence: int) -> RtpPacket | None:
        """The packet of that number with the present time as its send time; None when it is forgotten.

        With its first send time it would seem so late that each repaired loss lowered the receiver's estimate.
        """
        packet = self._sent.get(sequence)
        if packet is not None:
            packet.extensions.abs_send_time = send_time(ntp_clock.current_ntp_time())
        return packet


def send_time(ntp: int) -> int:
    """An NTP time of 64 bits in the units of the header extension abs-send-time: 24 bits, 1/2^18 s."""
    return ntp >> 14 & 0xFFFFFF


def log_fault(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (fault := task.exception()):
        logger.error("a task of a sender failed", exc_info=fault)


class VideoSender:
    """Sends one track with our encoder, after it has probed the path's bandwidth.

    With `classes`, the encoders that all players of a stream share; else with one of its own.
    """

    kind = "video"

    def __init__(
        self,
        track: MediaStreamTrack | None,
        transport: RTCDtlsTransport,
        config: RtcConfig,
        classes: QualityClasses | None = None,
    ):
        self.transport = transport
        self.config = config
        self._classes = classes
        self.retransmitted = 0
        self.pictures = 0
        """pictures that were sent"""
        self._encoder: Encoder | SharedEncoder | None = None
        self._enabled = True
        self._ssrc, self._rtx_ssrc = random32(), random32()
        self._stream_id = str(uuid.uuid4())
        self._loop = asyncio.get_running_loop()
        self._history, self._pacer, self._repeats = History(), Pacer(), Repeats()
        self._reports = SenderReports()
        self._extensions = HeaderExtensionsMap()
        self._mid = ""
        self._payload_type = 0
        self._rtx_payload_type: int | None = None
        self._sequence, self._rtx_sequence = random.randrange(1 << 15), random.randrange(1 << 15)  # no early wrap
        self._origin = random32()
        """added to every timestamp (RFC 3550, 5.1)"""
        self._key_frame_wanted = False
        self._last_key = float("-inf")
        self._later: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.replaceTrack(track)

    @property
    def encoder(self) -> FollowingEncoder | None:
        """None before it sends, and when it sends another codec than VP8."""
        return self._encoder if isinstance(self._encoder, FollowingEncoder) else None

    @property
    def track(self) -> MediaStreamTrack | None:
        return self._track

    def replaceTrack(self, track: MediaStreamTrack | None) -> None:
        self._track = track
        self._track_id = track.id if track is not None else str(uuid.uuid4())

    def setTransport(self, transport: RTCDtlsTransport) -> None:
        self.transport = transport

    async def send(self, parameters: RTCRtpSendParameters) -> None:
        """Starts to send. Does not wait for the probe, so that receiving can start meanwhile."""
        if self._tasks:
            return
        codec = parameters.codecs[0]
        assert codec.payloadType is not None, "a negotiated codec has a payload type"
        self._payload_type, self._mid = codec.payloadType, parameters.muxId
        repairs = [c for c in parameters.codecs if is_rtx(c) and c.parameters.get("apt") == codec.payloadType]
        self._rtx_payload_type = repairs[0].payloadType if repairs else None
        self._extensions.configure(parameters)
        self._encoder = self._encoder_for(codec)
        self._spawn(self._run(self._encoder, parameters))

    def _encoder_for(self, codec: RTCRtpCodecParameters) -> Encoder | SharedEncoder:
        if codec.name.upper() != "VP8":
            return get_encoder(codec)
        if self._classes is not None:
            return SharedEncoder(self._classes)
        return VideoEncoder(self.config.fps, self._loop.time)

    async def stop(self) -> None:
        """Stops, tells the peer that the stream ends, and ends the track."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._later is not None:
            self._later.cancel()
        if tasks:
            self.transport._unregister_rtp_sender(self)
            await self._send_rtcp([RtcpByePacket(sources=[self._ssrc])])
        self._encoder = None
        if self._track is not None:
            self._track.stop()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        task.add_done_callback(log_fault)
        self._tasks.append(task)

    async def _run(self, encoder: Encoder | SharedEncoder, parameters: RTCRtpSendParameters) -> None:
        """Probes the path, then sends frames until the track or the transport ends."""
        agent = self.transport.transport._connection
        if self.encoder is not None and isinstance(agent, BoundConnection):
            self.encoder.capacity = await agent.capacity()
        self.transport._register_rtp_sender(self, parameters)
        self._spawn(self._report(parameters.rtcp.cname or ""))
        try:
            while True:
                await self._send_frame(encoder)
        except (ConnectionError, MediaStreamError):
            return

    async def _send_frame(self, encoder: Encoder | SharedEncoder) -> None:
        """Encodes and sends the next frame of the track, when there is one."""
        if self._track is None:
            return await asyncio.sleep(0.02)
        frame = await self._track.recv()
        if not self._enabled:
            return None
        assert isinstance(frame, VideoFrame)
        key, self._key_frame_wanted = self._key_frame_wanted, False
        if isinstance(encoder, SharedEncoder):
            payloads, timestamp = await encoder.encode(frame, key)
        else:
            payloads, timestamp = await self._loop.run_in_executor(None, encoder.encode, frame, key)
        self.pictures += bool(payloads)
        for number, payload in enumerate(payloads, 1):
            await self._send_packet(payload, (self._origin + timestamp) % TIMESTAMPS, number == len(payloads))
        return None

    async def _send_packet(self, payload: bytes, timestamp: int, last: bool) -> None:
        if (pause := self._pause(len(payload) + HEADER)) > LEAST_PAUSE:
            await asyncio.sleep(pause)
        packet = RtpPacket(self._payload_type, int(last), self._sequence, timestamp, self._ssrc, payload)
        self._sequence = (self._sequence + 1) % SEQUENCES
        now = ntp_clock.current_ntp_time()
        packet.extensions.abs_send_time, packet.extensions.mid = send_time(now), self._mid
        self._history.add(packet)
        await self.transport._send_rtp(packet.serialize(self._extensions))
        self._reports.count(packet, now)

    def _pause(self, size: int) -> float:
        """Seconds that a new packet has to wait."""
        if self.encoder is None:
            return 0.0
        return self._pacer.wait(size, self.encoder.target_bitrate, self._loop.time(), self.encoder.capacity)

    async def _retransmit(self, sequence: int) -> None:
        """Sends a packet again, as often as its receiver may have it."""
        now, bps = self._loop.time(), self.encoder.target_bitrate if self.encoder else 0
        for _ in range(self._repeats.copies(sequence, bps, self._reports.round_trip or 0.0, now)):
            packet = self._history.recall(sequence)
            if packet is None:
                return
            self.retransmitted += 1
            if self._rtx_payload_type is not None:
                packet = wrap_rtx(packet, self._rtx_payload_type, self._rtx_sequence, self._rtx_ssrc)
                self._rtx_sequence = (self._rtx_sequence + 1) % SEQUENCES
            await self.transport._send_rtp(packet.serialize(self._extensions))

    async def _handle_rtcp_packet(self, packet: AnyRtcpPacket) -> None:
        if isinstance(packet, RtcpRrPacket | RtcpSrPacket):
            self._take_reports(packet)
        elif isinstance(packet, RtcpRtpfbPacket) and packet.fmt == RTCP_RTPFB_NACK:
            for number in self._repeatable(packet.lost):
                await self._retransmit(number)
        elif isinstance(packet, RtcpPsfbPacket) and packet.fmt in (RTCP_PSFB_FIR, RTCP_PSFB_PLI):
            self._request_key_frame()
        elif isinstance(packet, RtcpPsfbPacket) and packet.fmt == RTCP_PSFB_APP and self._encoder is not None:
            self._encoder.target_bitrate = unpack_remb_fci(packet.fci)[0]  # type: ignore[union-attr]

    def _take_reports(self, packet: RtcpRrPacket | RtcpSrPacket) -> None:
        for report in packet.reports:
            if report.ssrc == self._ssrc:
                self._reports.take(report, self._loop.time())
                if self.encoder is not None:
                    self.encoder.lose(report.fraction_lost / 256)

    def _repeatable(self, numbers: Iterable[int]) -> list[int]:
        """The requested packets that can be sent again, up to the limit: a request can name thousands."""
        return [number for number in numbers if self._history.holds(number)][:MAX_REQUESTED]

    def _request_key_frame(self) -> None:
        """Rate-limits requested key frames: a request that comes too early is delayed, not dropped."""
        due = self._last_key + self.config.key_frame_every
        if self._loop.time() >= due:
            self._want_key_frame()
        elif self._later is None or self._later.when() <= self._loop.time():
            self._later = self._loop.call_at(due, self._want_key_frame)

    def _want_key_frame(self) -> None:
        self._last_key, self._key_frame_wanted = self._loop.time(), True

    async def _report(self, cname: str) -> None:
        """Sends sender reports, at the intervals of RFC 3550, 6.2."""
        source = RtcpSdesPacket(chunks=[RtcpSourceInfo(ssrc=self._ssrc, items=[(1, cname.encode())])])
        while True:
            await asyncio.sleep(0.5 + random.random())
            report = self._reports.report(self._loop.time())
            await self._send_rtcp([RtcpSrPacket(ssrc=self._ssrc, sender_info=report), source])

    async def _send_rtcp(self, packets: list[AnyRtcpPacket]) -> None:
        try:
            await self.transport._send_rtp(b"".join(map(bytes, packets)))
        except ConnectionError:
            return  # the transport is closed, and this sender soon will be
