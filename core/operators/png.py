"""PNG files that clients send: what the header says, and the picture without all that is beside it. Decodes nothing.

A PNG of some kilobytes can stand for gigabytes: by its sides, by data beyond its picture, or by compressed text. So
the sides are read from the header before anything else, and a decoder is given nothing but the picture itself.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

SIGNATURE = b"\x89PNG\r\n\x1a\n"

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""samples a pixel, by the colour type of the header (PNG, 11.2.2)"""

KEPT = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
"""chunks that make the picture; whatever else there is may be left out"""


@dataclass(frozen=True)
class PngHeader:
    """The chunk IHDR."""

    width: int
    height: int
    depth: int
    """bits a sample"""
    colour: int
    """colour type"""
    interlaced: bool

    @property
    def raw_bytes(self) -> int:
        """Bytes that the picture is before its compression, at most: seven passes when it is interlaced."""
        row = 1 + -(-self.width * self.depth * CHANNELS[self.colour] // 8)
        return self.height * row + (7 * (self.height + row + 8) if self.interlaced else 0)


def read_size(file: bytes) -> tuple[int, int]:
    """Width and height of a PNG file, of which there may be no more than that. Raises ValueError for what is none."""
    if not file.startswith(SIGNATURE) or file[8:16] != b"\0\0\0\rIHDR" or len(file) < 24:
        raise ValueError("it has no PNG header")
    width, height = struct.unpack(">II", file[16:24])
    return width, height


def read_header(file: bytes) -> PngHeader:
    """The header of a PNG file. Raises ValueError for what is none."""
    width, height = read_size(file)
    if len(file) < 33:
        raise ValueError("its header breaks off")
    depth, colour, compression, filtering, interlace = file[24:29]
    if colour not in CHANNELS or depth not in (1, 2, 4, 8, 16) or compression or filtering or interlace > 1:
        raise ValueError("its header is none of a PNG")
    if not 0 < width < 2**31 or not 0 < height < 2**31:
        raise ValueError(f"its sides are {width} and {height}")
    return PngHeader(width, height, depth, colour, bool(interlace))


def chunks(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG file, kind and whole text of each, until it ends or breaks off."""
    at = len(SIGNATURE)
    while at + 12 <= len(file):
        (length,) = struct.unpack(">I", file[at : at + 4])
        yield file[at + 4 : at + 8], file[at : at + 12 + length]
        at += 12 + length


def bare(file: bytes) -> bytes:
    """The file with nothing but its picture. Raises ValueError when its data are more than the picture, or none."""
    header = read_header(file)
    kept = [(kind, chunk) for kind, chunk in chunks(file) if kind in KEPT]
    if [kind for kind, _ in kept].count(b"IHDR") != 1:
        raise ValueError("it has more than one header")
    data = b"".join(chunk[8:-4] for kind, chunk in kept if kind == b"IDAT")
    inflate = zlib.decompressobj()
    try:
        length = len(inflate.decompress(data, header.raw_bytes + 1))
    except zlib.error as error:
        raise ValueError(f"its data are broken: {error}") from error
    if length > header.raw_bytes:
        raise ValueError("its data are more than its picture")
    return SIGNATURE + b"".join(chunk for _, chunk in kept)
