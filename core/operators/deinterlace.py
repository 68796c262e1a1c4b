"""Deinterlacing: A keeps the lines of one field in each frame."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from core.chunks import opens_stream
from core.constants import constant, like
from core.operators.base import LinearOperator
from core.operators.config import DeinterlaceConfig

STILL = 0.06
"""change of a pixel (on [-1, 1], beside the noise) at which its frame and those beside it count the same. At 0.1 the
start is better on five training clips, but the network then makes one dev clip worse by 0.1 dB"""


class Deinterlace(DeinterlaceConfig, LinearOperator):
    """A mask of lines, another one in every second frame.

    A stream's chunks have 9, 12, 12, ... frames, so that each but the first begins with an odd frame: the number of
    frames tells which field comes first.
    """

    lookback: ClassVar[int] = 2

    @property
    def task(self) -> str:
        return "inpainting"

    def A_linear(self, x: Tensor, preceding: int = 0) -> Tensor:
        return x * like(self._mask(x), x)

    def A_adjoint(self, y: Tensor, preceding: int = 0) -> Tensor:
        return self.A_linear(y)

    def measure(self, x: Tensor, past: Tensor | None, rng: torch.Generator) -> Tensor:
        return self.A_linear(super().measure(x, past, rng))

    def observed(self, frames: Tensor) -> Tensor:
        return self.A_linear(frames)

    def least_squares(self, y: Tensor, y_past: Tensor | None, x_past: Tensor | None = None) -> Tensor:
        """Lost lines from those around them in time where the picture stands still, and in space where it moves."""
        inside = between_lines(y, self._mask(y))
        frames = y if y_past is None else torch.cat([y_past[-self.lookback :], y])
        if not self.alternate or len(frames) < 3:
            return inside
        still, around = (part[-len(y) :] for part in beside(frames, self.noise))
        return torch.where(like(self._mask(y), y) > 0, y, torch.lerp(inside, around, still))

    def prox(self, x: Tensor, y: Tensor, past: Tensor | None, gamma: float) -> Tensor:
        return x + gamma / (1 + gamma) * (y - x) * like(self._mask(x), x)

    def hint(self, y: Tensor) -> Tensor:
        """Each frame by itself: against x_init this tells where the picture moves."""
        return between_lines(y, self._mask(y))

    def reliability(self, frames: int, height: int, width: int) -> Tensor:
        return line_mask(frames, height, self.field == "top", self.alternate).expand(-1, 1, height, width)

    def _mask(self, x: Tensor) -> Tensor:
        return line_mask(len(x), x.shape[-2], self.field == "top", self.alternate)


@constant(64)
def line_mask(frames: int, height: int, top: bool, alternate: bool) -> Tensor:
    """1 in the lines that a frame holds, [T, 1, H, 1]."""
    first = (0 if top else 1) + (0 if opens_stream(frames) else 1) * alternate
    parity = (first + torch.arange(frames) * alternate) % 2
    lines = torch.arange(height) % 2
    return (lines[None] == parity[:, None]).float()[:, None, :, None]


def between_lines(y: Tensor, mask: Tensor) -> Tensor:
    """y with its lost lines from the four known ones around them (cubic), in each frame by itself."""
    padded = F.pad(y, (0, 0, 3, 3), mode="reflect")  # keeps the order of known and lost lines
    height = y.shape[-2]
    one, three = ((padded[..., 3 - d : 3 - d + height, :] + padded[..., 3 + d : 3 + d + height, :]) for d in (1, 3))
    return torch.where(like(mask, y) > 0, y, 0.5625 * one - 0.0625 * three)


def beside(frames: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """How still each pixel of `frames`, three at least, stands [T, 1, H, W], 0 to 1; and the mean of the frames beside.

    Both hold a frame's lost lines. The last frame has only the one before, and the first only the one after.
    """
    count = len(frames)
    change = (frames[2:] - frames[:-2]).square().mean(1, keepdim=True)  # of lines that both hold
    change = F.pad(change, (0, 0, 0, 0, 0, 0, 2, 2))
    change = torch.maximum(torch.maximum(change[:count], change[2:]), change[1:-1])
    still = torch.exp(-(spread_lines(change) - 2 * noise**2).clamp_min(0) / (2 * STILL**2))
    before, after = torch.cat([frames[1:2], frames[:-1]]), torch.cat([frames[1:], frames[-2:-1]])
    return still, (before + after) / 2


def spread_lines(change: Tensor) -> Tensor:
    """The largest change around each pixel, of a field's lines and of the lost ones between them."""
    return F.max_pool2d(F.avg_pool2d(change, (1, 3), 1, (0, 1), count_include_pad=False), (5, 3), 1, (2, 1))
