"""Depth maps from files: arrays, 16-bit pictures, and what their numbers mean. Knows no model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from core.errors import UsageError

Depth = npt.NDArray[np.float32]
"""[T, H, W] distances along the camera's axis"""

Kind = Literal["depth", "disparity"]

FARTHEST = 20.0
"""distance of the farthest point of a relative disparity, where the nearest is at 1"""


def read_depth(path: Path, kind: Kind, scale: float, frames: int, size: tuple[int, int]) -> Depth:
    """Depth of `frames` frames of `size` = (height, width), from .npy, .npz, a 16-bit PNG or a folder of such.

    One map serves all frames. Raises UsageError for a file that holds no depth, or too few maps.
    """
    maps = _read(path)
    if maps.ndim == 2:
        maps = maps[None]
    if maps.ndim != 3 or not maps.size or not np.isfinite(maps).all():
        raise UsageError(f"expected finite depth [T, H, W] in {path}, found an array of shape {maps.shape}")
    if len(maps) == 1:
        maps = np.repeat(maps, frames, 0)
    if len(maps) < frames:
        raise UsageError(f"expected depth for {frames} frames in {path}, found {len(maps)} maps")
    height, width = size
    resized = [
        cv2.resize(m.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST) for m in maps[:frames]
    ]
    return scale * (distances(np.stack(resized)) if kind == "disparity" else positive(np.stack(resized), path))


def positive(depth: Depth, path: Path) -> Depth:
    if depth.min() <= 0:
        raise UsageError(
            f"expected depth above 0 in {path}, found {depth.min():g}; --depth-kind disparity reads inverses"
        )
    return depth


def distances(disparity: Depth) -> Depth:
    """Distances from 1 to FARTHEST of a relative disparity, scaled once for the whole clip so that nothing pumps."""
    low, high = float(disparity.min()), float(disparity.max())
    relative = (disparity - low) / max(high - low, 1e-9)
    return np.asarray(1 / (1 / FARTHEST + (1 - 1 / FARTHEST) * relative), np.float32)


def _read(path: Path) -> Depth:
    try:
        if path.is_dir():
            files = sorted(path.glob("*.png"))
            if not files:
                raise UsageError(f"expected 16-bit PNG files in {path}, found none")
            return np.stack([_picture(file) for file in files])
        if path.suffix == ".npy":
            return np.asarray(np.load(path, allow_pickle=False))
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return np.asarray(arrays[arrays.files[0]])
    except (OSError, ValueError, IndexError) as error:
        raise UsageError(f"expected depth in {path}, found none: {error}") from error
    if path.suffix != ".png":
        raise UsageError(f"expected a .npy, .npz or .png file or a folder for --depth, found {path}")
    return _picture(path)


def _picture(path: Path) -> Depth:
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if found is None or found.ndim != 2:
        raise UsageError(f"expected a picture of one channel in {path}, found none")
    return np.asarray(found, np.float32)
