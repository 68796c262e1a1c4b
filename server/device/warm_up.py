"""Warms a model up at the sizes that sessions will use, and measures what a chunk costs."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from core.chunks import CHUNKS, ChunkSpec
from core.contract import LATENTS, Rung, SolverConfig
from core.engine import Engine
from core.models.load import Model
from core.models.table import MODELS
from core.operators.super_resolution import SuperResolution
from server.device.messages import DeviceOptions, Ready


@dataclass(frozen=True)
class WarmUp:
    """What one size costs."""

    seconds: float
    """of a full later chunk"""
    guided_seconds: float
    """of one that is guided"""
    x_init_seconds: float
    """of one that passes the model by"""
    session_bytes: int
    """of device memory that an open stream holds; 0 on a CPU"""


def warm_up(engine: Engine, solver: SolverConfig, size: tuple[int, int], latents: int = 3) -> WarmUp:
    """Restores chunks of `size` (width, height) on a stream of its own, and tells what the last ones took.

    Before them the cache fills, and whatever compiles for each of its fillings does so. Which of them are guided does
    not depend on the calendar of `solver`: what that costs is a figure of its own.
    """
    plain = solver.model_copy(update={"reinject_every": 0, "reinject_residual": 0.0})
    width, height = size
    before = held_bytes(engine)
    operator = SuperResolution()
    rng = np.random.default_rng(0)
    on_cpu = engine.model.device.type == "cpu"
    seconds = {}
    settled = max(2, -(-engine.model.denoiser.chunks_to_settle * CHUNKS.latents // latents))
    engine.open("warmup", operator, "simulate", height, width, spec=ChunkSpec(latents))
    for kind in (*["full"] * (settled + 1), "guided", "x_init"):
        frames = rng.integers(0, 256, (engine.frames("warmup"), height, width, 3), np.uint8)
        config = plain.model_copy(update={"reinject_every": 1}) if kind == "guided" else plain
        rung: Rung = "x_init" if kind == "x_init" else "full"
        wall, cpu = time.perf_counter(), time.process_time()
        engine.step("warmup", frames, operator, config, rung)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        seconds[kind] = min(wall, cpu) if on_cpu else wall  # what else this machine does is not the chunk's cost
    session_bytes = held_bytes(engine) - before
    engine.close("warmup")
    return WarmUp(seconds["full"], seconds["guided"], seconds["x_init"], session_bytes)


def warmed_up(engine: Engine, solver: SolverConfig, options: DeviceOptions) -> Ready:
    """Warms up and tells what it measured. On a CPU, where there is little to warm, only in the first life.

    After a loss the sessions wait: ready after 9.7 s with a warm-up, after 7.9 s without (two busy cores, once each).
    """
    if options.measured is not None and engine.model.device.type == "cpu":
        return options.measured
    sizes = options.warm_sizes or (usual_size(engine.model),)
    costs = {size: warm_up(engine, solver, size) for size in sizes}
    low = LATENTS["low"]
    short = {size: warm_up(engine, solver, size, low) for size in sizes if low in engine.model.latents}
    return Ready(
        {size: cost.seconds for size, cost in costs.items()},
        {size: cost.session_bytes for size, cost in costs.items()},
        free_bytes(engine),
        {size: cost.x_init_seconds for size, cost in costs.items()},
        {size: cost.guided_seconds for size, cost in costs.items()},
        {size: cost.seconds for size, cost in short.items()},
        {size: cost.guided_seconds for size, cost in short.items()},
    )


def usual_size(model: Model) -> tuple[int, int]:
    """(width, height) that the model is warmed up at when nobody names a size."""
    spec = MODELS[model.name]
    return spec.cpu_size if model.device.type == "cpu" else spec.size


def held_bytes(engine: Engine) -> int:
    """Device memory in use; 0 on a CPU, whose memory we share with everybody."""
    device = engine.model.device
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def free_bytes(engine: Engine) -> int:
    """Device memory that sessions may take; what a chunk needs for a moment is in torch's pool by now."""
    device = engine.model.device
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
