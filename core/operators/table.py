"""The operators that a session may name, and the five tasks of the paper."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from core.operators.averages import SpatioTemporalAverage, TemporalAverage
from core.operators.base import LinearOperator
from core.operators.blur import GaussianBlur
from core.operators.masks import Inpainting, Mask
from core.operators.super_resolution import SuperResolution

Operator = Annotated[
    SuperResolution | Inpainting | GaussianBlur | TemporalAverage | SpatioTemporalAverage | Mask,
    Field(discriminator="kind"),
]

PAPER_OPERATORS: tuple[LinearOperator, ...] = (
    SuperResolution(),
    Inpainting(),
    GaussianBlur(),
    TemporalAverage(),
    SpatioTemporalAverage(),
)
"""The five tasks of the paper, with its settings."""
