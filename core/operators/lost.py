"""Loss as a measurement: frames of a chunk that never came are frames that A does not measure."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from core.operators.base import LinearOperator
from core.operators.derived import DerivedOperator


def mask_lost_frames(operator: LinearOperator, lost: tuple[int, ...]) -> LinearOperator:
    """`operator` as it measures a chunk of which the frames with the indices `lost` never came."""
    return LostFrames(operator=operator, lost=lost, noise=operator.noise, kind=operator.kind) if lost else operator


class LostFrames(DerivedOperator):
    """`operator`, of whose chunk the measurement frames `lost` are missing: A' = D A, where D keeps the others.

    What y holds at the lost frames is never looked at. x_init starts from measurements blended in their place; all
    that consistency asks of such a frame it asks of its neighbours (and, when A averages over time, through them).
    """

    lost: tuple[Annotated[int, Field(ge=0, le=10_000)], ...]
    """indices of the frames of the chunk"""

    @property
    def recall(self) -> int:  # type: ignore[override]
        return self.operator.recall

    @property
    def norm(self) -> float:  # type: ignore[override]
        return self.operator.norm

    def A(self, x: Tensor, past: Tensor | None = None) -> Tensor:
        return self._known(self.operator.A(x, past))

    def A_linear(self, x: Tensor, preceding: int = 0) -> Tensor:
        return self._known(self.operator.A_linear(x, preceding))

    def A_adjoint(self, y: Tensor, preceding: int = 0) -> Tensor:
        return self.operator.A_adjoint(self._known(y), preceding)

    def completed(self, y: Tensor, y_past: Tensor | None) -> Tensor:
        """Each lost frame blended from the measured ones before and after it; a copy where there is only one.

        Raises ValueError for an index that is no frame, or when nothing is left of a stream's first chunk.
        """
        if not all(0 <= index < len(y) for index in self.lost):
            raise ValueError(f"expected lost frames of 0 to {len(y) - 1}, found {self.lost}")
        frames = y if y_past is None else torch.cat([y_past[-1:], y])
        offset = len(frames) - len(y)
        measured = [index for index in range(-offset, len(y)) if index not in self.lost]
        if not measured:
            raise ValueError("every frame of the opening chunk is lost: there is nothing to restore from")
        y = y.clone()
        for index in self.lost:
            before = max((m for m in measured if m < index), default=min(measured))
            after = min((m for m in measured if m > index), default=max(measured))
            weight = (index - before) / (after - before) if before < index < after else 0.0
            y[index] = torch.lerp(frames[before + offset], frames[after + offset], weight)
        return y

    def residual(self, x: Tensor, y: Tensor, past: Tensor | None) -> float:
        known = self._measured(len(y))
        if not known:
            return 0.0
        return float((y - self.operator.A(x, past))[known].norm() / y[known].norm().clamp_min(1e-12))

    def least_squares(self, y: Tensor, y_past: Tensor | None, x_past: Tensor | None = None) -> Tensor | None:
        """Of a `y` that is `completed`."""
        return self.operator.least_squares(y, y_past, x_past)

    def prox(self, x: Tensor, y: Tensor, past: Tensor | None, gamma: float) -> Tensor | None:
        """Frame by frame where A is; by conjugate gradients (None) where it mixes frames."""
        known = self._measured(len(y))
        if self.reach or not known:
            return x if not known else None
        closed = self.operator.prox(x, y, None, gamma)
        lost = torch.tensor(self.lost, device=x.device)
        return None if closed is None else closed.index_copy(0, lost, x.index_select(0, lost))

    def reliability(self, frames: int, height: int, width: int) -> Tensor:
        return self._without_lost(self.operator.reliability(frames, height, width), frames)

    def held(self, frames: int, height: int, width: int) -> Tensor:
        return self._without_lost(self.operator.held(frames, height, width), frames)

    def _measured(self, frames: int) -> list[int]:
        return [index for index in range(frames) if index not in self.lost]

    def _without_lost(self, values: Tensor, frames: int) -> Tensor:
        """`values` of every frame, -1 in the lost ones."""
        every = values.expand(frames, -1, -1, -1)
        return every.index_fill(0, torch.tensor(self.lost, device=every.device), -1.0)

    def _known(self, y: Tensor) -> Tensor:
        """y with nothing at the lost frames."""
        return y.index_fill(0, torch.tensor(self.lost, device=y.device), 0.0)
