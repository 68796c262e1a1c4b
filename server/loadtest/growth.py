"""Whether a server grows: its memory, descriptors, threads and tasks over a load test. Pure; time in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import median
from typing import Any

Point = tuple[float, float]
"""(seconds, value)"""

SETTLING = 0.2
"""share of a test in which caches and pools fill, which is no leak"""
SHORTEST = 60.0
"""seconds of a test that has a slope: in less, one client that comes or goes reads as thousands an hour"""
MOST_POINTS = 200
"""of which each pair is looked at"""


def series(samples: Sequence[dict[str, Any]]) -> dict[str, list[Point]]:
    """Each figure that the server told of itself, over time."""
    found: dict[str, list[Point]] = {}
    for sample in samples:
        values = {name: sample.get(name) for name in ("tasks", "frame_memory_bytes")}
        for process, usage in sample.get("processes", {}).items():
            values |= {f"{process}_{name}": value for name, value in (usage or {}).items() if name != "pid"}
        for name, value in values.items():
            if value is not None:
                found.setdefault(name, []).append((sample["at"], float(value)))
    return found


def growth(samples: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Of each figure: before the first client, after the last, the most in between, and its slope an hour."""
    return {
        name: {
            "before": points[0][1],
            "after": points[-1][1],
            "most": max(value for _, value in points),
            "per_hour": per_hour(points),
        }
        for name, points in series(samples).items()
    }


def per_hour(points: Sequence[Point]) -> float | None:
    """The median slope over all pairs of points (Theil and Sen), which no single peak moves; None of too few."""
    start, end = points[0][0], points[-1][0]
    if end - start < SHORTEST:
        return None
    settled = [point for point in points[1:-1] if point[0] >= start + SETTLING * (end - start)]
    settled = settled[:: -(-len(settled) // MOST_POINTS) or 1]
    slopes = [(b - a) / (later - earlier) for (earlier, a), (later, b) in combinations(settled, 2) if later > earlier]
    return round(3600 * median(slopes), 3) if slopes else None
