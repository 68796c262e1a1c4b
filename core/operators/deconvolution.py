"""Undoing a sliding mean over time: the window as a matrix, and a Wiener filter that adapts to motion."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from core.constants import constant, like

MOTION_LEVELS = (3e-4, 3e-3, 3e-2, 3e-1)
"""Prior variances of a pixel's change, one filter each; a pixel lies between two of them."""
CORRELATION = 0.8
"""of a moving pixel's change from frame to frame"""
RESTORED_ERROR = 2e-3
"""variance of a restored frame's error, as the filter believes: what the stream has restored grounds what comes next"""
CAUTION = 0.5
"""how much of a pixel's measured change the prior believes; this and CORRELATION are tuned on the training clips"""


@constant(64)
def window_matrix(preceding: int, frames: int, window: int) -> Tensor:
    """[frames, preceding + frames]: each row averages the `window` frames up to its own, or as many as there are."""
    last = torch.arange(frames)[:, None] + preceding
    column = torch.arange(preceding + frames)[None]
    inside = ((column <= last) & (column > last - window)).float()
    return inside / inside.sum(1, keepdim=True)


def deconvolve(
    y: Tensor, y_past: Tensor | None, x_past: Tensor | None, window: int, lookback: int, noise: float
) -> Tensor:
    """Frames x from their causal means y [T, C, H, W], given up to `lookback` means and restored frames before them.

    A Wiener filter over time for each of a few amounts of motion; each pixel takes the one (between two) that its own
    change asks for: still pixels are averaged, moving ones sharpened.
    """
    means = y if y_past is None else torch.cat([y_past, y])
    preceding, restored = len(means) - len(y), 0 if x_past is None else len(x_past)
    seen = means if x_past is None else torch.cat([x_past, means])
    filters = wiener(preceding, len(y), restored, window, lookback, noise)
    position = motion_position(means, len(y), window, noise)  # [T, 1, H, W]
    estimates = (like(filters, y) @ seen.flatten(1)).view(len(MOTION_LEVELS), *y.shape)
    x = torch.zeros_like(y)
    for index, estimate in enumerate(estimates):
        x.addcmul_(estimate, (1 - (position - index).abs_()).clamp_min_(0))
    return x


def motion_position(means: Tensor, frames: int, window: int, noise: float) -> Tensor:
    """Where each pixel of the last `frames` lies on the scale of MOTION_LEVELS, as a fractional index [T, 1, H, W]."""
    means = means[-frames - 3 :]
    change = means.diff(dim=0).square().mean(1, keepdim=True)
    first = change[:1] if len(change) else torch.zeros_like(means[:1, :1])  # a stream's first mean, alone
    change = F.avg_pool2d(torch.cat([first, change]), 5, 1, 2, count_include_pad=False)
    change = strongest(change, 2)[-frames:]
    variance = CAUTION * (window**2 * (change - 2 * noise**2)).clamp_min(1e-9) / (2 * (1 - CORRELATION**window))
    lowest, step = torch.tensor(MOTION_LEVELS[0]).log(), torch.tensor(MOTION_LEVELS[1] / MOTION_LEVELS[0]).log()
    return ((variance.log() - lowest) / step).clamp(0, len(MOTION_LEVELS) - 1)


def strongest(x: Tensor, radius: int) -> Tensor:
    """The largest value within `radius` frames of each."""
    result = x.clone()
    for shift in range(1, min(radius, len(x) - 1) + 1):
        result[shift:] = torch.maximum(result[shift:], x[:-shift])
        result[:-shift] = torch.maximum(result[:-shift], x[shift:])
    return result


@constant(64)
def wiener(preceding: int, frames: int, restored: int, window: int, lookback: int, noise: float) -> Tensor:
    """`wiener_at` each of MOTION_LEVELS, one below the other."""
    settings = (preceding, frames, restored, window, lookback, noise)
    return torch.cat([wiener_at(level, *settings) for level in MOTION_LEVELS])


def wiener_at(
    level: float, preceding: int, frames: int, restored: int, window: int, lookback: int, noise: float
) -> Tensor:
    """The linear estimate [frames, restored + preceding + frames] of the last `frames` x.

    It is made from the last `restored` frames before them, as they were restored, and from all means y.

    Prior: a constant plus a change of variance `level` that decays with CORRELATION. With fewer than `lookback` means
    the first is a stream's first; with all of them, frames before the first mean were there but are not known.
    """
    total = preceding + frames
    hidden = window - 1 if preceding >= lookback else 0
    W = window_matrix(hidden, total, window).double()
    index = torch.arange(hidden + total).double()
    C = 1 + level * CORRELATION ** (index[:, None] - index[None]).abs()
    before = hidden + preceding
    H = torch.cat([torch.eye(hidden + total, dtype=torch.float64)[before - restored : before], W])
    errors = torch.tensor([RESTORED_ERROR] * restored + [noise**2] * total, dtype=torch.float64)
    inverse: Tensor = torch.linalg.inv(H @ C @ H.T + errors.diag())
    return (C[-frames:] @ H.T @ inverse).float()
