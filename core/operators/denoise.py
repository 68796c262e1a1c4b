"""Denoising: A is the identity, and only the noise is to be removed."""

from __future__ import annotations

import torch
from torch import Tensor

from core.operators.base import LinearOperator
from core.operators.config import DenoiseConfig


class Denoise(DenoiseConfig, LinearOperator):
    """y = x + n."""

    def A_linear(self, x: Tensor, preceding: int = 0) -> Tensor:
        return x

    def A_adjoint(self, y: Tensor, preceding: int = 0) -> Tensor:
        return y

    def least_squares(self, y: Tensor, y_past: Tensor | None, x_past: Tensor | None = None) -> Tensor:
        return y

    def prox(self, x: Tensor, y: Tensor, past: Tensor | None, gamma: float) -> Tensor:
        return x + gamma / (1 + gamma) * (y - x)

    def held(self, frames: int, height: int, width: int) -> Tensor:
        return torch.ones(1, 1, height, width)
