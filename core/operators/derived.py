"""Operators that are another operator with some of its parts replaced."""

from __future__ import annotations

from torch import Tensor

from core.operators.base import LinearOperator


class DerivedOperator(LinearOperator):
    """Measures and shows as `operator` does. Its closed forms are not taken over: they belong to that A and adjoint."""

    operator: LinearOperator

    @property
    def task(self) -> str:
        return self.operator.task

    @property
    def reach(self) -> int:  # type: ignore[override]
        return self.operator.reach

    @property
    def lookback(self) -> int:  # type: ignore[override]
        return self.operator.lookback

    def A(self, x: Tensor, past: Tensor | None = None) -> Tensor:
        return self.operator.A(x, past)

    def A_linear(self, x: Tensor, preceding: int = 0) -> Tensor:
        return self.operator.A_linear(x, preceding)

    def measurement_size(self, height: int, width: int) -> tuple[int, int]:
        return self.operator.measurement_size(height, width)

    def observed(self, frames: Tensor) -> Tensor:
        return self.operator.observed(frames)

    def lift(self, y: Tensor) -> Tensor:
        return self.operator.lift(y)

    def hint(self, y: Tensor) -> Tensor:
        return self.operator.hint(y)

    def reliability(self, frames: int, height: int, width: int) -> Tensor:
        return self.operator.reliability(frames, height, width)

    def held(self, frames: int, height: int, width: int) -> Tensor:
        return self.operator.held(frames, height, width)

    def show(self, y: Tensor) -> Tensor:
        return self.operator.show(y)
