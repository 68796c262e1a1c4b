"""Inpainting: A keeps the pixels of a mask, random or drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from core.constants import constant, like
from core.operators.base import CPU, LinearOperator
from core.operators.config import NO_PIXEL, InpaintingConfig, MaskConfig, known_pixels
from core.operators.infill import Infill, plan_infill


class MaskedOperator(LinearOperator):
    """Pixels survive where a mask is 1. What all inpainting operators share."""

    def mask(self, height: int, width: int) -> Tensor:
        """1 where the pixel is known, 0 where it is lost, [1, 1, H, W]."""
        raise NotImplementedError

    def A_linear(self, x: Tensor, preceding: int = 0) -> Tensor:
        return x * like(self.mask(*x.shape[-2:]), x)

    def A_adjoint(self, y: Tensor, preceding: int = 0) -> Tensor:
        return self.A_linear(y)

    def prepare(self, height: int, width: int) -> None:
        super().prepare(height, width)
        if not self.mask(height, width).any():
            raise ValueError(NO_PIXEL)

    def measure(self, x: Tensor, past: Tensor | None, rng: torch.Generator) -> Tensor:
        y = super().measure(x, past, rng)
        return y * like(self.mask(*x.shape[-2:]), y)

    def observed(self, frames: Tensor) -> Tensor:
        return self.A_linear(frames)

    def infill(self, height: int, width: int, device: torch.device) -> Infill:
        """How frames of this size on `device` are filled."""
        raise NotImplementedError

    def least_squares(self, y: Tensor, y_past: Tensor | None, x_past: Tensor | None = None) -> Tensor:
        return self._infill_of(y)(y)

    def prox(self, x: Tensor, y: Tensor, past: Tensor | None, gamma: float) -> Tensor:
        return x + gamma / (1 + gamma) * (y - x) * like(self.mask(*x.shape[-2:]), x)

    def hint(self, y: Tensor) -> Tensor:
        """Infilled along rows where they hold a near pixel: against x_init this tells the direction of edges."""
        return self._infill_of(y).along_rows(y)

    def reliability(self, frames: int, height: int, width: int) -> Tensor:
        return self.mask(height, width)

    def _infill_of(self, y: Tensor) -> Infill:
        height, width = y.shape[-2:]
        return self.infill(height, width, y.device)


class Inpainting(InpaintingConfig, MaskedOperator):
    """The mask is random; its seed fixes it for every frame."""

    def mask(self, height: int, width: int) -> Tensor:
        return random_mask(height, width, self.keep, self.seed)

    def infill(self, height: int, width: int, device: torch.device) -> Infill:
        return _random_infill(height, width, self.keep, self.seed, device)


class Mask(MaskConfig, MaskedOperator):
    """The mask is drawn. No network of ours was trained on such, and the one for random pixels serves as well."""

    @property
    def task(self) -> str:
        return "inpainting"

    def mask(self, height: int, width: int) -> Tensor:
        return _drawn_mask(self.png, height, width)

    def infill(self, height: int, width: int, device: torch.device) -> Infill:
        return _drawn_infill(self.png, height, width, device)


@constant(16)
def random_mask(height: int, width: int, keep: float, seed: int) -> Tensor:
    """[1, 1, H, W] of 0 and 1; each pixel is 1 with probability `keep`."""
    rng = torch.Generator().manual_seed(seed)
    return (torch.rand(1, 1, height, width, generator=rng) < keep).float()


@constant(16)
def _random_infill(height: int, width: int, keep: float, seed: int, device: torch.device) -> Infill:
    if device != CPU:
        return _random_infill(height, width, keep, seed, CPU).to(device)
    return plan_infill(random_mask(height, width, keep, seed)[0, 0].bool())


@constant(16)
def _drawn_mask(png: str, height: int, width: int) -> Tensor:
    return torch.from_numpy(known_pixels(png, height, width)).float()[None, None]


@constant(16)
def _drawn_infill(png: str, height: int, width: int, device: torch.device) -> Infill:
    if device != CPU:
        return _drawn_infill(png, height, width, CPU).to(device)
    return plan_infill(_drawn_mask(png, height, width)[0, 0].bool())
