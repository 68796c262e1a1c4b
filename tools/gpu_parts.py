"""What `make gpu` measures, one part a call. Run by gpu_report.py, each part in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from core.contract import SolverConfig
from core.engine import Engine
from core.evaluation.bench import device_memory, device_name, synchronize
from core.model_settings import WanConfig
from core.models.load import Model, load
from core.models.wan.dit import CausalDiT, DiTConfig
from core.models.wan.model import WanDenoiser, randomise
from core.models.wan.taehv import TAEHV, TAEHVConfig
from core.models.wan.vae import WanVAE, WanVAEConfig
from core.operators.super_resolution import SuperResolution
from server.commands.bench_timing import Bench, Timed, peak_rate, roofline, spread, stages, steady_flops
from server.device.warm_up import WarmUp, free_bytes, warm_up
from server.scheduling.admission import Admission, AdmissionConfig, Refuse
from server.scheduling.costs import Workload

ROOT = Path(__file__).resolve().parents[1]
MODEL, FPS = "wan2.1-1.3b", 16.0
CODECS, WINDOWS, MODES, STEPS = ("taehv", "wan-vae"), (9, 21), ("eager", "graphs", "compile"), (2, 1)


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    device: str
    small: bool
    """a small model on small pictures, to try the script itself"""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a restored frame."""
        return (32, 48) if self.small else (480, 832)

    @property
    def chunks(self) -> int:
        return 2 if self.small else 8


def parts() -> dict[str, Callable[[Scale], dict[str, Any]]]:
    """Every part by name, in the order of what is wanted first."""
    found: dict[str, Callable[[Scale], dict[str, Any]]] = {"machine": machine, "tests": tests}
    for window, mode, codec in product(WINDOWS, MODES, CODECS):
        found[f"bench {codec} window {window} {mode}"] = measure(bench, codec, window, mode)
        if (window, mode) == (WINDOWS[0], "eager"):
            found[f"sessions {codec}"] = measure(sessions, codec, window, mode)
    return found


def measure(part: Callable[..., dict[str, Any]], *case: Any) -> Callable[[Scale], dict[str, Any]]:
    return lambda scale: part(scale, *case)


def machine(scale: Scale) -> dict[str, Any]:
    """What it is measured on."""
    device = torch.device(scale.device)
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    model = Model("none", *small(SMALL_CODECS["taehv"], torch.device("cpu"), 9, False), device)
    return {
        "device": device_name(device),
        "memory_bytes": memory,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": sys.version.split()[0],
        "flops_per_second": peak_rate(model),
    }


def tests(scale: Scale) -> dict[str, Any]:
    """The tests that need a GPU. Without pytest's plugins and our own configuration: an image need not have them."""
    if scale.device == "cpu":
        return {"left_out": "the gpu tests need a GPU"}
    bare = ["-c", "/dev/null", "--noconftest", "--import-mode=importlib", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-q", *bare, "tests/core/test_gpu.py"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return {"passed": ran.returncode == 0, "output": ran.stdout[-4000:] + ran.stderr[-1000:]}


def bench(scale: Scale, codec: str, window: int, mode: str) -> dict[str, Any]:
    """Seconds of steady chunks, stage by stage, for each number of denoising steps."""
    if scale.device == "cpu" and mode != "eager":
        return {"left_out": f"{mode} is measured on a GPU only"}
    model = model_of(scale, codec, window, mode)
    return {f"K={steps}": bench_steps(scale, model, steps) for steps in STEPS}


def bench_steps(scale: Scale, model: Model, steps: int) -> dict[str, Any]:
    config = SolverConfig(num_steps=steps, reinject_every=0)
    run = Bench(model, SuperResolution(), config, scale.size)
    first = run.warm_up()
    rates = [peak_rate(model)]
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
    timed: list[Timed] = [run.step() for _ in range(scale.chunks)]
    rates.append(peak_rate(model))
    walls = [chunk.wall for chunk in timed]
    held = device_memory(model.device)  # counting operations below runs without graphs
    flops = steady_flops(run, [False])
    return {
        "chunk_ms": spread(walls),
        "first_chunk_ms": first.wall,
        "fps": 1000 * run.spec.frames(1) / median(walls),
        "stages_ms": stages([chunk.stages for chunk in timed]),
        "flops": flops,
        "roofline": roofline(flops, median(walls), rates, "wall"),
        "memory_bytes": held,
        "session_bytes": run.engine.session_bytes("bench"),
    }


def sessions(scale: Scale, codec: str, window: int, mode: str) -> dict[str, Any]:
    """How many sessions at 16 fps admission lets in, by what warm-up measured, and whether they keep pace then."""
    found = {}
    for steps in STEPS:
        engine, solver = Engine(model_of(scale, codec, window, mode)), SolverConfig(num_steps=steps)
        height, width = scale.size
        cost = warm_up(engine, solver, (width, height))
        workload = Workload(
            model=MODEL, width=width, height=height, num_steps=steps, reinject_every=solver.reinject_every, fps=FPS
        )
        admitted = min(admit(workload, cost, free_bytes(engine)), 2 if scale.small else 64)
        rounds = list(crowd(scale, engine, solver, max(1, admitted)))
        found[f"K={steps}"] = {
            "chunk_seconds": cost.seconds,
            "session_bytes": cost.session_bytes,
            "admitted": admitted,
            "round_seconds": spread(rounds),
            "period": workload.period,
            "in_time": median(rounds) <= workload.period,
        }
    return found


def admit(workload: Workload, cost: WarmUp, memory: int) -> int:
    """Sessions that the server's own admission lets in."""
    admission = Admission(AdmissionConfig(memory_bytes=memory))
    admission.costs.calibrate(workload, cost.seconds)
    admission.costs.calibrate(workload, cost.guided_seconds, guided=True)
    admission.costs.calibrate(workload, cost.x_init_seconds, "x_init")
    for count in range(admission.config.max_sessions):
        if isinstance(admission.decide(workload, 0.0, cost.session_bytes), Refuse):
            return count
        admission.open(str(count), workload, 0.0, cost.session_bytes)
    return admission.config.max_sessions


def crowd(scale: Scale, engine: Engine, solver: SolverConfig, count: int) -> Iterator[float]:
    """Seconds in which a chunk of each of `count` streams is restored, their guided chunks apart."""
    height, width = scale.size
    operator, rng = SuperResolution(), np.random.default_rng(0)
    names = [str(number) for number in range(count)]
    for name in names:
        engine.open(name, operator, "incoming", height, width)
    settled = engine.model.denoiser.chunks_to_settle
    for turn in range(settled + scale.chunks):
        start = time.perf_counter()
        for phase, name in enumerate(names):
            frames = rng.integers(0, 256, (engine.frames(name), height // 4, width // 4, 3), np.uint8)
            engine.step(name, frames, operator, solver.model_copy(update={"reinject_phase": phase}))
        synchronize(engine.model.device)
        if turn >= settled:
            yield time.perf_counter() - start
    for name in names:
        engine.close(name)


SMALL_CODECS: dict[str, Callable[[], TAEHV | WanVAE]] = {
    "taehv": lambda: TAEHV(TAEHVConfig(encoder_width=8, decoder_widths=(8, 8, 8, 8))),
    "wan-vae": lambda: WanVAE(WanVAEConfig(base=8)),
}


def model_of(scale: Scale, codec: str, window: int, mode: str) -> Model:
    """The backbone with random weights, which compute as the published ones do."""
    device = torch.device(scale.device)
    if scale.small:
        return Model(MODEL, *small(SMALL_CODECS[codec], device, window, mode == "graphs"), device)
    settings = {"window": window, "graphs": mode == "graphs", "compile": mode == "compile"}
    return load(MODEL, "random", scale.device, codec, WanConfig(**settings).model_dump(include=set(settings)))


def small(
    codec: Callable[[], TAEHV | WanVAE], device: torch.device, window: int, graphs: bool
) -> tuple[TAEHV | WanVAE, WanDenoiser]:
    shape = DiTConfig(dim=48, ffn_dim=64, layers=2, heads=2, text_dim=8, text_len=4, freq_dim=16)
    dit = randomise(CausalDiT, shape, device, torch.float32)
    with torch.inference_mode():
        context = dit.context(torch.zeros(1, shape.text_dim, device=device))
    return codec().to(device).eval().requires_grad_(False), WanDenoiser(dit, context, window)
