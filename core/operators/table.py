"""The operators that a session may name, and the five tasks of the paper."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

from pydantic import Field, TypeAdapter

from core.operators.averages import SpatioTemporalAverage, TemporalAverage
from core.operators.base import LinearOperator
from core.operators.blur import GaussianBlur
from core.operators.compose import Compose
from core.operators.config import OperatorConfig
from core.operators.convolution import Kernel, MotionBlur
from core.operators.deinterlace import Deinterlace
from core.operators.denoise import Denoise
from core.operators.masks import Inpainting, Mask
from core.operators.super_resolution import SuperResolution

Operator = Annotated[
    SuperResolution
    | Inpainting
    | GaussianBlur
    | TemporalAverage
    | SpatioTemporalAverage
    | Mask
    | Denoise
    | Deinterlace
    | MotionBlur
    | Kernel
    | Compose,
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


@lru_cache(64)
def operator_of(config: OperatorConfig) -> Operator:
    """The operator with the settings `config`. Kept, since a stream sends the same configuration with every chunk."""
    operator: Operator = TypeAdapter(Operator).validate_python(config.model_dump())
    return operator
