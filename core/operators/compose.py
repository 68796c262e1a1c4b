"""Several operators one after the other: closed forms where lines and columns part or all is masks and means."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

import torch
from pydantic import Field, TypeAdapter
from torch import Tensor

from core.constants import constant, like
from core.operators.base import CPU, LinearOperator
from core.operators.blur import GaussianBlur, LineSVD, between, blur_matrix, decomposed, separable_correction
from core.operators.config import ComposeConfig, GaussianBlurConfig, PartConfig, SuperResolutionConfig
from core.operators.convolution import Kernel, MotionBlur
from core.operators.infill import Infill, plan_infill
from core.operators.masks import Inpainting, Mask, MaskedOperator
from core.operators.resizing import bilinear, nearest
from core.operators.super_resolution import SuperResolution

Part = SuperResolution | Inpainting | GaussianBlur | MotionBlur | Kernel | Mask


class Masks(MaskedOperator):
    """Several masks at once."""

    operators: tuple[Annotated[Inpainting | Mask, Field(discriminator="kind")], ...]

    @property
    def task(self) -> str:
        return "inpainting"

    def mask(self, height: int, width: int) -> Tensor:
        return joint_mask(self.operators, height, width)

    def infill(self, height: int, width: int, device: torch.device) -> Infill:
        return joint_infill(self.operators, height, width, device)


class Compose(ComposeConfig, LinearOperator):
    """A = A_n ... A_2 A_1."""

    @property
    def parts(self) -> tuple[LinearOperator, ...]:
        """The operators with their maths and the noise of the whole; all masks are the last one."""
        return parts_of(self.operators, self.noise)

    @property
    def scale(self) -> int:
        """How many times smaller the measurement is, each way."""
        return 48 // self.measurement_size(48, 48)[0]

    @property
    def norm(self) -> float:  # type: ignore[override]
        return 1 / self.scale

    @property
    def task(self) -> str:
        """Of its parts the one that costs most detail: what is small, then what is blurred, then what is lost."""
        tasks = {part.task for part in self.parts}
        return next((task for task in ("super_resolution", "gaussian_blur") if task in tasks), "inpainting")

    def A_linear(self, x: Tensor, preceding: int = 0) -> Tensor:
        if lines := self._lines(*x.shape[-2:]):
            return between(lines[0].matrix, x, lines[1].matrix)
        for part in self.parts:
            x = part.A_linear(x)
        return x

    def A_adjoint(self, y: Tensor, preceding: int = 0) -> Tensor:
        if lines := self._lines(*(side * self.scale for side in y.shape[-2:])):
            return like(lines[0].matrix, y).T @ y @ like(lines[1].matrix, y)
        for part in reversed(self.parts):
            y = part.A_adjoint(y)
        return y

    def prepare(self, height: int, width: int) -> None:
        self.check_size(height, width)
        self._lines(height, width)
        for part in self.parts:
            part.prepare(height, width)
            height, width = part.measurement_size(height, width)

    def measure(self, x: Tensor, past: Tensor | None, rng: torch.Generator) -> Tensor:
        return self.observed(super().measure(x, past, rng))

    def observed(self, frames: Tensor) -> Tensor:
        return self.parts[-1].observed(frames)

    def least_squares(self, y: Tensor, y_past: Tensor | None, x_past: Tensor | None = None) -> Tensor | None:
        """What `lift` says, held to y, where that has a closed form."""
        return self.prox(self.lift(y), y, None, 1 / (self.noise * self.norm**2))

    def prox(self, x: Tensor, y: Tensor, past: Tensor | None, gamma: float) -> Tensor | None:
        if lines := self._lines(*x.shape[-2:]):
            return x + separable_correction(*lines, x, y, gamma)
        if all(isinstance(part, MaskedOperator | SuperResolution) for part in self.parts):
            energy = like(diagonal(self.operators, *x.shape[-2:]), x)  # A A^T: no two measurements share a pixel
            return x + self.A_adjoint(gamma / (1 + gamma * energy) * (y - self.A_linear(x)))
        return None

    def lift(self, y: Tensor) -> Tensor:
        """Each operator undone by itself, the last one first."""
        for part in reversed(self.parts):
            undone = part.least_squares(y, None)
            assert undone is not None, f"{part.kind} has no closed form"
            y = undone
        return y

    def hint(self, y: Tensor) -> Tensor:
        """Filled and enlarged, and still as blurred as it came."""
        for part in reversed(self.parts):
            y = bilinear(y, part.scale) if isinstance(part, SuperResolution) else part.hint(y)
        return y

    def reliability(self, frames: int, height: int, width: int) -> Tensor:
        """A pixel under a blur or a mean is not measured itself."""
        if len(self.parts) == 1:
            return self.parts[0].reliability(frames, height, width)
        return super().reliability(frames, height, width)

    def show(self, y: Tensor) -> Tensor:
        return nearest(y, self.scale)

    def _lines(self, height: int, width: int) -> tuple[LineSVD, LineSVD] | None:
        """A as a matrix for lines and one for columns, where it has that form."""
        if not all(isinstance(part, GaussianBlur | SuperResolution) for part in self.parts):
            return None
        return composed_lines(self.operators, height), composed_lines(self.operators, width)


@lru_cache(64)
def parts_of(operators: tuple[PartConfig, ...], noise: float) -> tuple[LinearOperator, ...]:
    adapter: TypeAdapter[Part] = TypeAdapter(Annotated[Part, Field(discriminator="kind")])
    parts = [adapter.validate_python(part.model_dump() | {"noise": noise}) for part in operators]
    masks = tuple(part for part in parts if isinstance(part, Inpainting | Mask))
    optics = tuple(part for part in parts if part not in masks)
    return (*optics, Masks(operators=masks, noise=noise)) if masks else optics


@constant(16)
def joint_mask(masks: tuple[Inpainting | Mask, ...], height: int, width: int) -> Tensor:
    return torch.stack([part.mask(height, width) for part in masks]).amin(0)


@constant(16)
def joint_infill(masks: tuple[Inpainting | Mask, ...], height: int, width: int, device: torch.device) -> Infill:
    if device != CPU:
        return joint_infill(masks, height, width, CPU).to(device)
    return plan_infill(joint_mask(masks, height, width)[0, 0].bool())


@constant(32)
def composed_lines(operators: tuple[PartConfig, ...], size: int) -> LineSVD:
    """What the operators make of a line of `size` pixels."""
    M = torch.eye(size, dtype=torch.float64)
    for part in operators:
        if isinstance(part, SuperResolutionConfig):
            M = M.unflatten(0, (-1, part.scale)).mean(1)
        elif isinstance(part, GaussianBlurConfig):
            M = blur_matrix(len(M), part.sigma) @ M
    return decomposed(M)


@constant(16)
def diagonal(operators: tuple[PartConfig, ...], height: int, width: int) -> Tensor:
    """The diagonal of A A^T of masks and means over blocks, [1, 1, h, w]: what A A^T makes of ones."""
    op = Compose(operators=operators)
    h, w = op.measurement_size(height, width)
    return op.A_linear(op.A_adjoint(torch.ones(1, 1, h, w)))
