"""Encoding restored video: VP8 at a rate that fits the frame and follows the receiver. Knows no network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import av
from aiortc.codecs.base import Encoder
from aiortc.codecs.vpx import Vp8Encoder as PacketizingEncoder
from aiortc.mediastreams import VIDEO_TIME_BASE, convert_timebase
from av import CodecContext, VideoFrame
from av.frame import Frame
from av.video.frame import PictureType

from server.webrtc.bitrate import RateFollower, bitrates


class VideoEncoder(Encoder):
    """VP8 for restored frames: the rate fits the size, the denoiser is off, key frames are bounded."""

    capacity: float | None = None
    """bits per second that the path carries, as probed before the first frame; None when that is unknown"""

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
        """Takes the share of packets that the receiver missed lately."""
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
        """The payloads of an already encoded frame."""
        return self._packetize(bytes(packet)), convert_timebase(packet.pts, packet.time_base, VIDEO_TIME_BASE)

    def _context_for(self, frame: VideoFrame, free: bool) -> av.VideoCodecContext:
        """The encoder for this frame: the present one, unless the size or the rate must change."""
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
