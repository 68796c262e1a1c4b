"""Pixels to frames and back. Knows tensors and arrays, no files."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def from_pixels(pixels: npt.NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """Pixels [T, H, W, 3] in 0..255 to frames [T, 3, H, W] in [-1, 1], channels last in memory.

    The bytes cross to `device` before they become floats. A read-only array is copied, as torch asks.
    """
    writable = np.require(pixels, np.uint8, ["C", "W"])
    return torch.from_numpy(writable).to(device).permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1)


def to_pixels(x: Tensor) -> npt.NDArray[np.uint8]:
    """Frames [T, 3, H, W] in [-1, 1] to pixels [T, H, W, 3] in 0..255, rounded and clipped."""
    scaled = x.detach().permute(0, 2, 3, 1).to(torch.float32) * 127.5
    rounded = scaled.add_(127.5).round_().clamp_(0, 255)
    pixels: npt.NDArray[np.uint8] = rounded.to(torch.uint8).contiguous().cpu().numpy()
    return pixels
