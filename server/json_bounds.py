"""How much a stranger may say in JSON, beyond the bytes it has. Pure.

A short text may hold a hundred thousand values, and each costs its reader far more than the comma that it took.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain, islice

MOST_VALUES = 5000
"""values in all; the largest kernel has 63 x 63"""
MOST_NAMES = 256
"""names of one object"""
DEEPEST = 64
"""arrays and objects within each other"""


def check_bounds(value: object) -> None:
    """Raises ValueError for JSON that is too large to look at, or has a text that is none (half a surrogate pair)."""
    level, seen = [value], 0
    for _ in range(DEEPEST + 1):
        for part in level:
            check_texts(part)
        level = list(islice(chain.from_iterable(map(parts, level)), MOST_VALUES + 1 - seen))
        seen += len(level)
        if seen > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES} values")
        if not level:
            return
    raise ValueError(f"it has more than {DEEPEST} arrays and objects within each other")


def check_texts(value: object) -> None:
    """Raises ValueError for a text that is none, and for an object of too many names or of one that is none."""
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, dict):
        if len(value) > MOST_NAMES:
            raise ValueError(f"it has an object of {len(value)} names, more than {MOST_NAMES}")
        for name in value:
            name.encode()


def parts(value: object) -> Collection[object]:
    """The values that stand in an array or an object."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
