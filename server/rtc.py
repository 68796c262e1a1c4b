"""The WebRTC stack made fit for bad networks. Every private name of aiortc and aioice we touch is in here.

`PeerConnection` is aiortc's own with other parts put in: a receiver that completes frames on the marker,
asks again for what is lost and decodes within limits; a sender whose bit rate fits its picture; sockets
bound where we say, that hear only the peer. It knows nothing of sessions and chunks. The names are those of
the versions below and no other.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from importlib.metadata import version
from typing import Any

import av
from aioice import Candidate as IceCandidate
from aioice import Connection, ice, stun
from aioice.candidate import candidate_foundation, candidate_priority
from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCIceCandidate,
    RTCIceServer,
    RTCIceTransportPolicy,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc import clock as rtp_clock
from aiortc.codecs.base import Encoder
from aiortc.codecs.vpx import Vp8Encoder as PacketizingEncoder
from aiortc.mediastreams import VIDEO_TIME_BASE, convert_timebase
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpparameters import RTCRtpCodecParameters, RTCRtpReceiveParameters, RTCRtpSendParameters
from aiortc.rtcrtpreceiver import RemoteStreamTrack, RTCRtpReceiver
from aiortc.rtcrtpsender import RTCRtpSender
from aiortc.rtcrtptransceiver import RTCRtpTransceiver
from aiortc.rtp import RTP_HISTORY_SIZE, RtcpRrPacket, RtcpSrPacket, RtpPacket, is_rtcp
from av import CodecContext, VideoFrame
from av.frame import Frame
from av.video.frame import PictureType
from pydantic import Field

from core.config import Config
from server.bitrate import Pacer, RateFollower, Repeats, bitrates, capacity
from server.reception import (
    EncodedFrame,
    FrameAssembler,
    Packet,
    ReceptionConfig,
    ReceptionCounters,
    Timeline,
    is_h264_key,
    is_vp8_key,
    vp8_size,
)
from server.sdp import AnswerOptions, Fragment, Offer, OfferRefused, complete_answer

logger = logging.getLogger(__name__)

KNOWN_VERSIONS = {"aiortc": "1.16.0", "aioice": "0.13.0"}


LEAST_PAUSE = 0.002
"""seconds; a shorter sleep costs more than it spreads"""
PROBES, PROBE_CHECKS, PROBE_PADDING = 2, 24, 763
"""bursts before the first picture, connectivity checks in each, and bytes that make each larger: as many as SOFTWARE
may have (RFC 8489, 14.14), which whoever answers does not look at"""
PROBE_PATIENCE = 0.06
"""seconds after one answer that the next of a burst is waited for: one that was lost does not come"""
TRICKLED = 64
"""candidates of one connection that are taken after its offer: each has the server send to an address"""
UDP_HEADERS = 28
"""bytes of UDP and IPv4 around a datagram"""


def check_versions() -> None:
    """Raises RuntimeError when a library is not the one whose private names this file knows."""
    for package, known in KNOWN_VERSIONS.items():
        if (found := version(package)) != known:
            raise RuntimeError(f"server/rtc.py is written for {package} {known}, found {found}")


check_versions()


class NoMediaPort(OSError):
    """No local UDP port could be opened for media."""


class RtcConfig(Config):
    """One peer connection."""

    bind: tuple[str, ...] = ()
    """local addresses for media; none given means every address of the machine but loopback"""
    udp_ports: tuple[int, int] | None = None
    """first and last local UDP port for media; None leaves the choice to the system"""
    ice_urls: tuple[str, ...] = ()
    """STUN and TURN servers that this server itself uses"""
    ice_username: str | None = None
    ice_credential: str | None = None
    ice_relay: bool = False
    """media goes through the TURN server only"""
    gather_timeout: float = Field(2.0, gt=0, le=10)
    """seconds that STUN and TURN servers are waited for before an offer is answered without them"""
    fps: float = Field(16.0, gt=0, le=120)
    """frames per second that are sent, for the bit rate"""
    key_frame_every: float = Field(0.5, ge=0)
    """shortest time in seconds between two key frames that the peer asks for"""
    max_pixels: int = Field(1920 * 1088, gt=0)
    """larger incoming pictures are not decoded"""
    max_frames: int = Field(48, ge=1)
    """decoded frames that may wait to be taken, the oldest is dropped first"""
    max_encoded: int = Field(60, ge=1)
    """encoded frames that may wait for the decoder; beyond, the picture waits for a key frame"""
    reception: ReceptionConfig = ReceptionConfig()


@dataclass(frozen=True)
class Arrival:
    """What `VideoFrame.opaque` says of a received frame."""

    at: float
    """when its last packet came, in the event loop's clock"""
    lost: bool
    """frames between this one and the one before it were lost, on the way or here for want of room"""


# --- receiving ------------------------------------------------------------------------------------


class FrameQueue(asyncio.Queue[Any]):
    """Received frames, newest kept: aiortc's own queue grows without end when nobody takes its frames."""

    def __init__(self, limit: int):
        super().__init__()
        self._limit = limit
        self.dropped = 0

    def offer(self, frame: Frame | av.Packet[Any] | None) -> None:
        """Queues `frame`, or the end of the track, and drops the oldest frame beyond the limit: the next one tells."""
        self.put_nowait(frame)
        if self.qsize() <= self._limit:
            return
        self.get_nowait()
        self.dropped += 1
        oldest = self._queue[0]  # type: ignore[attr-defined]
        if oldest is not None and isinstance(oldest.opaque, Arrival):
            oldest.opaque = replace(oldest.opaque, lost=True)

    async def put(self, frame: Frame | av.Packet[Any] | None) -> None:
        self.offer(frame)


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


class Decoder:
    """One thread that decodes the frames of one track, in order and within limits."""

    def __init__(self, config: RtcConfig):
        self._config = config
        self._queue: queue.Queue[tuple[RTCRtpCodecParameters, EncodedFrame] | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._timeline = Timeline()
        self.refused = 0

    def start(self, loop: asyncio.AbstractEventLoop, frames: FrameQueue, on_error: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=self._run, args=(loop, frames, on_error), name="video-decoder")
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and the track. What waits is dropped, so this takes one frame's time at most."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        while True:
            try:
                self._queue.get_nowait()
            except queue.Empty:
                break
        self._queue.put(None)
        thread.join()

    def offer(self, codec: RTCRtpCodecParameters, frame: EncodedFrame) -> bool:
        """Queues `frame`; false when it is refused, which leaves only a key frame to go on with."""
        if self._queue.qsize() >= self._config.max_encoded or not self._fits(codec, frame):
            self.refused += 1
            return False
        self._queue.put((codec, frame))
        return True

    def _fits(self, codec: RTCRtpCodecParameters, frame: EncodedFrame) -> bool:
        """Whether the picture is of a size that we decode. A 60-byte frame can ask for 400 MB."""
        if codec.name.upper() != "VP8" or not frame.key:
            return True
        width, height = vp8_size(frame.data)
        return 0 < width * height <= self._config.max_pixels

    def _run(self, loop: asyncio.AbstractEventLoop, frames: FrameQueue, on_error: Callable[[], None]) -> None:
        name, context, broken = "", None, False
        while (item := self._queue.get()) is not None:
            codec, encoded = item
            if broken and not encoded.key:
                self.refused += 1  # what it refers to is not what its sender had
                continue
            encoded, broken = replace(encoded, lost=encoded.lost or broken), False
            if context is None or codec.name != name:
                name, context = codec.name, create_decoder(codec.name, self._config.max_pixels)
            try:
                decoded = self._decode(context, encoded)
            except av.FFmpegError as error:
                logger.debug("a %s frame cannot be decoded: %s", name, error)
                self.refused += 1
                broken = True
                loop.call_soon_threadsafe(on_error)
                continue
            for frame in decoded:
                loop.call_soon_threadsafe(frames.offer, frame)
        loop.call_soon_threadsafe(frames.offer, None)

    def _decode(self, context: av.VideoCodecContext, encoded: EncodedFrame) -> list[VideoFrame]:
        packet = av.Packet(encoded.data)
        packet.pts = self._timeline.map(encoded.timestamp)
        packet.time_base = VIDEO_TIME_BASE
        decoded = context.decode(packet)
        for frame in decoded:
            frame.opaque = Arrival(encoded.arrival, encoded.lost)
        return decoded


def create_decoder(name: str, max_pixels: int) -> av.VideoCodecContext:
    """FFmpeg's own decoders: unlike the libvpx wrapper, they heed `max_pixels` before they allocate."""
    context = CodecContext.create({"VP8": "vp8", "H264": "h264"}[name.upper()], "r")
    assert isinstance(context, av.VideoCodecContext)
    context.thread_count = 1
    context.options = {"max_pixels": str(max_pixels)}
    return context


# --- sending --------------------------------------------------------------------------------------


class VideoEncoder(Encoder):
    """VP8 for restored pictures: the rate fits the size, the denoiser is off, key frames are bounded."""

    capacity: float | None = None
    """bits per second that the way was seen to carry, where that is known before the first picture"""

    def __init__(self, fps: float, now: Callable[[], float]):
        self._fps = fps
        self._now = now
        self._context: av.VideoCodecContext | None = None
        self._follower: RateFollower | None = None
        self._picture_id = 0
        self._sent: deque[tuple[float, int]] = deque()
        self.rebuilds = 0

    @property
    def target_bitrate(self) -> int:
        """Bits per second that are aimed at; aiortc writes the receiver's estimate here."""
        return self._follower.current if self._follower else 0

    @target_bitrate.setter
    def target_bitrate(self, bps: int) -> None:
        if self._follower is not None:
            self._follower.observe(bps)

    def lose(self, share: float) -> None:
        """The receiver missed this share of the packets lately."""
        if self._follower is not None:
            self._follower.lose(share)

    def encode(self, frame: Frame, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """The payloads of one frame, and its RTP timestamp before the random offset."""
        assert isinstance(frame, VideoFrame)
        picture = frame if frame.format.name == "yuv420p" else frame.reformat(format="yuv420p")
        context = self._context_for(picture, force_keyframe)
        kind = picture.pict_type
        picture.pict_type = PictureType.I if force_keyframe else PictureType.NONE
        try:
            data = b"".join(bytes(packet) for packet in context.encode(picture))
        finally:
            picture.pict_type = kind
        self._note_sent(len(data))
        assert frame.pts is not None and frame.time_base is not None
        return self._packetize(data), convert_timebase(frame.pts, frame.time_base, VIDEO_TIME_BASE)

    def pack(self, packet: Any) -> tuple[list[bytes], int]:
        """An already encoded picture, cut into payloads."""
        return self._packetize(bytes(packet)), convert_timebase(packet.pts, packet.time_base, VIDEO_TIME_BASE)

    def _context_for(self, frame: VideoFrame, free: bool) -> av.VideoCodecContext:
        """The encoder for this frame: the one we have, unless the size or the rate must change."""
        context = self._context
        if context is None or (frame.width, frame.height) != (context.width, context.height):
            rates = bitrates(frame.width, frame.height, self._fps)
            self._follower = RateFollower(rates, self.capacity)
            context = None
        assert self._follower is not None
        bps = self._follower.choose(self._now(), free)
        if context is None or context.bit_rate != bps:
            context = create_vp8_encoder(frame.width, frame.height, bps)
            self.rebuilds += 1
        self._context = context
        return context

    def _note_sent(self, size: int) -> None:
        """Keeps the rate of the last two seconds."""
        now = self._now()
        self._sent.append((now, size))
        while now - self._sent[0][0] > 2.0:
            self._sent.popleft()
        assert self._follower is not None
        self._follower.sent = 8 * sum(size for _, size in self._sent) / 2.0

    def _packetize(self, data: bytes) -> list[bytes]:
        self._picture_id = (self._picture_id + 1) % (1 << 15)
        return PacketizingEncoder._packetize(data, self._picture_id)


def create_vp8_encoder(width: int, height: int, bps: int) -> av.VideoCodecContext:
    """libvpx for a live stream: constant rate, no look-ahead, no denoiser since the picture is restored."""
    context = CodecContext.create("libvpx", "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.time_base = VIDEO_TIME_BASE
    context.bit_rate = bps
    context.gop_size = 3000
    context.qmin, context.qmax = 2, 56
    context.thread_count = 1 if width * height <= 832 * 480 else 2
    context.options = {
        "bufsize": str(bps),
        "minrate": str(bps),
        "maxrate": str(bps),
        "cpu-used": "-6",
        "deadline": "realtime",
        "lag-in-frames": "0",
        "max-intra-rate": "300",
        "noise-sensitivity": "0",
        "overshoot-pct": "15",
        "undershoot-pct": "100",
        "static-thresh": "1",
    }
    return context


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

    def recall(self, sequence: int) -> None:
        """Puts an older packet back where aiortc looks for it, stamped as sent now.

        Stamped as sent first, it came so late in the receiver's eyes that each repaired loss lowered the rate.
        """
        if packet := self._sent.get(sequence):
            packet.extensions.abs_send_time = rtp_clock.current_ntp_time() >> 14 & 0xFFFFFF
            super().__setitem__(sequence % RTP_HISTORY_SIZE, packet)


class VideoSender(RTCRtpSender):
    """A sender with our encoder and a longer memory, which looks how much its way carries before it starts."""

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
        """Sends from when the way is known; a receiver in the same place is not kept waiting for that."""
        agent = self.transport.transport._connection
        if self.encoder is not None and isinstance(agent, BoundConnection):
            self.encoder.capacity = await agent.capacity()
        await super().send(parameters)

    async def stop(self) -> None:
        if self._beginning is not None:
            self._beginning.cancel()
            [end] = await asyncio.gather(self._beginning, return_exceptions=True)
            if isinstance(end, Exception):
                logger.warning("a video did not begin to be sent: %r", end)
        await super().stop()

    def _pace(self, sequence: int, size: int) -> float:
        """Seconds that a packet has to wait; those that are sent again do not."""
        if self.encoder is None or not self._pacer.is_new(sequence):
            return 0.0
        now = asyncio.get_running_loop().time()
        return self._pacer.wait(size, self.encoder.target_bitrate, now, self.encoder.capacity)

    async def _handle_rtcp_packet(self, packet: Any) -> None:
        if isinstance(packet, RtcpRrPacket | RtcpSrPacket) and self.encoder is not None:
            for report in packet.reports:
                if report.ssrc == self._ssrc:
                    self.encoder.lose(report.fraction_lost / 256)
        await super()._handle_rtcp_packet(packet)

    def _send_keyframe(self) -> None:
        """Key frames on request, but not so many that they fill the way themselves: one too soon comes later."""
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


# --- sockets --------------------------------------------------------------------------------------


class GuardedProtocol(ice.StunProtocol):
    """A media socket that hears connectivity checks from anyone and everything else from the peer only.

    Without it, a stranger's DTLS packet ends a handshake and an empty datagram ends a session.
    """

    strangers: int = 0
    """datagrams dropped because they did not come from the peer, or were no STUN message"""

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        assert isinstance(data, bytes)
        stun_like = len(data) >= 20 and data[0] < 4
        if not stun_like and not self._is_peer(addr):
            self.strangers += 1
            return
        try:
            super().datagram_received(data, addr)
        except (struct.error, IndexError, UnicodeDecodeError):
            self.strangers += 1

    def _is_peer(self, addr: tuple[Any, ...]) -> bool:
        source = (addr[0], addr[1])
        return any(
            pair.remote_addr == source and pair.state == ice.CandidatePair.State.SUCCEEDED
            for pair in self.receiver._check_list
        )


class BoundConnection(Connection):
    """An ICE agent that opens its sockets on given addresses and ports."""

    rtc: RtcConfig

    @classmethod
    def adopt(cls, connection: Connection, config: RtcConfig) -> None:
        """Turns an agent that has not gathered yet into one of ours."""
        connection.__class__ = cls
        assert isinstance(connection, cls)
        connection.rtc = config

    async def capacity(self) -> float | None:
        """Bits per second that the way to the peer carries, as bursts of padded connectivity checks show; or None."""
        found = [capacity(*await self._burst()) for _ in range(PROBES)]
        return max((rate for rate in found if rate is not None), default=None)

    async def _burst(self) -> tuple[list[float], int]:
        """When the checks of one burst were answered, and the size of each on the way, in bytes."""
        pair = self._nominated.get(1)
        if pair is None or self.remote_password is None:
            return [], 0
        key = self.remote_password.encode()
        requests = [self.build_request(pair, nominate=False) for _ in range(PROBE_CHECKS)]
        for request in requests:
            request.attributes["SOFTWARE"] = "avis".ljust(PROBE_PADDING, ".")
        clock = asyncio.get_running_loop().time
        answers: list[float] = []

        async def ask(request: stun.Message) -> None:
            with suppress(stun.TransactionError):
                await pair.protocol.request(request, pair.remote_addr, integrity_key=key, retransmissions=0)
                answers.append(clock())

        waiting = {asyncio.create_task(ask(request)) for request in requests}
        done = waiting
        try:
            while done and waiting:
                patience = PROBE_PATIENCE if answers else None
                done, waiting = await asyncio.wait(waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        return answers, len(bytes(requests[0])) + UDP_HEADERS

    async def get_component_candidates(
        self,
        component: int,
        addresses: list[str],
        timeout: int = 5,  # noqa: ASYNC109 - the library's name
    ) -> list[IceCandidate]:
        """Opens the sockets and asks the STUN and TURN servers, as the library's own does on any port."""
        wanted = list(self.rtc.bind) if self.rtc.bind and addresses else addresses
        if not wanted and self._transport_policy == ice.TransportPolicy.ALL:
            wanted = ["127.0.0.1"]
        opened = [await self._open(component, address) for address in wanted]
        protocols = [protocol for protocol in opened if protocol is not None]
        self._protocols += protocols
        found = [protocol.local_candidate for protocol in protocols]
        asked = self._reflexive(protocols), self._relayed(component)
        found += itertools.chain.from_iterable(await asyncio.gather(*asked))
        for protocol in self._protocols:
            protocol.__class__ = GuardedProtocol
        return found

    async def _open(self, component: int, address: str) -> GuardedProtocol | None:
        """A socket on `address`, on the first free port of the range."""
        loop = asyncio.get_running_loop()
        first, last = self.rtc.udp_ports or (0, 0)
        for port in shuffled(range(first, last + 1), seed=id(self)):
            try:
                transport, protocol = await loop.create_datagram_endpoint(
                    lambda: GuardedProtocol(self), local_addr=(address, port)
                )
            except OSError:
                continue
            host, bound = transport.get_extra_info("sockname")[:2]
            protocol.local_candidate = IceCandidate(
                foundation=candidate_foundation("host", "udp", host),
                component=component,
                transport="udp",
                priority=candidate_priority(component, "host"),
                host=host,
                port=bound,
                type="host",
            )
            return protocol
        logger.warning("no UDP port of %s could be opened on %s", self.rtc.udp_ports or "any", address)
        return None

    async def _relayed(self, component: int) -> list[IceCandidate]:
        """What the TURN server gives us, as far as it answers in time. The library says nothing of a refusal."""
        found: list[IceCandidate] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(self.rtc.gather_timeout):
                found = await super().get_component_candidates(component, [], timeout=60)
        if self.turn_server is not None and not found:
            logger.warning("the TURN server %s gave no address: is it there, is the login right?", self.turn_server)
        return found

    async def _reflexive(self, protocols: list[GuardedProtocol]) -> list[IceCandidate]:
        """What the STUN server says our addresses are, as far as it answers in time."""
        if self.stun_server is None:
            return []
        server = self.stun_server
        ipv4 = [protocol for protocol in protocols if ":" not in protocol.local_candidate.host]
        asked = [asyncio.create_task(ice.server_reflexive_candidate(protocol, server)) for protocol in ipv4]
        if not asked:
            return []
        done, late = await asyncio.wait(asked, timeout=self.rtc.gather_timeout)
        for task in late:
            task.cancel()
        failed = [error for task in done if (error := task.exception())]
        for error in failed:
            if not isinstance(error, OSError | stun.TransactionError):
                raise error
            logger.warning("the STUN server %s gave no address: %r", server, error)
        return [task.result()[0] for task in done if not task.exception()]


def shuffled(ports: range, seed: int) -> list[int]:
    """`ports` from a place that differs between sessions, so that the taken ones are not tried first."""
    start = seed // 64 % len(ports)
    return [*ports[start:], *ports[:start]]


class GuardedDtls(RTCDtlsTransport):
    """A transport that a malformed packet of the peer does not end, and that sends pictures no faster than they say."""

    malformed: int = 0

    @cached_property
    def paced(self) -> dict[int, Callable[[int, int], float]]:
        """What says how long a packet waits, given its sequence number and size; by the stream's SSRC."""
        return {}

    async def _send_rtp(self, data: bytes) -> None:
        pace = None if is_rtcp(data) else self.paced.get(int.from_bytes(data[8:12]))
        if pace is not None and (pause := pace(int.from_bytes(data[2:4]), len(data))) > LEAST_PAUSE:
            await asyncio.sleep(pause)
        await super()._send_rtp(data)

    async def _handle_rtp_data(self, data: bytes, arrival_time_ms: int) -> None:
        try:
            await super()._handle_rtp_data(data, arrival_time_ms)
        except (struct.error, IndexError, ValueError, KeyError):
            self.malformed += 1

    async def _handle_rtcp_data(self, data: bytes) -> None:
        try:
            await super()._handle_rtcp_data(data)
        except (struct.error, IndexError, ValueError, KeyError):
            self.malformed += 1


# --- the connection -------------------------------------------------------------------------------


class PeerConnection(RTCPeerConnection):
    """aiortc's peer connection with our receivers, senders and sockets, for a session's server side."""

    def __init__(self, config: RtcConfig | None = None):
        self.config = config or RtcConfig()
        self._connecting: set[asyncio.Task[Any]] = set()
        self._trickled = 0
        server = RTCIceServer(list(self.config.ice_urls), self.config.ice_username, self.config.ice_credential)
        servers = [server] if self.config.ice_urls else []
        super().__init__(
            RTCConfiguration(
                iceServers=servers,
                bundlePolicy=RTCBundlePolicy.MAX_BUNDLE,
                iceTransportPolicy=RTCIceTransportPolicy.RELAY if self.config.ice_relay else RTCIceTransportPolicy.ALL,
            )
        )

    async def answer(self, offer: Offer, options: AnswerOptions, tracks: Iterable[MediaStreamTrack] = ()) -> str:
        """The answer to `offer`, which sends `tracks` as far as it has a place for them.

        The "track" event fires meanwhile: a track that depends on an incoming one may be added there.
        Raises OfferRefused when the stack cannot use the offer, NoMediaPort when there is no socket for it.
        """
        try:
            await self.setRemoteDescription(RTCSessionDescription(offer.text, "offer"))
            for track in tracks:
                if offer.section(track.kind) is not None:
                    self.addTrack(track)
            await self.setLocalDescription(await self.createAnswer())
        except asyncio.CancelledError:
            raise
        except Exception as error:  # aiortc names no errors for a description that it cannot use
            logger.warning("an offer that passed our checks failed: %r", error)
            raise OfferRefused(422, "unsupported_offer", f"the offer cannot be used: {error}") from error
        if "a=candidate:" not in self.localDescription.sdp:
            raise NoMediaPort("no UDP port is free for media")
        return complete_answer(self.localDescription.sdp, options)

    async def add_candidates(self, fragment: Fragment, mid: str) -> None:
        """Takes trickled candidates for the transport that the m-line `mid` is on, and none beyond the limit."""
        taken = fragment.candidates[: TRICKLED - self._trickled]
        self._trickled += len(taken)
        for found in taken:
            candidate = RTCIceCandidate(
                component=1,
                foundation=found.foundation,
                ip=found.address,
                port=found.port,
                priority=found.priority,
                protocol="udp",
                type=found.kind,
                sdpMid=mid,
            )
            await self.addIceCandidate(candidate)

    @property
    def video(self) -> VideoReceiver | None:
        """The receiver of the incoming video."""
        return next((r for r in self.getReceivers() if isinstance(r, VideoReceiver)), None)

    @property
    def video_sender(self) -> VideoSender | None:
        return next((s for s in self.getSenders() if isinstance(s, VideoSender)), None)

    @property
    def path(self) -> str | None:
        """The kinds of address that media goes between, ours first, as in "host-relay"; None before there is a path."""
        for transceiver in self.getTransceivers():
            pair = transceiver.receiver.transport.transport._connection._nominated.get(1)
            if pair is not None:
                return f"{pair.local_candidate.type}-{pair.remote_candidate.type}"
        return None

    def counters(self) -> dict[str, Any]:
        """What happened on the wire so far, for the session's report."""
        receiver, sender = self.video, self.video_sender
        found: dict[str, Any] = {"path": self.path} | (dict(vars(receiver.counters)) if receiver else {})
        if receiver:
            found |= {"frames_refused": receiver.refused, "frames_overrun": receiver.frames_dropped}
        if sender:
            found |= {"retransmitted": sender.retransmitted}
        if sender and (encoder := sender.encoder):
            found |= {"target_bps": encoder.target_bitrate, "encoder_rebuilds": encoder.rebuilds}
            found |= {"capacity_bps": round(encoder.capacity) if encoder.capacity else None}
        return found

    async def close(self) -> None:
        """Ends the connection, also while it is being made: aiortc would go on, and send from a closed peer."""
        for task in self._connecting:
            task.cancel()
        for end in await asyncio.gather(*self._connecting, return_exceptions=True):
            if isinstance(end, Exception):
                logger.warning("a connection that was being made failed as it was closed: %r", end)
        await super().close()
        for sender in self.getSenders():
            if sender.track is not None:  # aiortc ends those that it began to send
                sender.track.stop()

    async def _RTCPeerConnection__connect(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "aiortc connects in a task of its own"
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        parent: Any = super()
        await parent._RTCPeerConnection__connect()

    def _RTCPeerConnection__createTransceiver(
        self, direction: str, kind: str, sender_track: MediaStreamTrack | None = None
    ) -> RTCRtpTransceiver:
        parent: Any = super()
        transceiver: RTCRtpTransceiver = parent._RTCPeerConnection__createTransceiver(direction, kind, sender_track)
        old = transceiver.sender
        sender = VideoSender(sender_track or kind, old.transport, self.config) if kind == "video" else old
        receiver_type = VideoReceiver if kind == "video" else AudioReceiver
        receiver = receiver_type(kind, old.transport, self.config)
        sender._stream_id = old._stream_id
        receiver._set_rtcp_ssrc(sender._ssrc)
        transceiver._RTCRtpTransceiver__sender = sender  # type: ignore[attr-defined]
        transceiver._RTCRtpTransceiver__receiver = receiver  # type: ignore[attr-defined]
        return transceiver

    def _RTCPeerConnection__createDtlsTransport(self) -> RTCDtlsTransport:
        parent: Any = super()
        transport: RTCDtlsTransport = parent._RTCPeerConnection__createDtlsTransport()
        transport.__class__ = GuardedDtls
        BoundConnection.adopt(transport.transport._connection, self.config)
        return transport
