"""Decoding one incoming video: a thread, within limits of size and number. Knows no network."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import av
from aiortc.mediastreams import VIDEO_TIME_BASE
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from av import CodecContext, VideoFrame
from av.codec.context import Flags
from av.frame import Frame
from av.video.frame import PictureType

from server.webrtc.config import Arrival, RtcConfig
from server.webrtc.reception import EncodedFrame, Timeline, vp8_size

logger = logging.getLogger(__name__)

B_FRAMES = "the video has B-frames, which live video must not have: switch them off in the encoder"


class FrameQueue(asyncio.Queue[Any]):
    """Received frames, newest kept: aiortc's own queue grows without end when nobody takes its frames."""

    def __init__(self, limit: int):
        super().__init__()
        self._limit = limit
        self.dropped = 0

    def offer(self, frame: Frame | av.Packet[Any] | None) -> None:
        """Queues `frame`; None ends the track. Beyond the limit the oldest is dropped, the next one marked `lost`."""
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


class Decoder:
    """One thread that decodes the frames of one track, in order and within limits."""

    def __init__(self, config: RtcConfig):
        self._config = config
        self._queue: queue.Queue[tuple[RTCRtpCodecParameters, EncodedFrame] | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._timeline = Timeline()
        self.refused = 0
        """frames that were not decoded, or not shown"""
        self.fault: str | None = None
        """why the last one was refused, in one sentence, where the sender can change it"""

    def start(self, loop: asyncio.AbstractEventLoop, frames: FrameQueue, on_error: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=self._run, args=(loop, frames, on_error), name="video-decoder")
        self._thread.start()

    def stop(self) -> bool:
        """Ends the thread, which ends the track; false when there was none.

        Blocks for the time of one frame at most, since those that wait are dropped.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return False
        while True:
            try:
                self._queue.get_nowait()
            except queue.Empty:
                break
        self._queue.put(None)
        thread.join()
        return True

    def offer(self, codec: RTCRtpCodecParameters, frame: EncodedFrame) -> bool:
        """Queues `frame`; false when it is refused, after which only a key frame can be decoded."""
        if self._queue.qsize() >= self._config.max_encoded or not self._may_decode(codec, frame):
            self.refused += 1
            return False
        self._queue.put((codec, frame))
        return True

    def _may_decode(self, codec: RTCRtpCodecParameters, frame: EncodedFrame) -> bool:
        """Whether the size that a VP8 key frame declares is within the limits: 60 bytes can ask for 400 MB."""
        if codec.name.upper() != "VP8" or not frame.key:
            return True
        self.fault = misfit(*vp8_size(frame.data), self._config)
        return self.fault is None

    def _run(self, loop: asyncio.AbstractEventLoop, frames: FrameQueue, on_error: Callable[[], None]) -> None:
        name, context, broken = "", None, False
        while (item := self._queue.get()) is not None:
            codec, encoded = item
            if broken and not encoded.key:
                self.refused += 1  # it refers to a frame that we do not have
                continue
            encoded, broken = replace(encoded, lost=encoded.lost or broken), False
            if context is None or codec.name != name:
                name, context = codec.name, create_decoder(codec.name, self._config.max_pixels)
            try:
                decoded = self._decode(context, encoded)
            except (av.FFmpegError, Unfit) as error:
                logger.debug("a %s frame cannot be decoded: %s", name, error)
                self.fault = str(error) if isinstance(error, Unfit) else self.fault
                self.refused += 1
                broken = True
                loop.call_soon_threadsafe(on_error)
                continue
            self.fault = B_FRAMES if any(frame.pict_type == PictureType.B for frame in decoded) else None
            if self.fault:
                break
            for frame in decoded:
                loop.call_soon_threadsafe(frames.offer, frame)
        loop.call_soon_threadsafe(frames.offer, None)

    def _decode(self, context: av.VideoCodecContext, encoded: EncodedFrame) -> list[VideoFrame]:
        """The frames of one packet. Raises Unfit for those outside the limits."""
        packet = av.Packet(encoded.data)
        packet.pts = self._timeline.map(encoded.timestamp)
        packet.time_base = VIDEO_TIME_BASE
        decoded = context.decode(packet)
        for frame in decoded:
            if fault := misfit(frame.width, frame.height, self._config):
                raise Unfit(fault)
            frame.opaque = Arrival(encoded.arrival, encoded.lost)
        return decoded


class Unfit(ValueError):
    """A decoded frame whose size is outside the limits."""


def misfit(width: int, height: int, config: RtcConfig) -> str | None:
    """Why frames of a size are not decoded, in one sentence; None when they are."""
    shorter, longer = sorted((width, height))
    if shorter < config.min_side or longer > config.max_side or longer > config.max_aspect * shorter:
        limits = f"sides are {config.min_side} to {config.max_side} pixels, {config.max_aspect:g}:1 at most"
        return f"frames of {width}x{height} are not decoded: {limits}"
    if width * height > config.max_pixels:
        return f"frames of {width}x{height} are not decoded: {config.max_pixels} pixels at most"
    return None


def create_decoder(name: str, max_pixels: int) -> av.VideoCodecContext:
    """FFmpeg's own decoders: unlike the libvpx wrapper, they check `max_pixels` before they allocate memory."""
    context = CodecContext.create({"VP8": "vp8", "H264": "h264"}[name.upper()], "r")
    assert isinstance(context, av.VideoCodecContext)
    context.thread_count = 1
    context.flags |= Flags.low_delay  # no B-frames are expected, so no frame waits for the next one
    context.options = {"max_pixels": str(max_pixels)}
    return context
