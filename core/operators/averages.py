"""Sliding means over time, alone or with a mean over blocks of pixels."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from core.constants import constant, like
from core.operators.base import LinearOperator
from core.operators.config import SpatioTemporalAverageConfig, TemporalAverageConfig
from core.operators.deconvolution import deconvolve, window_matrix
from core.operators.resizing import nearest, upsample
from core.operators.super_resolution import ShrinkingOperator


class TemporalAverage(TemporalAverageConfig, LinearOperator):
    """A sliding mean over time: one matrix mixes the frames."""

    reach: ClassVar[int] = 6
    lookback: ClassVar[int] = 24
    recall: ClassVar[int] = 12

    def A(self, x: Tensor, past: Tensor | None = None) -> Tensor:
        return causal_mean(x, past, self.window)

    def A_linear(self, x: Tensor, preceding: int = 0) -> Tensor:
        return mix(like(window_matrix(preceding, len(x), self.window), x)[:, preceding:], x)

    def A_adjoint(self, y: Tensor, preceding: int = 0) -> Tensor:
        return mix(like(window_matrix(preceding, len(y), self.window), y)[:, preceding:].T, y)

    def least_squares(self, y: Tensor, y_past: Tensor | None, x_past: Tensor | None = None) -> Tensor:
        return deconvolve(y, y_past, x_past, self.window, self.lookback, self.noise)

    def prox(self, x: Tensor, y: Tensor, past: Tensor | None, gamma: float) -> Tensor:
        gain = temporal_gain(0 if past is None else len(past), len(x), self.window, gamma)
        return x + mix(like(gain, x), y - self.A(x, past))


class SpatioTemporalAverage(SpatioTemporalAverageConfig, ShrinkingOperator):
    """A mean over blocks of pixels, then a sliding mean over time."""

    reach: ClassVar[int] = 3
    lookback: ClassVar[int] = 24
    recall: ClassVar[int] = 12

    def A(self, x: Tensor, past: Tensor | None = None) -> Tensor:
        small = None if past is None else F.avg_pool2d(past, self.scale)
        return causal_mean(F.avg_pool2d(x, self.scale), small, self.window)

    def A_linear(self, x: Tensor, preceding: int = 0) -> Tensor:
        weights = like(window_matrix(preceding, len(x), self.window), x)
        return mix(weights[:, preceding:], F.avg_pool2d(x, self.scale))

    def A_adjoint(self, y: Tensor, preceding: int = 0) -> Tensor:
        frames = mix(like(window_matrix(preceding, len(y), self.window), y)[:, preceding:].T, y)
        return nearest(frames, self.scale) / self.scale**2

    def least_squares(self, y: Tensor, y_past: Tensor | None, x_past: Tensor | None = None) -> Tensor:
        small = None if x_past is None else F.avg_pool2d(x_past, self.scale)
        return upsample(deconvolve(y, y_past, small, self.window, self.lookback, self.noise), self.scale)

    def prox(self, x: Tensor, y: Tensor, past: Tensor | None, gamma: float) -> Tensor:
        # A = W S with S S^T = 1/scale^2: u = x + S^T s^2 G (y - A x), G the temporal gain at gamma / scale^2.
        preceding = 0 if past is None else len(past)
        gain = temporal_gain(preceding, len(x), self.window, gamma / self.scale**2)
        return x + nearest(mix(like(gain, x), y - self.A(x, past)), self.scale)


def mix(weights: Tensor, x: Tensor) -> Tensor:
    """Frames mixed over time: weights [S, T], x [T, ...] to [S, ...]."""
    return (weights @ x.flatten(1)).view(len(weights), *x.shape[1:])


def causal_mean(x: Tensor, past: Tensor | None, window: int) -> Tensor:
    preceding = 0 if past is None else len(past)
    frames = x if past is None else torch.cat([past, x])
    return mix(like(window_matrix(preceding, len(x), window), x), frames)


@constant(64)
def temporal_gain(preceding: int, frames: int, window: int, gamma: float) -> Tensor:
    """W^T (W W^T + I / gamma)^-1 of the window matrix W: the prox of a temporal mean is one matrix."""
    W = window_matrix(preceding, frames, window)[:, preceding:].double()
    inverse: Tensor = torch.linalg.inv(W @ W.T + torch.eye(frames, dtype=torch.float64) / gamma)
    return (W.T @ inverse).float()
