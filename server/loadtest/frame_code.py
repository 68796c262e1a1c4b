"""A frame number and a tag, drawn into a picture's luma and read back after codec and restoration. Pure.

Sixteen bits of number in Gray code, so that a frame that blends into its neighbour is misread by one at most,
and eight bits of tag; each bit is a block of 16 x 16 pixels, still four wide in a picture shrunk by four.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Luma = npt.NDArray[np.uint8]
"""Rows of luma [H, W], 16..235."""

BLOCK = 16
"""pixels of a block, each way"""
MARGIN = 4
"""pixels at a block's edge that are not read"""
NUMBER_BITS, TAG_BITS = 16, 8
NUMBERS = 1 << NUMBER_BITS
DARK, LIGHT = 48, 208
"""luma of a 0 and of a 1"""
DOUBT = 24
"""luma this near to the middle of dark and light is neither"""


@dataclass(frozen=True)
class Code:
    number: int
    """modulo 65536"""
    tag: int
    """0..255"""


def code_height(width: int) -> int:
    """Rows of pixels that the code takes in a picture of `width` pixels."""
    return BLOCK * -(-(NUMBER_BITS + TAG_BITS) // _columns(width))


def check_size(width: int, height: int) -> None:
    """Raises ValueError for a picture that the code would fill."""
    if width < 2 * BLOCK or code_height(width) > height / 2:
        raise ValueError(f"a frame number needs a picture of 64x192 or 192x64 at least, not {width}x{height}")


def draw_code(luma: Luma, number: int, tag: int) -> None:
    """Draws the code over the top left of `luma`, in place."""
    for bit, (row, column) in zip(_bits(number, tag), _places(luma.shape[1]), strict=True):
        luma[row : row + BLOCK, column : column + BLOCK] = LIGHT if bit else DARK


def read_code(luma: Luma) -> Code | None:
    """The code that was drawn, None when a block is neither dark nor light."""
    inner = slice(MARGIN, BLOCK - MARGIN)
    values = [
        float(luma[row : row + BLOCK, column : column + BLOCK][inner, inner].mean())
        for row, column in _places(luma.shape[1])
    ]
    middle = (DARK + LIGHT) / 2
    if any(abs(value - middle) < DOUBT for value in values):
        return None
    bits = [value > middle for value in values]
    gray = _number(bits[:NUMBER_BITS])
    return Code(_from_gray(gray), _number(bits[NUMBER_BITS:]))


def unwrap(number: int, newest: int) -> int:
    """The frame number, at most `newest`, that a number modulo 65536 stands for; negative: none was sent."""
    return newest - (newest - number) % NUMBERS


def _columns(width: int) -> int:
    return max(1, min(12, width // BLOCK))


def _places(width: int) -> list[tuple[int, int]]:
    """Top and left of each bit's block."""
    columns = _columns(width)
    return [(BLOCK * (i // columns), BLOCK * (i % columns)) for i in range(NUMBER_BITS + TAG_BITS)]


def _bits(number: int, tag: int) -> list[bool]:
    number %= NUMBERS
    gray = number ^ (number >> 1)
    return [bool(gray >> i & 1) for i in range(NUMBER_BITS)] + [bool(tag >> i & 1) for i in range(TAG_BITS)]


def _number(bits: list[bool]) -> int:
    return sum(1 << i for i, bit in enumerate(bits) if bit)


def _from_gray(gray: int) -> int:
    number = 0
    while gray:
        number ^= gray
        gray >>= 1
    return number
