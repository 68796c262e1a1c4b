"""Where the pixels of a picture belong: display matrices, EXIF orientations, scaling, cropping. Knows no files."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, cast

import av
import cv2
import numpy as np

from core.contract import Pixels

Fit = Literal["crop", "pad", "inside"]
"""How a picture of another shape takes a wanted size: cut at the centre, black bars, or smaller than asked"""

TURNED = math.sin(math.radians(1))
"""a matrix within one degree of a right angle is taken for one, as FFmpeg does"""


@dataclass(frozen=True)
class Orientation:
    """How decoded pixels become the upright picture: first transposed, then mirrored, or turned freely."""

    transposed: bool = False
    mirrored: bool = False
    """left and right change sides"""
    flipped: bool = False
    """top and bottom change sides"""
    turn: tuple[float, float, float, float] | None = None
    """(a, b, c, d) of x' = a x + c y, y' = b x + d y, for angles that are not right"""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the upright picture."""
        return (width, height) if self.transposed else (height, width)

    def upright(self, pixels: Pixels) -> Pixels:
        """Pixels [H, W, 3] as decoded to the upright picture. A free turn keeps the size and cuts the corners."""
        if self.turn is not None:
            return _turn(pixels, self.turn)
        if self.transposed:
            pixels = pixels.transpose(1, 0, 2)
        vertical, horizontal = -1 if self.flipped else 1, -1 if self.mirrored else 1
        return np.ascontiguousarray(pixels[::vertical, ::horizontal])


EXIF = {
    1: Orientation(),
    2: Orientation(mirrored=True),
    3: Orientation(mirrored=True, flipped=True),
    4: Orientation(flipped=True),
    5: Orientation(transposed=True),
    6: Orientation(transposed=True, mirrored=True),
    7: Orientation(transposed=True, mirrored=True, flipped=True),
    8: Orientation(transposed=True, flipped=True),
}
"""Orientation by the EXIF tag 274"""


def from_display_matrix(matrix: bytes) -> Orientation:
    """The orientation of FFmpeg's AV_FRAME_DATA_DISPLAYMATRIX: nine 32-bit numbers, native byte order."""
    a, b, _, c, d, _, _, _, _ = struct.unpack("=9i", matrix[:36])
    across, down = math.hypot(a, b), math.hypot(c, d)
    if not across or not down:
        return Orientation()
    a, b, c, d = a / across, b / across, c / down, d / down
    if max(abs(b), abs(c)) < TURNED:
        return Orientation(mirrored=a < 0, flipped=d < 0)
    if max(abs(a), abs(d)) < TURNED:
        return Orientation(transposed=True, mirrored=c < 0, flipped=b < 0)
    if abs(a * d - b * c) < TURNED:  # both axes fall on one line: no picture could be shown
        return Orientation()
    return Orientation(turn=(a, b, c, d))


def _turn(pixels: Pixels, turn: tuple[float, float, float, float]) -> Pixels:
    a, b, c, d = turn
    height, width = pixels.shape[:2]
    x, y = (width - 1) / 2, (height - 1) / 2
    matrix = np.array([[a, c, x - a * x - c * y], [b, d, y - b * x - d * y]])
    return cast(Pixels, cv2.warpAffine(pixels, matrix, (width, height), flags=cv2.INTER_CUBIC))


def scaled_size(shape: Fraction, size: tuple[int, int], fit: Fit) -> tuple[int, int]:
    """The (height, width) at which a picture of `shape` (width over height) covers `size`, or fits inside it."""
    height, width = size
    wider = shape > Fraction(width, height)
    if wider == (fit == "crop"):
        return height, max(1, round(height * shape))
    return max(1, round(width / shape)), width


def place(pixels: Pixels, size: tuple[int, int], fill: int = 0) -> Pixels:
    """[H, W, 3] at the centre of `size`: what sticks out is cut, what is missing is `fill`."""
    if pixels.shape[:2] == size:
        return pixels
    placed = np.full((*size, 3), fill, np.uint8)
    (top, up, height), (left, across, width) = (_overlap(n, m) for n, m in zip(pixels.shape[:2], size, strict=True))
    placed[top : top + height, left : left + width] = pixels[up : up + height, across : across + width]
    return placed


def _overlap(source: int, target: int) -> tuple[int, int, int]:
    """Where the common part starts in the target and in the source, and its length."""
    return max(0, target - source) // 2, max(0, source - target) // 2, min(source, target)


def centred(height: int, width: int, like_height: int, like_width: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of the largest centred part shaped like `like_height` x `like_width`."""
    part_height = min(height, round(width * like_height / like_width))
    part_width = min(width, round(height * like_width / like_height))
    return (height - part_height) // 2, (width - part_width) // 2, part_height, part_width


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """[H, W, 3] at another size: area average down, bicubic up."""
    if pixels.shape[:2] == (height, width):
        return pixels
    rows, columns = pixels.shape[:2]
    if rows % height == 0 and columns % width == 0:  # swscale's area filter is not exact
        blocks = pixels.reshape(height, rows // height, width, columns // width, 3)
        means: Pixels = np.rint(blocks.mean(axis=(1, 3), dtype=np.float32)).astype(np.uint8)
        return means
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    interpolation = "AREA" if rows > height else "BICUBIC"
    return cast(Pixels, frame.reformat(width=width, height=height, interpolation=interpolation).to_ndarray())
