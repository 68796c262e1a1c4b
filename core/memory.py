"""How large a state is. Knows nothing about what it means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor


def tensor_bytes(state: Any) -> int:
    """Bytes of the tensors in a nest of dataclasses, tuples, lists and dicts; shared memory counts once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(state)}
    return sum(storages.values())


def tensors(state: Any) -> Iterable[Tensor]:
    """Every tensor that a stream's state reaches. Operators hold settings, not state."""
    if isinstance(state, Tensor):
        yield state
    elif is_dataclass(state) and not isinstance(state, type):
        for part in fields(state):
            yield from tensors(getattr(state, part.name))
    elif isinstance(state, dict):
        for value in state.values():
            yield from tensors(value)
    elif isinstance(state, tuple | list):
        for value in state:
            yield from tensors(value)
