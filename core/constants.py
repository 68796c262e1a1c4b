"""Tensors that depend on a configuration alone: computed once, kept, and shared by all who ask."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from functools import wraps
from threading import Lock
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

BUDGET = 512 * 2**20
"""bytes of all constants together. Eight streams of 832x480, each with an operator of its own, need some 400 MiB"""


@dataclass
class Kept:
    """The results that were used last, within a budget of bytes. Several threads may share it."""

    budget: int
    bytes: int = 0
    """of all that is kept"""
    misses: int = 0
    """results that had to be computed"""
    _entries: OrderedDict[Hashable, tuple[Any, int]] = field(default_factory=OrderedDict)
    """each result and its bytes, the one used longest ago first"""
    _lock: Lock = field(default_factory=Lock)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> Any:
        """What was kept under `key`. Raises KeyError when it is not kept."""
        with self._lock:
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def put(self, key: tuple[Hashable, ...], value: Any, most: int) -> None:
        """Keeps a result, and of results whose key begins alike the last `most`. One beyond the budget is not kept."""
        self.misses += 1
        size = nbytes((key, value))
        if size > self.budget:
            return
        with self._lock:
            self._drop(key)
            self._entries[key] = value, size
            self.bytes += size
            alike = [other for other in self._entries if other[0] == key[0]]  # type: ignore[index]
            for other in alike[: max(0, len(alike) - most)]:
                self._drop(other)
            while self.bytes > self.budget:
                self._drop(next(iter(self._entries)))

    def _drop(self, key: Hashable) -> None:
        _, size = self._entries.pop(key, (None, 0))
        self.bytes -= size


KEPT = Kept(BUDGET)


def constant(most: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Keeps the last `most` results of a function, as long as all constants together stay within BUDGET.

    A client chooses what they depend on, so their number alone bounds nothing. The results are ordinary tensors,
    wherever they were first asked for: one made in inference mode could never be part of a training step.
    """

    def decorate(make: Callable[P, R]) -> Callable[P, R]:
        compute = torch.inference_mode(False)(make)

        @wraps(make)
        def remembered(*args: P.args, **kwargs: P.kwargs) -> R:
            key = (make, args, tuple(sorted(kwargs.items())))
            try:
                return KEPT.get(key)  # type: ignore[no-any-return]
            except KeyError:
                value = compute(*args, **kwargs)
                KEPT.put(key, value, most)
                return value

        return remembered

    return decorate


def nbytes(value: Any) -> int:
    """Bytes of the tensors in a value: a tensor, a dataclass of tensors, a tuple. Views of one storage count once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors(value)}
    return sum(storages.values())


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a value."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from tensors(part)
    elif is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            yield from tensors(getattr(value, one.name))


def like(value: Tensor, x: Tensor) -> Tensor:
    """The constant `value` on the device of `x` and in its dtype, and kept there: a GPU waits for what comes.

    Only for what a `constant` gave: a tensor made anew for each call, a view too, would be kept each time.
    """
    there = value.device == x.device and value.dtype == x.dtype
    return value if there else _moved(value, x.device, x.dtype)


@constant(128)
def _moved(value: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return value.to(device, dtype)
