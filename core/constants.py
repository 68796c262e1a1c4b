"""Tensors that depend on a configuration alone: computed once, kept, and shared by all who ask."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def constant(maxsize: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Keeps the last `maxsize` results. They are ordinary tensors, wherever they were first asked for: one made in
    inference mode could never be part of a training step.
    """

    def decorate(make: Callable[P, R]) -> Callable[P, R]:
        return lru_cache(maxsize)(torch.inference_mode(False)(make))  # type: ignore[return-value]

    return decorate


def like(value: Tensor, x: Tensor) -> Tensor:
    """The constant `value` on the device of `x` and in its dtype, and kept there: a GPU waits for what comes.

    Only for what a `constant` gave: a tensor made anew for each call, a view too, would be kept each time.
    """
    there = value.device == x.device and value.dtype == x.dtype
    return value if there else _moved(value, x.device, x.dtype)


@constant(128)
def _moved(value: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return value.to(device, dtype)
