"""`avis bench --backends`: the arithmetics in which this machine can compute the model, by speed and by quality."""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any, get_args

from rich.table import Table

from core.chunks import ChunkSpec
from core.contract import LATENTS, Pixels
from core.engine import Engine
from core.errors import UsageError
from core.evaluation.bench import count_flops, device_name
from core.json_report import write_json
from core.model_settings import Backend, TinySettings
from core.models.load import Model
from core.models.table import MODELS
from core.training.data import procedural
from server.commands import options
from server.commands.bench_timing import STREAM, Bench, peak_rate, roofline

CHUNKS = 10
"""timed of each backend, where no number is given"""
GATE = 0.02
"""dB that a backend may lose against float32"""


@dataclass
class Candidate:
    """One arithmetic, its model, and what was measured of it."""

    name: Backend
    model: Model
    bench: Bench
    cpu_ms: list[float] = field(default_factory=list)
    wall_ms: list[float] = field(default_factory=list)
    psnr: float = 0.0


def run(args: argparse.Namespace, size: tuple[int, int]) -> int:
    check(args)
    unguided = {"reinject_every": 0, "reinject_residual": 0.0}
    operator, config = options.operator(args.operator, args), options.solver_config(args).model_copy(update=unguided)
    spec = ChunkSpec(LATENTS[args.latency])
    found, chosen = [], loaded(args, "auto").denoiser.backend
    clip = procedural(spec.frames(0) + 2 * spec.frames(1), *size, random.Random(0))
    for name in get_args(Backend):
        model = loaded(args, name)
        bench = Bench(model, operator, config, size, spec)
        bench.warm_up()
        found.append(Candidate(name, model, bench, psnr=quality(bench, clip)))
    rates = [peak_rate(found[0].model)]
    for _ in range(args.chunks or CHUNKS):
        for candidate in found:  # in turn, since a machine may well be slower a moment later
            timed = candidate.bench.step()
            candidate.wall_ms.append(timed.wall)
            candidate.cpu_ms.append(timed.cpu)
    rates.append(peak_rate(found[0].model))
    answer = report(args, found, chosen, size, rates)
    options.console(args.json).print(table(answer))
    write_json(answer, args.json)
    return 0


def check(args: argparse.Namespace) -> None:
    """Raises UsageError for a model without a choice of arithmetic, or arguments that have no meaning together."""
    spec = MODELS.get(args.model)
    if spec is not None and spec.config is not TinySettings:
        raise UsageError(f"model {args.model} has no backends to choose from; its arithmetic is --model.dtype")
    if args.long or "backend" in options.model_settings(args):
        raise UsageError("expected no --long and no --model.backend with --backends, which times them all")


def loaded(args: argparse.Namespace, backend: str) -> Model:
    """The model of the command line, in the arithmetic `backend`."""
    return options.load_model(argparse.Namespace(**{**vars(args), "model.backend": backend}))


def quality(bench: Bench, clip: Pixels) -> float:
    """Mean PSNR (dB) of a clip's chunks after its measurement by the operator; the same noise each time."""
    engine, operator = Engine(bench.model), bench.operator
    engine.open(STREAM, operator, "simulate", *bench.size, spec=bench.spec)
    found, rest = [], clip
    while len(rest):
        frames = engine.frames(STREAM)
        result = engine.step(STREAM, rest[:frames], operator, bench.config)
        found.append(result.psnr or 0.0)
        rest = rest[frames:]
    return fmean(found)


def report(
    args: argparse.Namespace,
    found: list[Candidate],
    chosen: str,
    size: tuple[int, int],
    rates: list[dict[str, dict[str, float]]],
) -> dict[str, Any]:
    exact, device = found[0], found[0].model.device
    basis = "cpu" if device.type == "cpu" else "wall"
    flops = count_flops(lambda: exact.bench.step())
    rows = []
    for one in found:
        took = median(one.cpu_ms if basis == "cpu" else one.wall_ms)
        loss = exact.psnr - one.psnr
        rows.append(
            {
                "backend": one.name,
                "chosen": one.name == chosen,
                "ms": median(one.wall_ms),
                "cpu_ms": median(one.cpu_ms) if basis == "cpu" else None,
                "speed_up": median(exact.cpu_ms if basis == "cpu" else exact.wall_ms) / took,
                "roofline": roofline(flops, took, rates, basis),
                "psnr_loss": loss,
                "within_gate": loss <= GATE,
            }
        )
    return {
        "model": args.model,
        "weights": args.weights,
        "device": device_name(device),
        "size": f"{size[1]}x{size[0]}",
        "operator": args.operator,
        "latency": args.latency,
        "chunks": len(exact.cpu_ms),
        "gate": GATE,
        "backends": rows,
    }


def table(found: dict[str, Any]) -> Table:
    lines = Table(title=f"{found['model']} ({found['weights']}), {found['size']}, {found['device']}")
    lines.add_column("backend")
    for heading in ("ms", "CPU ms", "times as fast", "share of the peak", "dB lost", ""):
        lines.add_column(heading, justify="right")
    for row in found["backends"]:
        words = ("chosen" if row["chosen"] else "") + ("" if row["within_gate"] else " loses too much")
        lines.add_row(
            row["backend"],
            f"{row['ms']:.0f}",
            "" if row["cpu_ms"] is None else f"{row['cpu_ms']:.0f}",
            f"{row['speed_up']:.2f}",
            f"{100 * row['roofline']['fraction']:.0f} %",
            f"{row['psnr_loss']:+.3f}",
            words.strip(),
        )
    return lines
