"""The plain method of each task: what one would do without a model. Stateless, frame by frame."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
import torch
from torch import Tensor

from core.operators.averages import SpatioTemporalAverage
from core.operators.base import LinearOperator
from core.operators.blur import GaussianBlur
from core.operators.compose import Compose
from core.operators.deinterlace import Deinterlace
from core.operators.masks import MaskedOperator
from core.operators.super_resolution import SuperResolution
from core.video import from_pixels, to_pixels

TELEA_RADIUS = 3
"""pixels around a lost one that Telea's method looks at"""


def baseline(operator: LinearOperator, y: Tensor) -> Tensor:
    """A restoration of the measurement y at the size of x.

    Lanczos for small measurements, Telea for lost pixels, Wiener for a Gaussian blur, the lines between for lost ones,
    each part undone by itself for a composition, and y itself for all else.
    """
    match operator:
        case SuperResolution() | SpatioTemporalAverage():
            return lanczos(y, operator.scale).clamp(-1, 1)
        case MaskedOperator():
            return telea(y, operator.mask(*y.shape[-2:])[0, 0])
        case GaussianBlur():
            return wiener(y, operator.sigma, operator.noise).clamp(-1, 1)
        case Deinterlace():
            return operator.hint(y).clamp(-1, 1)
        case Compose():
            return operator.lift(y).clamp(-1, 1)
    return y.clamp(-1, 1)


def lanczos(y: Tensor, scale: int) -> Tensor:
    """[T, 3, h, w] enlarged `scale` times by Lanczos-3, edges repeated."""
    rows, columns = (lanczos_matrix(size, scale).to(y) for size in y.shape[-2:])
    return rows @ y @ columns.T


@lru_cache(maxsize=16)
def lanczos_matrix(size: int, scale: int) -> Tensor:
    """[size * scale, size]: weights of the small pixels in each large one; rows sum to one."""
    place = (torch.arange(size * scale, dtype=torch.float64) + 0.5) / scale - 0.5
    taps = torch.arange(-2, 4) + place.floor()[:, None].long()  # [size * scale, 6]
    distance = place[:, None] - taps
    weights = torch.sinc(distance) * torch.sinc(distance / 3)
    matrix = torch.zeros(size * scale, size, dtype=torch.float64)
    matrix.scatter_add_(1, taps.clamp(0, size - 1), weights / weights.sum(1, keepdim=True))
    return matrix.float()


def telea(y: Tensor, known: Tensor) -> Tensor:
    """[T, 3, H, W] with the pixels where `known` [H, W] is 0 filled by Telea's fast marching (OpenCV)."""
    lost = (known == 0).to(torch.uint8).cpu().numpy()
    filled = [cv2.inpaint(frame, lost, TELEA_RADIUS, cv2.INPAINT_TELEA) for frame in to_pixels(y)]
    return from_pixels(np.stack(filled), y.device)


def wiener(y: Tensor, sigma: float, noise: float) -> Tensor:
    """The classic Wiener filter for a Gaussian blur: a flat prior of the frame's own variance.

    A line mirrored about its end pixels is periodic, which makes a blur that reflects at the border circular.
    """
    mirrored = torch.cat([y, y[..., 1:-1].flip(-1)], -1)
    mirrored = torch.cat([mirrored, mirrored[..., 1:-1, :].flip(-2)], -2)
    rows, columns = (_transfer(size, sigma).to(y) for size in mirrored.shape[-2:])
    gains = rows[:, None] * columns[None, : mirrored.shape[-1] // 2 + 1]
    mean = y.mean(dim=(-2, -1), keepdim=True)
    ratio = noise**2 / y.var(dim=(-2, -1), keepdim=True).clamp_min(1e-8)
    spectrum = torch.fft.rfft2(mirrored - mean) * gains / (gains**2 + ratio)
    restored: Tensor = torch.fft.irfft2(spectrum, s=mirrored.shape[-2:])[..., : y.shape[-2], : y.shape[-1]] + mean
    return restored


@lru_cache(maxsize=16)
def _transfer(size: int, sigma: float) -> Tensor:
    """The gain of a circular Gaussian blur at each DFT frequency of `size` pixels, taps cut at four sigma."""
    reach = min(30, int(4 * sigma + 0.5))
    taps = torch.tensor([math.exp(-(k**2) / (2 * sigma**2)) for k in range(reach + 1)], dtype=torch.float64)
    angles = 2 * math.pi * torch.arange(size, dtype=torch.float64)[:, None] * torch.arange(1, reach + 1) / size
    gains = taps[0] + 2 * (taps[1:] * angles.cos()).sum(1)
    return (gains / (taps[0] + 2 * taps[1:].sum())).float()
