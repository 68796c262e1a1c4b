"""How a picture of a file becomes a frame of the engine, and a restored frame a picture. Knows no engine."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from core.contract import Pixels
from core.errors import UsageError
from core.operators.table import Operator
from server.commands import options
from server.files.geometry import Fit, place, scaled_size
from server.files.source import About, Picture


@dataclass(frozen=True)
class Geometry:
    """How a picture becomes a frame of the engine, and a restored frame a picture. All (height, width)."""

    taken: tuple[int, int]
    """size of the pictures that are restored"""
    fed: tuple[int, int]
    """size of the engine's input: `taken`, padded at the right and the bottom"""
    restored: tuple[int, int]
    """size of the engine's output, multiples of 16"""
    shown: tuple[int, int]
    """what is cut from it and written"""
    scaled: tuple[int, int] | None = None
    """size that a source picture is scaled to, before it is cut or padded to `taken`; None: `taken`"""
    aspect: Fraction = Fraction(1)
    """width over height of a restored pixel"""


def fit(
    about: About, size: tuple[int, int] | None, operator: Operator | None, simulate: bool, how: Fit = "crop"
) -> Geometry:
    """The sizes for a source, with the wanted `size` of the restored picture or its own.

    The shape of the picture is kept: a `size` of another shape is filled as `how` says, with square pixels. What is
    no multiple of 16 is padded by repeating its edge, and the restored padding cut away again. An incoming
    measurement that is smaller than the restored picture comes back enlarged.
    """
    scale = 1 if simulate or operator is None else 16 // operator.measurement_size(16, 16)[0]
    shown, aspect = size or (about.height * scale, about.width * scale), about.aspect
    reshaped = size is not None and abs(size[1] - size[0] * Fraction(about.width, about.height)) > 1
    if reshaped:
        aspect = Fraction(1)
        shown = scaled_size(about.shape, shown, how) if how == "inside" else shown
    if min(shown) < 16 or max(shown) > options.LARGEST:
        found = f"{shown[1]}x{shown[0]}"
        raise UsageError(f"expected a restored picture of 16 to {options.LARGEST} pixels each way, found {found}")
    taken = _up(shown[0], scale) // scale, _up(shown[1], scale) // scale
    restored = _up(shown[0], 16), _up(shown[1], 16)
    scaled = scaled_size(about.shape, taken, how) if reshaped and how != "inside" else None
    return Geometry(taken, (restored[0] // scale, restored[1] // scale), restored, shown, scaled, aspect)


def fit_mask(mask: Pixels, about: About, geometry: Geometry) -> Pixels:
    """A mask of the picture's size, cut and padded as the picture is. Raises UsageError for one of another size."""
    height, width = mask.shape[:2]
    if (height, width) not in (geometry.shown, (about.height, about.width)):
        expected = f"{geometry.shown[1]}x{geometry.shown[0]}"
        raise UsageError(f"expected a mask of {expected} pixels, the size of the picture, found {width}x{height}")
    target = geometry.shown if (height, width) == geometry.shown else geometry.scaled or geometry.shown
    rows = np.arange(target[0]) * height // target[0]
    columns = np.arange(target[1]) * width // target[1]
    return pad(place(mask[rows][:, columns], geometry.shown, 255), geometry.restored)


def pad(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """[H, W, 3] with its last row and column repeated up to `size`."""
    bottom, right = size[0] - pixels.shape[0], size[1] - pixels.shape[1]
    return np.pad(pixels, ((0, bottom), (0, right), (0, 0)), mode="edge")


def fill(chunk: list[Picture], frames: int, geometry: Geometry) -> Pixels:
    """A chunk as [frames, H, W, 3]: cut, padded to `geometry.fed`, the last picture repeated where too few came."""
    padded = [pad(place(picture.pixels, geometry.taken), geometry.fed) for picture in chunk]
    return np.stack(padded + padded[-1:] * (frames - len(padded)))


def cut(panels: Pixels, index: int, frames: int, geometry: Geometry) -> Pixels:
    """The picture part of panel `index`, without padding in space or time, [frames, H, W, 3]."""
    (height, width), left = geometry.shown, index * geometry.restored[1]
    return panels[:frames, :height, left : left + width]


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
