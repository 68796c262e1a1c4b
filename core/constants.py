"""Tensors that depend on a configuration alone: computed once, kept, and shared by all who ask."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def constant(maxsize: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Keeps the last `maxsize` results. They are ordinary tensors, wherever they were first asked for: one made in
    inference mode could never be part of a training step.
    """

    def decorate(make: Callable[P, R]) -> Callable[P, R]:
        return lru_cache(maxsize)(torch.inference_mode(False)(make))  # type: ignore[return-value]

    return decorate
