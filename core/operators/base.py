"""Degradation operators A of y = A(x) + n, on one chunk: x is [T, 3, H, W] in [-1, 1].

An operator is its own configuration: it inherits its settings from a class of `core.operators.config` and adds the
maths, so the TOML file and the command line validate straight into it. Temporal operators mix in frames from before the
chunk (`past`); at the start of a stream there are none, and their means run over the frames there are.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from core.operators.config import LinearOperatorConfig

CPU = torch.device("cpu")


class LinearOperator(LinearOperatorConfig):
    """A linear map with its adjoint: <A x, v> = <x, A_adjoint v> for a stream at rest (no frames before)."""

    reach: ClassVar[int] = 0
    """how many frames before the chunk A mixes in"""
    lookback: ClassVar[int] = 0
    """how many measurement frames before the chunk x_init looks at"""
    recall: ClassVar[int] = 0
    """how many restored frames before the chunk x_init looks at"""
    norm: ClassVar[float] = 1.0
    """the largest singular value of A"""

    @property
    def task(self) -> str:
        """The kind of operator that is most like this one among those that a network is trained on."""
        return self.kind

    def A(self, x: Tensor, past: Tensor | None = None) -> Tensor:
        """The clean measurement of frames `x` that follow the frames `past` [at most reach, 3, H, W]."""
        return self.A_linear(x, 0)

    def A_linear(self, x: Tensor, preceding: int = 0) -> Tensor:
        """The part of A that is linear in the chunk itself, `preceding` frames (at most reach) into a stream."""
        raise NotImplementedError

    def A_adjoint(self, y: Tensor, preceding: int = 0) -> Tensor:
        """The adjoint of `A_linear`."""
        raise NotImplementedError

    def prepare(self, height: int, width: int) -> None:
        """Checks the size and computes what a stream of it needs once. Raises ValueError for one that does not fit."""
        self.check_size(height, width)

    def measure(self, x: Tensor, past: Tensor | None, rng: torch.Generator) -> Tensor:
        """y = A(x) + n (Eq. 1)."""
        y = self.A(x, past)
        return y + self.noise * torch.randn(y.shape, generator=rng, device=rng.device).to(y)

    def observed(self, frames: Tensor) -> Tensor:
        """The measurement in frames that come from a camera: all of them, or what a mask leaves."""
        return frames

    def completed(self, y: Tensor, y_past: Tensor | None) -> Tensor:
        """y with something plausible where nothing was measured."""
        return y

    def residual(self, x: Tensor, y: Tensor, past: Tensor | None) -> float:
        """|y - A x| / |y|: how far the restored frames are from what was measured."""
        return float((y - self.A(x, past)).norm() / y.norm().clamp_min(1e-12))

    def least_squares(self, y: Tensor, y_past: Tensor | None, x_past: Tensor | None = None) -> Tensor | None:
        """Regularised argmin |y - A x|^2 (Eq. 9) in closed form, or None where there is none.

        `y_past` and `x_past` are measured and restored frames before the chunk, None at the start of a stream.
        """
        return None

    def prox(self, x: Tensor, y: Tensor, past: Tensor | None, gamma: float) -> Tensor | None:
        """argmin_u gamma/2 |y - A u|^2 + 1/2 |u - x|^2 (Eq. 7) in closed form, or None where there is none."""
        return None

    def lift(self, y: Tensor) -> Tensor:
        """A cheap picture of y at the size of x, which CG starts from (paper, B.1)."""
        return y

    def hint(self, y: Tensor) -> Tensor:
        """A second look at y beside x_init, [T, 3, H, W]: their difference tells where x_init is unsure."""
        return self.lift(y)

    def reliability(self, frames: int, height: int, width: int) -> Tensor:
        """1 where y holds the pixel itself, 0 where it does not, -1 in a lost frame; [1 or `frames`, 1, H, W]."""
        return torch.zeros(1, 1, height, width)

    def held(self, frames: int, height: int, width: int) -> Tensor:
        """1 where y holds the pixel alone, 0 where mixed with others or not at all, -1 in a lost frame.

        [1 or `frames`, 1, H, W].
        """
        return self.reliability(frames, height, width)

    def show(self, y: Tensor) -> Tensor:
        """The measurement as a person would see it, at the size of x."""
        return y
