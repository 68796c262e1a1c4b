"""`avis bench --preset paper-table2`: seconds of whole-clip restoration, ours and the rivals', beside the paper's."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch
from rich.table import Table

from core.contract import SolverConfig
from core.errors import UsageError
from core.evaluation.bench import device_memory, device_name, moving_scene, synchronize
from core.evaluation.clip_solvers import Part
from core.evaluation.evaluate import clip_solver, variant_config
from core.evaluation.paper_figures import TABLE_2
from core.evaluation.score import measured
from core.json_report import write_json
from core.models.load import Model
from core.operators.table import Operator
from core.solver import Solver
from server.commands import options
from server.commands.evaluate_clip import progress

PRESETS = ("paper-table2",)
METHODS = ("flow_warp_style", "vision_xl_style", "lvtino_v", "lvtino_ar", "holistic", "avis", "flash")
"""rows of the table, in the paper's order"""
FRAMES = 81
"""of a clip, in the paper"""
RUNS, LONG_ENOUGH = 3, 20.0
"""runs of each method at most, and seconds of them after which no other is begun"""
FPS = 16
"""of the live stream that has to be filled before anything can start"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a study of the paper, instead of the stages")
    group.add_argument("--preset", choices=PRESETS, help="time whole clips with every method, as the paper's Table 2")
    group.add_argument(
        "--frames", metavar="N", type=options.positive, default=FRAMES, help=f"of the clip (default: {FRAMES})"
    )


def run(args: argparse.Namespace, size: tuple[int, int]) -> int:
    """Times every method on the same measurement, after a warm-up on the first chunk."""
    if args.long or args.compare or args.operator == "mask":
        raise UsageError("expected no --long, no --compare and no operator mask with --preset")
    operator, config = options.operator(args.operator, args), options.solver_config(args)
    try:
        operator.prepare(*size)
    except ValueError as error:
        raise UsageError(f"{args.operator}: {error}; --size chooses another size") from error
    model = options.load_model(args)
    pixels = moving_scene(args.frames, *size)
    y = torch.cat([chunk.y for chunk in measured(pixels, operator, 0, model.device)])
    rows = []
    with progress(len(METHODS)) as begin:
        for method in METHODS:
            begin(method)
            rows.append(timed(method, model, operator, y, config, args.frames))
    report = {"preset": args.preset, "settings": settings(args, model, config, size), "rows": rows}
    report["ratios"] = ratios(rows)
    options.console(args.json).print(table(report))
    write_json(report, args.json)
    return 0


def timed(
    method: str, model: Model, operator: Operator, y: torch.Tensor, config: SolverConfig, frames: int
) -> dict[str, Any]:
    """Seconds until the first frames are there, until all are, and frames a second: medians of up to RUNS runs."""
    solver = clip_solver(method, Solver(model.codec, model.denoiser, model.num_steps))
    own = variant_config(method, config, output_consistency=config.output_gamma > 0)
    next(solver.restore_clip(y[:9], operator, 0, own))  # warms up
    runs: list[list[float]] = []
    while len(runs) < RUNS and sum(run[-1] for run in runs) < LONG_ENOUGH:
        runs.append(arrivals(solver.restore_clip(y, operator, 0, own), model))
    latency, total = (median(run[at] for run in runs) for at in (0, -1))
    fill = frames if len(runs[0]) == 1 else min(frames, 9)
    row = {"method": method, "latency": latency, "seconds": total, "fps": frames / total, "fill": fill / FPS}
    return {**row, "runs": len(runs), "paper": paper(method)}


def arrivals(parts: Iterator[Part], model: Model) -> list[float]:
    """Seconds from the start until each part is there."""
    found: list[float] = []
    synchronize(model.device)
    start = time.perf_counter()
    for _ in parts:
        synchronize(model.device)
        found.append(time.perf_counter() - start)
    return found


def paper(method: str) -> dict[str, float] | None:
    if method not in TABLE_2:
        return None
    return dict(zip(("latency", "seconds", "fps"), TABLE_2[method], strict=True))


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """How many times longer each method takes to its first frames than Flash, with and without the live fill."""
    flash = next(row for row in rows if row["method"] == "flash")
    found = {}
    for row in rows:
        found[row["method"]] = row["latency"] / flash["latency"]
        live = (row["latency"] + row["fill"]) / (flash["latency"] + flash["fill"])
        found[f"{row['method']}, with live fill"] = live
    return found


def settings(args: argparse.Namespace, model: Model, config: SolverConfig, size: tuple[int, int]) -> dict[str, Any]:
    return {
        "model": args.model,
        "weights": args.weights,
        "device": device_name(model.device),
        "size": f"{size[1]}x{size[0]}",
        "operator": args.operator,
        "frames": args.frames,
        "num_steps": config.num_steps or model.num_steps,
        "solver": config.model_dump(),
        "memory_bytes": device_memory(model.device),
    }


def table(report: dict[str, Any]) -> Table:
    about = report["settings"]
    title = (
        f"{about['model']} ({about['weights']}), {about['size']}, {about['frames']} frames, K = {about['num_steps']}"
    )
    found = Table(title=f"{title}, {about['device']}; the paper: Wan2.1-1.3B and the originals on an RTX 4090")
    found.add_column("method")
    for name in ("first frames, s", "fill, s", "clip, s", "fps", "x flash", "paper: first", "clip", "fps"):
        found.add_column(name, justify="right")
    for row in report["rows"]:
        figures = [f"{row[key]:.2f}" for key in ("latency", "fill", "seconds", "fps")]
        theirs = [f"{row['paper'][key]:g}" if row["paper"] else "" for key in ("latency", "seconds", "fps")]
        found.add_row(row["method"], *figures, f"{report['ratios'][row['method']]:.1f}", *theirs)
    return found
