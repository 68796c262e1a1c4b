"""The paper's operators as its published code has them: A is the same, its adjoint is replaced by something cheaper.

Super-resolution goes back up bilinearly and the blur by the identity, so conjugate gradients run on a system that is
not symmetric, a few steps and no further. Without noise that is a good start; with noise the blur's diverges.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from core.evaluation.baselines import telea
from core.operators.averages import SpatioTemporalAverage
from core.operators.base import LinearOperator
from core.operators.blur import GaussianBlur
from core.operators.derived import DerivedOperator
from core.operators.masks import MaskedOperator
from core.operators.resizing import bilinear
from core.operators.super_resolution import SuperResolution


class AsPublished(DerivedOperator):
    """`operator` with the published code's replacement for its adjoint, and without closed forms."""

    def A_adjoint(self, y: Tensor, preceding: int = 0) -> Tensor:
        match self.operator:
            case SuperResolution(scale=scale):
                return bilinear(y, scale)
            case SpatioTemporalAverage(scale=scale):
                across_time = F.avg_pool2d(self.operator.A_adjoint(y, preceding), scale) * scale**2
                return bilinear(across_time, scale)
            case GaussianBlur():
                return y
        return self.operator.A_adjoint(y, preceding)

    def least_squares(self, y: Tensor, y_past: Tensor | None, x_past: Tensor | None = None) -> Tensor | None:
        """Telea's infill for lost pixels; None, which means conjugate gradients from `lift`, for all else."""
        if isinstance(self.operator, MaskedOperator):
            return telea(y, self.operator.mask(*y.shape[-2:])[0, 0])
        return None


def as_published(operator: LinearOperator) -> AsPublished:
    """The operator as the published code has it."""
    return AsPublished(operator=operator, noise=operator.noise, kind=operator.kind)
