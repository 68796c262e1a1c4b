"""Decoded frames to RGB pixels of a given size, and back. Runs in an executor; knows no session.

Each conversion takes one thread. By default a scaler starts one for each core, and a session would keep several.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from av import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from core.contract import Pixels

WASTE = 2.0
"""how many times the wanted pixels may be scaled; a frame of which more would be cut off is cut before"""


class PictureReader:
    """Frames of any size and format to pixels [height, width, 3]: scaled to cover, then cut at the centre.

    One for each session: it keeps the scaler that its last frame needed.
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, picture: VideoFrame, height: int, width: int) -> Pixels:
        scale = max(height / picture.height, width / picture.width)
        if picture.width * picture.height * scale**2 > WASTE * width * height:
            picture = cut(picture, height / width)
            scale = max(height / picture.height, width / picture.width)
        cover = max(height, round(picture.height * scale)), max(width, round(picture.width * scale))
        interpolation = Interpolation.AREA if scale < 1 else Interpolation.BICUBIC
        rgb = self._reformatter.reformat(picture, cover[1], cover[0], "rgb24", interpolation=interpolation, threads=1)
        top, left = (cover[0] - height) // 2, (cover[1] - width) // 2
        return np.ascontiguousarray(rgb.to_ndarray()[top : top + height, left : left + width])


def cut(picture: VideoFrame, aspect: float) -> VideoFrame:
    """The centre of a frame, with the ratio `aspect` of height to width. A strip scaled to cover could be huge."""
    height = min(picture.height, max(1, round(picture.width * aspect)))
    width = min(picture.width, max(1, round(picture.height / aspect)))
    top, left = (picture.height - height) // 2, (picture.width - width) // 2
    pixels: Pixels = picture.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    kept = np.ascontiguousarray(pixels[top : top + height, left : left + width])
    return VideoFrame.from_ndarray(kept, format="rgb24")


class PictureWriter:
    """Pixels to the frames that a video encoder takes."""

    def __init__(self) -> None:
        self._to_yuv = VideoReformatter()
        self._resize = VideoReformatter()

    def write(self, frames: Sequence[Pixels]) -> list[VideoFrame]:
        """Frames [H, W, 3] to YUV 4:2:0."""
        return [
            self._to_yuv.reformat(VideoFrame.from_ndarray(frame, format="rgb24"), format="yuv420p", threads=1)
            for frame in frames
        ]

    def pass_through(self, frames: Sequence[Pixels], height: int, width: int, panels: int) -> list[VideoFrame]:
        """Unrestored frames at the size of restored ones, once for each panel."""
        return self.write([np.concatenate([self._enlarge(frame, height, width)] * panels, 1) for frame in frames])

    def _enlarge(self, frame: Pixels, height: int, width: int) -> Pixels:
        if frame.shape[:2] == (height, width):
            return frame
        picture = VideoFrame.from_ndarray(frame, format="rgb24")
        scaled = self._resize.reformat(picture, width, height, "rgb24", interpolation=Interpolation.BILINEAR, threads=1)
        return scaled.to_ndarray().astype(np.uint8, copy=False)
