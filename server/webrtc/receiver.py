"""aiortc receivers with a bounded queue: sound as it comes, and video whose losses are repaired."""

from __future__ import annotations

import asyncio
import logging
from fractions import Fraction
from typing import Any

import av
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpparameters import RTCRtpReceiveParameters
from aiortc.rtcrtpreceiver import RemoteStreamTrack, RTCRtpReceiver
from aiortc.rtp import RtpPacket

from server.webrtc.config import Arrival, RtcConfig
from server.webrtc.decoder import Decoder, FrameQueue
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


class BoundedReceiver(RTCRtpReceiver):
    """A receiver whose decoded frames wait in a bounded queue."""

    _bounded_track: RemoteStreamTrack | None = None

    def __init__(self, kind: str, transport: RTCDtlsTransport, config: RtcConfig):
        super().__init__(kind, transport)
        self._config = config

        self._frames = FrameQueue(config.max_frames)

    @property
    def frames_dropped(self) -> int:
        return self._frames.dropped

    @property
    def _track(self) -> RemoteStreamTrack | None:
        return self._bounded_track

    @_track.setter
    def _track(self, track: RemoteStreamTrack | None) -> None:
        self._bounded_track = track
        if track is not None:
            track._queue = self._frames

    async def stop(self) -> None:
        """Ends, and the track with it also when nothing was received yet: aiortc has its reader wait for ever."""
        began = getattr(self, "_RTCRtpReceiver__started", False)
        await super().stop()
        if not began:
            self._frames.offer(None)


class AudioReceiver(BoundedReceiver):
    """Sound as it comes: the track yields encoded `av.Packet`s at once, in the order they arrive.

    Whoever plays them waits for the picture anyway, and can put them in order meanwhile.
    """

    def __init__(self, kind: str, transport: RTCDtlsTransport, config: RtcConfig):
        super().__init__(kind, transport, config)
        self._timeline = Timeline()
        self._loop = asyncio.get_running_loop()
        self._RTCRtpReceiver__jitter_buffer = self

    async def receive(self, parameters: RTCRtpReceiveParameters) -> None:
        """Starts to receive, without a decoder."""
        if getattr(self, "_RTCRtpReceiver__started", False):
            return
        self._codecs = {codec.payloadType: codec for codec in parameters.codecs}
        self._RTCRtpReceiver__codecs = self._codecs
        self.transport._register_rtp_receiver(self, parameters)
        self._RTCRtpReceiver__rtcp_task = asyncio.ensure_future(self._run_rtcp())
        self._RTCRtpReceiver__started = True

    def add(self, packet: RtpPacket) -> tuple[bool, None]:
        """aiortc's jitter buffer, as far as its receiver knows."""
        if packet.payload and self._track is not None:
            sound = av.Packet(packet.payload)
            sound.pts = self._timeline.map(packet.timestamp)
            sound.time_base = Fraction(1, self._codecs[packet.payload_type].clockRate)
            sound.opaque = Arrival(self._loop.time(), lost=False)
            self._frames.offer(sound)
        return False, None

    def _RTCRtpReceiver__stop_decoder(self) -> None:
        if self._track is not None and self._track.readyState == "live":
            self._frames.offer(None)


class VideoReceiver(BoundedReceiver):
    """Video that survives loss: frames end at their marker, holes are repaired, given up, and then told."""

    def __init__(self, kind: str, transport: RTCDtlsTransport, config: RtcConfig):
        super().__init__(kind, transport, config)
        self._private = f"_{RTCRtpReceiver.__name__}__"
        self._assembler = FrameAssembler(self._is_key, config.reception)
        self._decoder = Decoder(config)
        self._loop = asyncio.get_running_loop()
        self._ssrc = 0
        self._repairs: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._ready: list[EncodedFrame] = []
        self._set("jitter_buffer", self)
        self._set("nack_generator", None)

    def _get(self, name: str) -> Any:
        return getattr(self, self._private + name)

    def _set(self, name: str, value: Any) -> None:
        setattr(self, self._private + name, value)

    @property
    def counters(self) -> ReceptionCounters:
        return self._assembler.counters

    @property
    def refused(self) -> int:
        """Frames that were not decoded: too large, broken, or too many."""
        return self._decoder.refused

    async def receive(self, parameters: RTCRtpReceiveParameters) -> None:
        """Starts to receive: what aiortc's own does, with our decoder and our repairs."""
        if self._get("started"):
            return
        self._get("codecs").update({codec.payloadType: codec for codec in parameters.codecs})
        rtx = {encoding.rtx.ssrc: encoding.ssrc for encoding in parameters.encodings if encoding.rtx}
        self._get("rtx_ssrc").update(rtx)
        self._decoder.start(self._loop, self._frames, self._on_decode_error)
        self._set("decoder_thread", self._decoder)
        self.transport._register_rtp_receiver(self, parameters)
        self._set("rtcp_task", asyncio.ensure_future(self._run_rtcp()))
        self._repairs = asyncio.create_task(self._repair())
        self._set("started", True)

    async def stop(self) -> None:
        repairs, self._repairs = self._repairs, None
        if repairs is not None:
            repairs.cancel()
            [fault] = await asyncio.gather(repairs, return_exceptions=True)
            if isinstance(fault, Exception):
                logger.error("lost packets were asked for no more", exc_info=fault)
        await super().stop()

    def _RTCRtpReceiver__stop_decoder(self) -> None:
        self._decoder.stop()
        self._set("decoder_thread", None)

    def add(self, packet: RtpPacket) -> tuple[bool, None]:
        """aiortc's jitter buffer, as far as its receiver knows: takes a packet whose payload is unwrapped."""
        self._ssrc = packet.ssrc
        data: bytes = packet._data  # type: ignore[attr-defined]
        marker = bool(packet.marker)
        taken = Packet(packet.sequence_number, packet.timestamp, marker, packet.payload_type, data)
        self._ready += self._assembler.add(taken, self._loop.time())
        return False, None

    async def _handle_rtp_packet(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        await super()._handle_rtp_packet(packet, arrival_time_ms)
        await self._advance()

    async def _advance(self) -> None:
        """Decodes what is whole and asks for what is missing."""
        released, requests = self._assembler.requests(self._loop.time())
        ready, self._ready = self._ready + released, []
        for frame in ready:
            if not self._decoder.offer(self._get("codecs")[frame.payload_type], frame):
                self._assembler.demand_key_frame()
        for _ in range(requests.copies if requests.nack else 0):
            await self._send_rtcp_nack(self._ssrc, requests.nack)
        if requests.key_frame:
            await self._send_rtcp_pli(self._ssrc)
        if self._assembler.waiting:
            self._wake.set()

    async def _repair(self) -> None:
        """Asks again while something is missing, also when no packet comes to remind us."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(0.01)
            await self._advance()

    def _on_decode_error(self) -> None:
        self._assembler.demand_key_frame()
        self._wake.set()

    def _is_key(self, payload_type: int, data: bytes) -> bool:
        codec = self._get("codecs").get(payload_type)
        return is_h264_key(data) if codec is not None and codec.name.upper() == "H264" else is_vp8_key(data)
