"""Inpainting: A keeps the pixels of a mask, random or drawn."""

from __future__ import annotations

import base64
import io
import struct
from typing import Literal

import av
import torch
from av.error import FFmpegError
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional as F

from core.constants import constant, like
from core.operators.base import CPU, LinearOperator
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
        if not self.mask(height, width).any():
            raise ValueError("the mask keeps no pixel: there is nothing to restore from")

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


class Inpainting(MaskedOperator):
    """A random share of the pixels survives; which ones is fixed by the seed and the same in every frame."""

    kind: Literal["inpainting"] = "inpainting"
    keep: float = Field(0.5, ge=0.05, le=0.99)
    """share of the pixels that survive"""
    seed: int = Field(0, ge=0, lt=2**31)
    """which pixels survive"""

    def mask(self, height: int, width: int) -> Tensor:
        return random_mask(height, width, self.keep, self.seed)

    def infill(self, height: int, width: int, device: torch.device) -> Infill:
        return _random_infill(height, width, self.keep, self.seed, device)


class Mask(MaskedOperator):
    """A drawn mask: pixels survive where the picture is white (128 and more), and are lost where it is black."""

    kind: Literal["mask"] = "mask"
    png: str = Field(min_length=1, max_length=2_000_000)
    """the mask as a PNG file in base64; it is scaled to the size of the stream (nearest)"""

    @field_validator("png")
    @classmethod
    def _is_a_picture(cls, png: str) -> str:
        read_mask(png)
        return png

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
    picture = torch.from_numpy(read_mask(png).reformat(format="gray").to_ndarray()).float()
    return F.interpolate((picture >= 128).float()[None, None], size=(height, width), mode="nearest")


@constant(16)
def _drawn_infill(png: str, height: int, width: int, device: torch.device) -> Infill:
    if device != CPU:
        return _drawn_infill(png, height, width, CPU).to(device)
    return plan_infill(_drawn_mask(png, height, width)[0, 0].bool())


def read_mask(png: str) -> av.VideoFrame:
    """The picture in a base64 PNG. Raises ValueError when it is none, or larger than MASK_SIDE pixels each way."""
    try:
        file = base64.b64decode(png, validate=True)
        width, height = struct.unpack(">II", file[16:24])  # of the IHDR: what is too large is not decoded
        if max(width, height) <= MASK_SIDE:
            with av.open(io.BytesIO(file), "r", format="png_pipe") as container:
                return next(container.decode(video=0))
    except (ValueError, struct.error, FFmpegError, StopIteration, IndexError) as error:
        raise ValueError(f"a mask must be a PNG picture in base64, and this is not: {error}") from error
    raise ValueError(f"a mask may be {MASK_SIDE} pixels each way at most, not {width}x{height}")


MASK_SIDE = 4096
"""most pixels of a drawn mask each way"""
