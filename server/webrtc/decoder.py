"""The decoder thread of one video track, and the bounded queue of decoded frames."""

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
from av.frame import Frame

from server.webrtc.config import Arrival, RtcConfig
from server.webrtc.reception import EncodedFrame, Timeline, vp8_size

logger = logging.getLogger(__name__)


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
