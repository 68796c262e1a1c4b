"""RTP receivers that aiortc accepts: it uses eleven of their names and never checks for its own class.

Those names are `track`, `_track`, `transport`, `setTransport`, `receive`, `stop`, `_enabled`, `_set_rtcp_ssrc`,
`_handle_rtp_packet`, `_handle_rtcp_packet` and `_handle_disconnect`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine, Sequence
from fractions import Fraction
from typing import Any

import av
from aiortc.codecs import depayload, is_rtx
from aiortc.rate import RemoteBitrateEstimator
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpparameters import RTCRtpCodecParameters, RTCRtpReceiveParameters
from aiortc.rtcrtpreceiver import RemoteStreamTrack
from aiortc.rtp import (
    RTCP_PSFB_APP,
    RTCP_PSFB_PLI,
    RTCP_RTPFB_NACK,
    AnyRtcpPacket,
    RtcpByePacket,
    RtcpPsfbPacket,
    RtcpRrPacket,
    RtcpRtpfbPacket,
    RtcpSrPacket,
    RtpPacket,
    pack_remb_fci,
    unwrap_rtx,
)

from server.webrtc.config import Arrival, RtcConfig
from server.webrtc.decoder import Decoder, FrameQueue
from server.webrtc.layers import Layer, Layers
from server.webrtc.receiver_reports import ReceiverReports
from server.webrtc.reception import (
    EncodedFrame,
    FrameAssembler,
    Packet,
    ReceptionCounters,
    Timeline,
    is_h264_key,
    is_vp8_key,
)

logger = logging.getLogger(__name__)

REPAIR_TICK = 0.01
"""seconds between two looks at what is missing"""


class Receiver:
    """One incoming track: follows one layer, unpacks its packets, and reports on them once a second or so."""

    def __init__(self, transport: RTCDtlsTransport, config: RtcConfig, layers: Sequence[Layer] = ()):
        """`layers` are those that the offer names; without any, the parameters of `receive` say them."""
        self.transport = transport
        self.config = config
        self.foreign = 0
        """packets dropped because their SSRC was not negotiated, or is not that of the followed layer"""
        self._enabled = True
        self._layers = Layers(tuple(layers))
        self._codecs: dict[int, RTCRtpCodecParameters] = {}
        self._frames = FrameQueue(config.max_frames)
        self._remote_track: RemoteStreamTrack | None = None
        self._reports = ReceiverReports()
        self._own_ssrc = 0
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []
        self._ended = False

    @property
    def frames_dropped(self) -> int:
        """Frames that nobody took in time."""
        return self._frames.dropped

    @property
    def track(self) -> RemoteStreamTrack | None:
        return self._remote_track

    @property
    def _track(self) -> RemoteStreamTrack | None:
        return self._remote_track

    @_track.setter
    def _track(self, track: RemoteStreamTrack) -> None:
        self._remote_track = track
        track._queue = self._frames

    def setTransport(self, transport: RTCDtlsTransport) -> None:
        self.transport = transport

    def _set_rtcp_ssrc(self, ssrc: int) -> None:
        self._own_ssrc = ssrc

    async def receive(self, parameters: RTCRtpReceiveParameters) -> None:
        """Starts to receive. A second call changes nothing."""
        if self._tasks or self._ended:
            return
        self._codecs = {c.payloadType: c for c in parameters.codecs if c.payloadType is not None}
        if not self._layers.offered:
            self._layers.offered = negotiated(parameters)
        self._begin()
        self.transport._register_rtp_receiver(self, parameters)

    async def stop(self) -> None:
        """Stops, and always ends the track: aiortc leaves its reader waiting for ever if no packet arrived."""
        tasks, self._tasks = self._tasks, []
        self.transport._unregister_rtp_receiver(self)
        for task in tasks:
            task.cancel()
        for fault in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(fault, Exception):
                logger.error("a task of a receiver failed", exc_info=fault)
        self._handle_disconnect()

    def _handle_disconnect(self) -> None:
        if not self._ended:
            self._ended = True
            self._end()

    def _begin(self) -> None:
        self._spawn(self._report())

    def _end(self) -> None:
        """Ends the track."""
        self._frames.offer(None)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(self._loop.create_task(coroutine))

    async def _handle_rtcp_packet(self, packet: AnyRtcpPacket) -> None:
        followed = self._layers.followed
        if isinstance(packet, RtcpSrPacket):
            self._reports.note(packet, self._loop.time())
        elif isinstance(packet, RtcpByePacket) and followed is not None and followed.ssrc in packet.sources:
            self._handle_disconnect()

    async def _handle_rtp_packet(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        """Takes a packet of the followed layer. Raises ValueError when its payload cannot be read."""
        codec = self._codecs.get(packet.payload_type)
        if codec is None or not self._enabled or self._ended:
            return
        if not self._accepts(packet.ssrc, repair=is_rtx(codec)):
            self.foreign += 1
            return
        self._reports.count(packet, codec.clockRate)
        await self._estimate(packet, arrival_time_ms)
        media = self._unwrap(packet, codec) if is_rtx(codec) else packet
        if media is not None:
            codec = self._codecs[media.payload_type]
            await self._take(media, depayload(codec, media.payload) if media.payload else b"", codec)

    def _accepts(self, ssrc: int, repair: bool) -> bool:
        if repair:
            return self._layers.accepts_repair(ssrc)
        switches = self._layers.switches
        accepted = self._layers.accepts(ssrc, self._loop.time())
        if self._layers.switches > switches and self._layers.followed is not None:
            self._reports.keep((self._layers.followed.ssrc, self._layers.followed.rtx))
            self._on_switch()
        return accepted

    def _on_switch(self) -> None:
        """Another layer is followed: its sequence numbers and its timestamps are its own."""

    def _unwrap(self, packet: RtpPacket, codec: RTCRtpCodecParameters) -> RtpPacket | None:
        """The packet that a retransmission repeats (RFC 4588); None for padding."""
        apt, followed = codec.parameters.get("apt"), self._layers.followed
        if len(packet.payload) < 2 or not isinstance(apt, int) or apt not in self._codecs or followed is None:
            return None
        return unwrap_rtx(packet, payload_type=apt, ssrc=followed.ssrc)

    async def _estimate(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        """Learns from the packet how much bandwidth there is."""

    async def _take(self, packet: RtpPacket, data: bytes, codec: RTCRtpCodecParameters) -> None:
        raise NotImplementedError

    async def _report(self) -> None:
        """Sends receiver reports, at the intervals of RFC 3550, 6.2."""
        while True:
            await asyncio.sleep(0.5 + random.random())
            if blocks := self._reports.blocks(self._loop.time()):
                await self._send(RtcpRrPacket(ssrc=self._own_ssrc, reports=blocks))

    async def _send(self, packet: AnyRtcpPacket) -> None:
        try:
            await self.transport._send_rtp(bytes(packet))
        except ConnectionError:
            return  # the transport is closed, and this receiver soon will be


class AudioReceiver(Receiver):
    """Yields encoded packets at once, in the order in which they arrive.

    They are delayed until the video is ready anyway, and can be put in order meanwhile.
    """

    def __init__(self, transport: RTCDtlsTransport, config: RtcConfig, layers: Sequence[Layer] = ()):
        super().__init__(transport, config, layers)
        self._timeline = Timeline()

    async def _take(self, packet: RtpPacket, data: bytes, codec: RTCRtpCodecParameters) -> None:
        if not data:
            return
        sound = av.Packet(data)
        sound.pts = self._timeline.map(packet.timestamp)
        sound.time_base = Fraction(1, codec.clockRate)
        sound.opaque = Arrival(self._loop.time(), lost=False)
        self._frames.offer(sound)


class VideoReceiver(Receiver):
    """Video that survives loss: a frame ends at its marker; missing packets are requested again, then given up."""

    def __init__(self, transport: RTCDtlsTransport, config: RtcConfig, layers: Sequence[Layer] = ()):
        super().__init__(transport, config, layers)
        self._assembler = FrameAssembler(self._is_key, config.reception)
        self._decoder = Decoder(config)
        self._bandwidth = RemoteBitrateEstimator()
        self._wake = asyncio.Event()

    @property
    def counters(self) -> ReceptionCounters:
        return self._assembler.counters

    @property
    def refused(self) -> int:
        """Frames that were not decoded: too large, broken, or too many."""
        return self._decoder.refused

    @property
    def fault(self) -> str | None:
        """Why the sender's frames were refused, in one sentence; None when they were not."""
        return self._decoder.fault or self._assembler.fault

    def _begin(self) -> None:
        super()._begin()
        self._decoder.start(self._loop, self._frames, self._on_decode_error)
        self._spawn(self._repair())

    def _end(self) -> None:
        if not self._decoder.stop():
            super()._end()

    def _on_switch(self) -> None:
        self._assembler.restart()

    async def _estimate(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        sent = packet.extensions.abs_send_time
        if sent is None:
            return
        size = len(packet.payload) + packet.padding_size
        estimate = self._bandwidth.add(arrival_time_ms, sent, size, packet.ssrc)
        if estimate is not None:
            fci = pack_remb_fci(*estimate)
            await self._send(RtcpPsfbPacket(fmt=RTCP_PSFB_APP, ssrc=self._own_ssrc, media_ssrc=0, fci=fci))

    async def _take(self, packet: RtpPacket, data: bytes, codec: RTCRtpCodecParameters) -> None:
        taken = Packet(packet.sequence_number, packet.timestamp, bool(packet.marker), packet.payload_type, data)
        await self._advance(self._assembler.add(taken, self._loop.time()))

    async def _advance(self, ready: list[EncodedFrame]) -> None:
        """Decodes the frames that are whole and requests what is missing."""
        released, requests = self._assembler.requests(self._loop.time())
        for frame in ready + released:
            if not self._decoder.offer(self._codecs[frame.payload_type], frame):
                self._assembler.demand_key_frame()
        for _ in range(requests.copies if requests.nack else 0):
            await self._send_nack(requests.nack)
        if requests.key_frame:
            await self._send_pli()
        if self._assembler.waiting:
            self._wake.set()

    async def _repair(self) -> None:
        """Requests what is missing again, also when no packet arrives to remind us."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(REPAIR_TICK)
            await self._advance([])

    async def _send_nack(self, numbers: list[int]) -> None:
        ssrc = self._layers.followed.ssrc if self._layers.followed else 0
        packet = RtcpRtpfbPacket(fmt=RTCP_RTPFB_NACK, ssrc=self._own_ssrc, media_ssrc=ssrc)
        packet.lost = numbers
        await self._send(packet)

    async def _send_pli(self) -> None:
        ssrc = self._layers.followed.ssrc if self._layers.followed else 0
        await self._send(RtcpPsfbPacket(fmt=RTCP_PSFB_PLI, ssrc=self._own_ssrc, media_ssrc=ssrc))

    def _on_decode_error(self) -> None:
        self._assembler.demand_key_frame()
        self._wake.set()

    def _is_key(self, payload_type: int, data: bytes) -> bool:
        codec = self._codecs.get(payload_type)
        return is_h264_key(data) if codec is not None and codec.name.upper() == "H264" else is_vp8_key(data)


def negotiated(parameters: RTCRtpReceiveParameters) -> tuple[Layer, ...]:
    """The layers that a description names: aiortc repeats an SSRC for each codec, with its `rtx` for some."""
    found: dict[int, int | None] = {}
    for encoding in parameters.encodings:
        rtx = encoding.rtx.ssrc if encoding.rtx else None
        found[encoding.ssrc] = rtx or found.get(encoding.ssrc)
    return tuple(Layer(ssrc, rtx) for ssrc, rtx in found.items())
