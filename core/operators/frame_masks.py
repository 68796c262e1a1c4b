"""Inpainting whose mask is another one in every frame: what a moving camera has not seen."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import ConfigDict
from pydantic.json_schema import SkipJsonSchema
from torch import Tensor
from torch.nn import functional as F

from core.operators.base import LinearOperator


class FrameMasks(LinearOperator):
    """Pixels survive where the frame's mask is 1. Bound to one chunk: the next one has other masks.

    It goes into a stream's state before each chunk; nobody configures it.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    kind: Literal["mask"] = "mask"
    masks: SkipJsonSchema[Tensor]
    """1 where the pixel is known, 0 where it is not, [T, 1, H, W]"""

    def A_linear(self, x: Tensor, preceding: int = 0) -> Tensor:
        return x * self.masks.to(x)

    def A_adjoint(self, y: Tensor, preceding: int = 0) -> Tensor:
        return self.A_linear(y)

    def observed(self, frames: Tensor) -> Tensor:
        return self.A_linear(frames)

    def least_squares(self, y: Tensor, y_past: Tensor | None, x_past: Tensor | None = None) -> Tensor:
        return filled(y, self.masks.to(y))

    def prox(self, x: Tensor, y: Tensor, past: Tensor | None, gamma: float) -> Tensor:
        return x + gamma / (1 + gamma) * (y - x) * self.masks.to(x)

    def hint(self, y: Tensor) -> Tensor:
        return filled(y, self.masks.to(y))

    def reliability(self, frames: int, height: int, width: int) -> Tensor:
        return self.masks


def filled(y: Tensor, masks: Tensor) -> Tensor:
    """Frames y [T, 3, H, W] with their holes filled smoothly from around them (push-pull); what is known stays.

    Means of the known pixels over ever larger blocks, until each block knows something; then back up.
    """
    height, width = y.shape[-2:]
    if masks.all() or height * width == 1:
        return y
    odd = (0, width % 2, 0, height % 2)
    weight = F.avg_pool2d(F.pad(masks, odd), 2)
    mean = F.avg_pool2d(F.pad(y * masks, odd), 2) / weight.clamp_min(1e-6)
    known = (weight > 0).to(y)
    coarse = filled(mean * known, known)
    size = (height + height % 2, width + width % 2)
    fine = F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)[..., :height, :width]
    return torch.where(masks > 0, y, fine)
