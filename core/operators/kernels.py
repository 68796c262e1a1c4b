"""Blur kernels as plain numbers: what one bright point becomes. Loads no torch."""

from __future__ import annotations

from functools import lru_cache
from math import cos, hypot, radians, sin

import numpy as np
import numpy.typing as npt

KERNEL_SIDE = 63
"""most rows and columns of a kernel"""
SAMPLES = 16
"""points a pixel by which a line of motion is drawn"""

Taps = tuple[tuple[float, ...], ...]


@lru_cache(64)
def normalised(taps: Taps) -> npt.NDArray[np.float64]:
    """The kernel [rows, columns] with the sum 1. Raises ValueError where it is none."""
    widths = {len(row) for row in taps}
    if len(widths) != 1:
        raise ValueError("a kernel has rows of one length")
    kernel = np.array(taps, dtype=np.float64)
    if not all(side % 2 for side in kernel.shape):
        raise ValueError(f"a kernel has an odd number of rows and columns, not {kernel.shape[0]} and {kernel.shape[1]}")
    if not kernel.sum() > 0:
        raise ValueError("a kernel lets some light through: at least one of its taps is above 0")
    kernel /= kernel.sum()
    kernel.flags.writeable = False
    return kernel


@lru_cache(64)
def motion_kernel(length: float, angle: float) -> npt.NDArray[np.float64]:
    """A camera that moves `length` pixels on a straight line, `angle` degrees from the right to the top.

    Points along the line share their light among the four pixels around them, so any length and angle is smooth.
    """
    along = (np.arange(round(length * SAMPLES)) + 0.5) / round(length * SAMPLES) - 0.5
    turn = radians(angle)
    right, down = along * length * cos(turn), -along * length * sin(turn)
    rows, columns = (int(np.ceil(np.abs(part).max() - 1e-9)) for part in (down, right))
    kernel = np.zeros((2 * rows + 3, 2 * columns + 3))
    top, left = np.floor(down + 1e-9).astype(int), np.floor(right + 1e-9).astype(int)
    for row in (0, 1):
        for column in (0, 1):
            weight = (1 - np.abs(down - top - row)) * (1 - np.abs(right - left - column))
            np.add.at(kernel, (top + row + rows + 1, left + column + columns + 1), weight.clip(0))
    kernel[kernel < 1e-9 * kernel.sum()] = 0
    kernel = trimmed(kernel)
    kernel /= kernel.sum()
    kernel.flags.writeable = False
    return kernel


def trimmed(kernel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The kernel without the empty lines around it, as far as its centre stays its centre."""
    used = [np.flatnonzero(kernel.any(axis)) for axis in (1, 0)]
    reach = [max(side // 2 - found[0], found[-1] - side // 2) for side, found in zip(kernel.shape, used, strict=True)]
    rows, columns = (slice(side // 2 - r, side // 2 + r + 1) for side, r in zip(kernel.shape, reach, strict=True))
    return kernel[rows, columns]


def spread(kernel: npt.NDArray[np.float64]) -> float:
    """How far a kernel spreads light: the standard deviation along its longer axis, in pixels."""
    rows, columns = np.indices(kernel.shape)
    centre = (kernel * rows).sum(), (kernel * columns).sum()
    down, right = rows - centre[0], columns - centre[1]
    a, b, c = (float((kernel * product).sum()) for product in (down * down, right * right, down * right))
    return float(((a + b) / 2 + hypot((a - b) / 2, c)) ** 0.5)
