"""What `avis bench` times: streams whose measurement is made beforehand, and the machine's own arithmetic."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from core.chunks import CHUNKS, ChunkSpec
from core.contract import Pixels, SolverConfig
from core.engine import Engine
from core.errors import UsageError
from core.evaluation.bench import count_flops, moving_scene, peak_work, synchronize
from core.models.load import Model
from core.operators.table import Operator
from core.video import from_pixels, to_pixels

STREAM = "bench"
STAGES = ("x_init", "encode", "denoise", "prox", "decode", "cache", "transfer")
WARMUP = 3
"""chunks at least before the ones that are timed: the opening one, and those that fill the cache"""


@dataclass
class Clock:
    """Wall and CPU milliseconds of each stage of one chunk, in the sense of core.solver.Stage."""

    model: Model
    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        synchronize(self.model.device)
        self.wall[name] = self.wall.get(name, 0.0) + 1000 * (time.perf_counter() - wall)
        self.cpu[name] = self.cpu.get(name, 0.0) + 1000 * (time.process_time() - cpu)


@dataclass(frozen=True)
class Timed:
    """One chunk."""

    wall: float
    """milliseconds"""
    cpu: float
    """milliseconds of all threads"""
    guided: bool
    stages: dict[str, float]
    stages_cpu: dict[str, float]


@dataclass
class Bench:
    """Streams whose chunks are timed. The measurement is made beforehand, as by a camera."""

    model: Model
    operator: Operator
    config: SolverConfig
    size: tuple[int, int]
    """(height, width)"""
    spec: ChunkSpec = CHUNKS

    def __post_init__(self) -> None:
        self.engine = Engine(self.model)
        self._frames = to_pixels(self.operator.A(from_pixels(moving_scene(21, *self.size))))

    def open(self, stream: str = STREAM) -> None:
        try:
            self.engine.open(stream, self.operator, "incoming", *self.size, spec=self.spec)
        except ValueError as error:
            raise UsageError(f"{error}; --size chooses another size") from error

    def warm_up(self) -> Timed:
        """Opens a stream and restores chunks until each further one costs the same; returns the first."""
        self.open()
        first = self.step()
        settled = self.model.denoiser.chunks_to_settle * CHUNKS.latents // self.spec.latents
        for _ in range(max(WARMUP, settled) - 1):
            self.step()
        return first

    def step(self, stream: str = STREAM) -> Timed:
        frames, clock = self._next(stream), Clock(self.model)
        wall, cpu = time.perf_counter(), time.process_time()
        result = self.engine.step(stream, frames, self.operator, self.config, stage=clock)
        synchronize(self.model.device)
        wall, cpu = 1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)
        return Timed(wall, cpu, result.guided, clock.wall, clock.cpu)

    def _next(self, stream: str) -> Pixels:
        frames = self.engine.frames(stream)
        return self._frames[:frames] if frames == self.spec.frames(0) else self._frames[-frames:]


def steady_flops(bench: Bench, guided: list[bool]) -> int:
    """Operations of a chunk of the kind that most of the timed ones were, guided or not."""
    usual = sum(guided) > len(guided) / 2
    while True:
        seen: list[Timed] = []
        flops = count_flops(lambda: seen.append(bench.step()))  # noqa: B023
        if seen[0].guided == usual:
            return flops


def peak_rate(model: Model) -> dict[str, dict[str, float]]:
    """Operations per second of wall and of CPU time, best of 5, of each piece of pure arithmetic."""
    rates = {}
    for work in peak_work(model.device):
        work.run()
        walls, cpus = [], []
        for _ in range(5):
            wall, cpu = time.perf_counter(), time.process_time()
            work.run()
            synchronize(model.device)
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
        rates[work.name] = {"wall": work.flops / min(walls), "cpu": work.flops / max(min(cpus), 1e-9)}
    return rates


def roofline(flops: int, chunk_ms: float, rates: list[dict[str, dict[str, float]]], basis: str) -> dict[str, Any]:
    """How near a chunk comes to the best rate that was seen before or after it in the same run.

    By CPU time on a CPU, where others may be at work; by wall time on a GPU. A steady chunk, of the kind that most are.
    """
    seen = {name: max(rate[name][basis] for rate in rates) for name in rates[0]}
    best = max(seen.values())
    floor = 1000 * flops / best
    return {
        "flops_per_second": best,
        "floor_ms": floor,
        "fraction": floor / chunk_ms,
        "basis": basis,
        "measured": seen,
    }


def stages(chunks: list[dict[str, float]]) -> dict[str, float]:
    """The median of each stage, 0 for one that did not happen."""
    return {name: median(chunk.get(name, 0.0) for chunk in chunks) for name in STAGES}


def spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "p95": float(np.percentile(values, 95))}
