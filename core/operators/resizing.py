"""Resizing as a linear map: nearest, bilinear, and enlargement that a mean over blocks undoes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from core.constants import constant, like


def nearest(y: Tensor, scale: int) -> Tensor:
    return F.interpolate(y, scale_factor=scale, mode="nearest")


def bilinear(y: Tensor, scale: int) -> Tensor:
    rows, columns = (enlarging_matrix(size, scale, "bilinear") for size in y.shape[-2:])
    return like(rows, y) @ (y @ like(columns, y).T)


def upsample(y: Tensor, scale: int) -> Tensor:
    """Bicubic, corrected along each side so that every block has exactly its measured mean."""
    rows, columns = (consistent_matrix(size, scale) for size in y.shape[-2:])
    return like(rows, y) @ (y @ like(columns, y).T)


@constant(32)
def consistent_matrix(size: int, scale: int) -> Tensor:
    """R + N (I - P R) of bicubic R, block mean P and repetition N: P times it is the identity, [size scale, size]."""
    R, N = enlarging_matrix(size, scale, "bicubic"), torch.eye(size).repeat_interleave(scale, 0)
    return R + N @ (torch.eye(size) - N.T @ R / scale)


@constant(64)
def enlarging_matrix(size: int, scale: int, mode: Literal["bilinear", "bicubic"]) -> Tensor:
    """Interpolation of a line of `size` pixels as a matrix [size scale, size]: both modes are separable."""
    line = torch.eye(size)[None, None]
    return F.interpolate(line, size=(size * scale, size), mode=mode)[0, 0]
