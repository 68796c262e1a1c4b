"""Which colours a file's numbers stand for, to 8-bit RGB and back. Codes are those of ISO/IEC 23091-2, as in FFmpeg."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Any, cast

import av
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import Type

from core.contract import Pixels
from server.files.tone import to_sdr

RGB, BT709, UNSPECIFIED, RESERVED, FCC, BT601_625, BT601_525, SMPTE240M, BT2020 = 0, 1, 2, 3, 4, 5, 6, 7, 9
"""codes of a matrix; of primaries and transfer 1, 2 and 4 to 7 mean the same standards"""
LIMITED = 1
"""the code for luma in 16..235"""
PQ, HLG = 16, 18
"""codes of the transfers of high dynamic range"""
BT2020_TRANSFER = 14
"""the code of the transfer of BT.2020 with 10 bits"""

CONVERTED = {BT709, FCC, BT601_625, BT601_525, SMPTE240M, BT2020}
"""matrices that swscale converts"""
REFUSED = {
    8: "YCgCo",
    10: "BT.2020 constant luminance",
    11: "SMPTE 2085",
    12: "chromaticity-derived non-constant luminance",
    13: "chromaticity-derived constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}
"""matrices that it does not convert, by name"""


@dataclass(frozen=True)
class Colour:
    """The tags of a video: what its numbers mean."""

    matrix: int = UNSPECIFIED
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED


UNTAGGED = Colour()
SRGB = Colour(BT709, BT709, BT709)
"""what RGB pictures become as video"""


@dataclass(frozen=True)
class Coding:
    """How the pictures of one source are coded."""

    colour: Colour
    """what comes out: the source's tags, completed; BT.709 for RGB and for tone-mapped high dynamic range"""
    matrix: int
    """the matrix of the source's pictures, RGB where there is none"""
    transfer: int
    peak: float
    """nits of the brightest pixel, for high dynamic range"""
    bits: int
    """per sample"""
    alpha: bool

    @property
    def high_range(self) -> bool:
        return self.transfer in (PQ, HLG)


class Unconvertible(ValueError):
    """The pictures use a matrix that cannot be converted; the message names it."""


def coding(frame: av.VideoFrame) -> Coding:
    """How `frame` is coded; what its file does not say is what players take for that size.

    Raises Unconvertible.
    """
    components = frame.format.components
    bits = max((component.bits for component in components), default=8)
    alpha = any(component.is_alpha for component in components)
    tags = Colour(int(frame.colorspace), int(frame.color_primaries), int(frame.color_trc))
    if frame.format.is_rgb or frame.format.name.startswith("pal"):
        shown, matrix = replace(SRGB, transfer=tags.transfer), RGB
    else:
        shown = completed(tags, frame.height, frame.width)
        matrix = shown.matrix
    if shown.transfer in (PQ, HLG):
        return Coding(SRGB, matrix, shown.transfer, peak_of(frame), bits, alpha)
    return Coding(SRGB if matrix == RGB else shown, matrix, shown.transfer, 0.0, bits, alpha)


def completed(tags: Colour, height: int, width: int) -> Colour:
    """`tags` with nothing unspecified: what the matrix suggests, and for that what the size suggests."""
    matrix = tags.matrix
    if matrix in REFUSED:
        raise Unconvertible(REFUSED[matrix])
    if matrix not in CONVERTED:
        matrix = guessed_matrix(tags, height, width)
    primaries = matrix if tags.primaries in (0, UNSPECIFIED, RESERVED) else tags.primaries
    transfer = tags.transfer
    if transfer in (0, UNSPECIFIED, RESERVED):
        transfer = {BT601_625: BT601_525, BT2020: BT2020_TRANSFER}.get(matrix, matrix)
    return Colour(matrix, primaries, transfer)


def guessed_matrix(tags: Colour, height: int, width: int) -> int:
    """The matrix of an untagged picture: that of its primaries, else high definition is BT.709 and the rest BT.601."""
    if tags.primaries in CONVERTED:
        return tags.primaries
    if width >= 1280 or height > 576:
        return BT709
    return BT601_625 if height in (288, 576) else BT601_525


def to_pixels(frame: av.VideoFrame, source: Coding, height: int, width: int) -> Pixels:
    """`frame` as RGB [height, width, 3]; high dynamic range is tone-mapped."""
    options: dict[str, Any] = {"interpolation": "AREA" if height < frame.height else "BICUBIC"}
    if source.matrix != RGB:
        options["src_colorspace"] = swscale(source.matrix)
    kind = "rgb48le" if source.high_range else "rgb24"
    array = frame.reformat(width=width, height=height, format=kind, **options).to_ndarray()
    if not source.high_range:
        return cast(Pixels, array)
    return to_sdr(cast("npt.NDArray[np.uint16]", array), source.transfer == HLG, source.peak)


def to_frame(pixels: Pixels, colour: Colour) -> av.VideoFrame:
    """RGB [H, W, 3], even each way, as YUV 4:2:0 of limited range with the matrix of `colour`."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    matrix = BT709 if colour.matrix == UNSPECIFIED else colour.matrix
    return frame.reformat(format="yuv420p", dst_colorspace=swscale(matrix), dst_color_range=LIMITED)


def swscale(matrix: int) -> int:
    """swscale's code of a matrix: it has one for both kinds of BT.601."""
    return BT601_625 if matrix == BT601_525 else matrix


def peak_of(frame: av.VideoFrame) -> float:
    """Nits of the brightest pixel by the frame's own account (MaxCLL, else the mastering display), else 1000."""
    level = side_data(frame, Type.CONTENT_LIGHT_LEVEL)
    peak = float(struct.unpack("=I", level[:4])[0]) if level else 0.0
    mastering = side_data(frame, Type.MASTERING_DISPLAY_METADATA)
    if not peak and mastering and len(mastering) >= 80:
        numerator, denominator = struct.unpack("=2i", mastering[72:80])
        peak = numerator / denominator if denominator > 0 else 0.0
    return min(max(peak or 1000.0, 203.0), 10000.0)


def side_data(frame: av.VideoFrame, kind: Type) -> bytes | None:
    """One side data of `frame`; None also where PyAV cannot list them (EXIF, which it does not know)."""
    try:
        found: Any = cast(Any, frame.side_data).get(kind)
    except ValueError:
        return None
    return None if found is None else bytes(found)
