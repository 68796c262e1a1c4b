"""Super-resolution: A is a mean over blocks of pixels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from core.operators.base import LinearOperator
from core.operators.config import ShrinkingConfig, SuperResolutionConfig
from core.operators.resizing import bilinear, nearest, upsample


class ShrinkingOperator(ShrinkingConfig, LinearOperator):
    """The measurement is `scale` times smaller each way. What the operators with an area average share."""

    @property
    def norm(self) -> float:  # type: ignore[override]
        return 1 / self.scale

    def lift(self, y: Tensor) -> Tensor:
        return bilinear(y, self.scale)

    def show(self, y: Tensor) -> Tensor:
        return nearest(y, self.scale)


class SuperResolution(SuperResolutionConfig, ShrinkingOperator):
    """Area average over blocks of pixels. A A^T is a multiple of the identity, so all is closed form."""

    def A_linear(self, x: Tensor, preceding: int = 0) -> Tensor:
        return F.avg_pool2d(x, self.scale)

    def A_adjoint(self, y: Tensor, preceding: int = 0) -> Tensor:
        return nearest(y, self.scale) / self.scale**2

    def least_squares(self, y: Tensor, y_past: Tensor | None, x_past: Tensor | None = None) -> Tensor:
        return upsample(y, self.scale)

    def prox(self, x: Tensor, y: Tensor, past: Tensor | None, gamma: float) -> Tensor:
        weight = gamma / (gamma + self.scale**2)
        return x + weight * self.scale**2 * self.A_adjoint(y - self.A_linear(x))
