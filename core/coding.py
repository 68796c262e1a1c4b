"""A measurement's way through a real encoder and decoder: what every live camera sends is coded."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, cast

import av
import numpy as np
from PIL import Image
from torch import Tensor

from core.video import from_pixels, to_pixels

CodecName = Literal["vp8", "h264", "jpeg"]
ENCODERS = {"vp8": "libvpx", "h264": "libx264"}


class Coder:
    """Encodes and decodes frame by frame, with nothing held back, as a live sender does.

    `quantiser` is VP8's (0 to 63) or H.264's constant rate factor (0 to 51); `bitrate`, in bits a second at `fps`, is
    for VP8 and takes its place. Key frames are rare: the decoder's own frames are the next ones' reference.
    """

    def __init__(
        self,
        codec: Literal["vp8", "h264"],
        height: int,
        width: int,
        quantiser: int | None = None,
        bitrate: int | None = None,
        fps: int = 16,
    ):
        if (quantiser is None) == (bitrate is None):
            raise ValueError("expected either a quantiser or a bit rate")
        if bitrate is not None and codec != "vp8":
            raise ValueError("expected a quantiser for H.264, found a bit rate")
        self.height, self.width = height, width
        self.encoder = cast(av.VideoCodecContext, av.CodecContext.create(ENCODERS[codec], "w"))
        self.encoder.width, self.encoder.height = (side + side % 2 for side in (width, height))
        self.encoder.pix_fmt, self.encoder.thread_count = "yuv420p", 1
        self.encoder.time_base, self.encoder.framerate = Fraction(1, fps), Fraction(fps)
        if codec == "h264":
            self.encoder.options = {"crf": str(quantiser), "preset": "veryfast", "tune": "zerolatency", "g": "250"}
        else:
            self.encoder.bit_rate = bitrate or 8_000_000
            options = {
                "deadline": "realtime",
                "cpu-used": "8",
                "lag-in-frames": "0",
                "g": "250",
                "error-resilient": "1",
            }
            fixed = {} if quantiser is None else {"qmin": str(quantiser), "qmax": str(quantiser)}
            self.encoder.options = {**options, **fixed}
        self.decoder = av.CodecContext.create(codec, "r")
        self.decoder.thread_count = 1
        self.count = 0

    def __call__(self, y: Tensor) -> Tensor:
        """The frames y [T, 3, h, w] in [-1, 1] as the receiver sees them.

        Raises RuntimeError when the codec returns another number of frames.
        """
        decoded: list[np.ndarray] = []
        for pixels in to_pixels(y):
            for packet in self.encoder.encode(self._frame(pixels)):
                decoded += [frame.to_ndarray(format="rgb24") for frame in self.decoder.decode(packet)]
        if len(decoded) != len(y):
            raise RuntimeError(f"expected {len(y)} frames from the codec, found {len(decoded)}")
        return from_pixels(np.stack(decoded)[:, : self.height, : self.width]).to(y)

    def _frame(self, pixels: np.ndarray) -> av.VideoFrame:
        """With the last row and column repeated where their number is odd."""
        even = np.pad(pixels, ((0, self.height % 2), (0, self.width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        frame.pts, self.count = self.count, self.count + 1
        return frame


@dataclass(frozen=True)
class Jpeg:
    """Each frame as a JPEG picture of its own, as cheap cameras and MJPEG streams send it."""

    quality: int
    """of the common scale, 1 to 100"""

    def __call__(self, y: Tensor) -> Tensor:
        """The frames y [T, 3, h, w] in [-1, 1] as the receiver sees them."""
        return from_pixels(np.stack([self._coded(pixels) for pixels in to_pixels(y)])).to(y)

    def _coded(self, pixels: np.ndarray) -> np.ndarray:
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "JPEG", quality=self.quality)
        return np.asarray(Image.open(data))


def new_coder(coding: str, height: int, width: int) -> Callable[[Tensor], Tensor]:
    """A stream's encoder and decoder for frames of `height` x `width`. Raises ValueError for no coding."""
    codec, quantiser, bitrate = parse_coding(coding)
    if codec == "jpeg":
        assert quantiser is not None, "a JPEG has a quality"
        return Jpeg(quantiser)
    return Coder(codec, height, width, quantiser, bitrate)


def parse_coding(text: str) -> tuple[CodecName, int | None, int | None]:
    """Codec, quantiser and bit rate of `vp8:400k`, `vp8:q30`, `h264:23` (constant rate factor) or `jpeg:40` (quality).

    Raises ValueError for anything else.
    """
    codec, _, rate = text.partition(":")
    if codec == "vp8" and rate[:1] == "q" and rate[1:].isdigit() and int(rate[1:]) <= 63:
        return "vp8", int(rate[1:]), None
    if codec == "vp8" and rate[-1:] == "k" and rate[:-1].isdigit() and 10 <= int(rate[:-1]) <= 100_000:
        return "vp8", None, int(rate[:-1]) * 1000
    if codec == "h264" and rate.isdigit() and int(rate) <= 51:
        return "h264", int(rate), None
    if codec == "jpeg" and rate.isdigit() and 1 <= int(rate) <= 100:
        return "jpeg", int(rate), None
    raise ValueError(f"expected a coding such as vp8:400k, vp8:q30, h264:23 or jpeg:40, found {text!r:.60}")
