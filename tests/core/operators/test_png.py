"""A PNG that a client sends costs no more than its picture."""

import base64
import random
import struct
import tracemalloc
import zlib
from contextlib import suppress

import av
import pytest

from core.operators.config import MaskConfig as Mask
from core.operators.config import read_mask
from core.operators.png import SIGNATURE, bare, read_header


def chunk(kind, data=b""):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth=8, colour=0, interlace=0, rows=None, beside=(), after=b""):
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = b"\0" + bytes([255]) * -(-width * channels * depth // 8)
    press = zlib.compressobj(9)
    data = b"".join(press.compress(row) for _ in range(height if rows is None else rows))
    data += press.compress(after) + press.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    palette = [chunk(b"PLTE", bytes(6))] if colour == 3 else []
    return SIGNATURE + b"".join([chunk(b"IHDR", header), *beside, *palette, chunk(b"IDAT", data), chunk(b"IEND")])


def text(file):
    return base64.b64encode(file).decode()


@pytest.mark.parametrize("depth, colour", [(1, 0), (2, 0), (4, 0), (8, 0), (8, 2), (8, 3), (8, 4), (8, 6)])
def test_masks_of_every_kind_that_tools_write_are_read(depth, colour):
    file = png(70, 30, depth, colour)
    header = read_header(file)
    assert (header.width, header.height, header.depth, header.colour) == (70, 30, depth, colour)
    picture = read_mask(Mask(png=text(file)).png)
    assert (picture.width, picture.height) == (70, 30)


def test_the_header_alone_refuses_what_is_too_large():
    """A body of 184 kB held the event loop for half a second, at each PATCH."""
    wrong = [(4096, 4096, 8, 0), (1921, 1088, 8, 0), (5000, 2, 8, 0), (2**31 - 1, 2**31 - 1, 8, 6), (640, 480, 16, 6)]
    for width, height, depth, colour in wrong:
        file = text(
            png(width, height, depth, colour, rows=1 if height < 2**20 else 0)
            if width < 10**6
            else SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
        )
        tracemalloc.start()
        with pytest.raises(ValueError, match=r"pixels|bits"):
            Mask(png=file)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1_000_000


def test_a_configuration_decodes_nothing(monkeypatch):
    monkeypatch.setattr(av, "open", None)
    Mask(png=text(png(1920, 1088, 8, 6)))


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP", b"tEXt", b"acTL", b"fdAT", b"eXIf"])
def test_what_is_beside_the_picture_is_never_unpacked(kind):
    bomb = chunk(kind, b"name\0\0" + zlib.compress(bytes(50_000_000), 9))
    file = png(32, 32, beside=[bomb])
    assert len(file) > 40_000
    assert bare(file) == png(32, 32)
    assert read_mask(text(file)).width == 32


def test_data_beyond_the_picture_are_refused_before_they_are_unpacked():
    file = png(32, 32, after=bytes(100_000_000))
    tracemalloc.start()
    with pytest.raises(ValueError, match="more than its picture"):
        bare(file)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    with pytest.raises(ValueError, match="PNG picture"):
        read_mask(text(file))


@pytest.mark.parametrize("file", [b"", b"GIF89a", SIGNATURE, SIGNATURE + b"\0" * 60, png(8, 8)[:30], png(8, 8)[:45]])
def test_what_is_no_png_is_a_value_error(file):
    with pytest.raises(ValueError, match="PNG"):
        read_mask(text(file))


def test_interlaced_pictures_are_within_their_bound():
    for width, height in ((1, 1), (8, 8), (33, 7), (1, 100), (640, 3)):
        assert read_header(png(width, height, interlace=1)).raw_bytes >= height * (1 + width)


@pytest.mark.parametrize("seed", range(20))
def test_no_damage_raises_anything_else(seed):
    rng, file = random.Random(seed), bytearray(png(40, 30, 8, 6, beside=[chunk(b"tEXt", b"hello")]))
    for _ in range(rng.randrange(1, 8)):
        file[rng.randrange(len(file))] = rng.randrange(256)
    with suppress(ValueError):
        read_mask(text(bytes(file[: rng.randrange(20, len(file) + 1)])))
