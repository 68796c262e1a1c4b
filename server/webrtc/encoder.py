"""Encoding restored video: VP8 at a rate that fits the frame and follows the receiver. Knows no network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import av
from aiortc.codecs.base import Encoder
from aiortc.codecs.vpx import Vp8Encoder as PacketizingEncoder
from aiortc.mediastreams import VIDEO_TIME_BASE, convert_timebase
from av import CodecContext, VideoFrame
from av.frame import Frame
from av.video.frame import PictureType

from server.webrtc.bitrate import RateFollower, bitrates


@dataclass(frozen=True)
class Encoded:
    """A picture as VP8, for one sender or for many."""

    payloads: list[bytes]
    """of its RTP packets, in order"""
    timestamp: int
    """in 90 kHz, before a sender's random offset"""
    size: int
    """bytes of all payloads"""
    key: bool
    """it can be decoded without the pictures before it"""


class PictureEncoder:
    """Encodes pictures at the rate that is asked for with each. Another rate or size costs a key frame."""

    def __init__(self) -> None:
        self.rebuilds = 0
        self._context: av.VideoCodecContext | None = None
        self._picture_id = 0

    def encode(self, frame: VideoFrame, bps: int, key: bool = False) -> Encoded:
        """`frame` at `bps` bits per second; `key`: as a key frame, whatever came before."""
        picture = frame if frame.format.name == "yuv420p" else frame.reformat(format="yuv420p")
        context = self._context_for(picture, bps)
        kind = picture.pict_type
        picture.pict_type = PictureType.I if key else PictureType.NONE
        try:
            packets = context.encode(picture)
        finally:
            picture.pict_type = kind
        assert frame.pts is not None and frame.time_base is not None
        timestamp = convert_timebase(frame.pts, frame.time_base, VIDEO_TIME_BASE)
        payloads = self.packetize(b"".join(map(bytes, packets)))
        return Encoded(payloads, timestamp, sum(map(len, payloads)), any(packet.is_keyframe for packet in packets))

    def _context_for(self, frame: VideoFrame, bps: int) -> av.VideoCodecContext:
        context = self._context
        wanted = (frame.width, frame.height, bps)
        if context is None or wanted != (context.width, context.height, context.bit_rate):
            context = self._context = create_vp8_encoder(*wanted)
            self.rebuilds += 1
        return context

    def packetize(self, data: bytes) -> list[bytes]:
        """The payloads of one encoded picture."""
        self._picture_id = (self._picture_id + 1) % (1 << 15)
        return PacketizingEncoder._packetize(data, self._picture_id)


class FollowingEncoder:
    """What a sender asks of an encoder: a bit rate that fits the frame, and that follows what its receiver says."""

    capacity: float | None = None
    """bits per second that the path carries, as probed before the first frame; None when that is unknown"""
    rebuilds: int
    """how often the rate or the size began anew, each time with a key frame"""

    def __init__(self, fps: float, now: Callable[[], float]):
        self._fps = fps
        self._now = now
        self._follower: RateFollower | None = None
        self._size = (0, 0)
        self._sent: deque[tuple[float, int]] = deque()
        self._bytes = 0
        """of all in `_sent`"""

    @property
    def target_bitrate(self) -> int:
        """Bits per second that are aimed at; aiortc writes the receiver's estimate here."""
        return self._follower.current if self._follower else 0

    @target_bitrate.setter
    def target_bitrate(self, bps: int) -> None:
        if self._follower is not None:
            self._follower.observe(bps)

    def lose(self, share: float) -> None:
        """Takes the share of packets that the receiver missed lately."""
        if self._follower is not None:
            self._follower.lose(share)

    def _choose(self, frame: VideoFrame, free: bool) -> int:
        """Bits per second for this frame. `free`: it becomes a key frame anyway."""
        size = (frame.width, frame.height)
        if self._follower is None or size != self._size:
            self._follower, self._size = RateFollower(bitrates(*size, self._fps), self.capacity), size
        return self._follower.choose(self._now(), free)

    def _note_sent(self, encoded: Encoded) -> None:
        """Keeps the rate of the last two seconds."""
        now = self._now()
        self._sent.append((now, encoded.size))
        self._bytes += encoded.size
        while now - self._sent[0][0] > 2.0:
            self._bytes -= self._sent.popleft()[1]
        assert self._follower is not None
        self._follower.sent = 8 * self._bytes / 2.0


class VideoEncoder(FollowingEncoder, Encoder):
    """VP8 for the frames of one sender."""

    def __init__(self, fps: float, now: Callable[[], float]):
        super().__init__(fps, now)
        self._pictures = PictureEncoder()

    @property
    def rebuilds(self) -> int:  # type: ignore[override]
        return self._pictures.rebuilds

    def encode(self, frame: Frame, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """The payloads of one frame, and its RTP timestamp before the random offset."""
        assert isinstance(frame, VideoFrame)
        encoded = self._pictures.encode(frame, self._choose(frame, force_keyframe), force_keyframe)
        self._note_sent(encoded)
        return encoded.payloads, encoded.timestamp

    def pack(self, packet: Any) -> tuple[list[bytes], int]:
        """The payloads of an already encoded frame."""
        timestamp = convert_timebase(packet.pts, packet.time_base, VIDEO_TIME_BASE)
        return self._pictures.packetize(bytes(packet)), timestamp


def create_vp8_encoder(width: int, height: int, bps: int) -> av.VideoCodecContext:
    """libvpx for a live stream: constant rate, no look-ahead, no denoiser since the frames are restored."""
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
