"""`avis bench`: the speed of the engine on this machine, per stage, against the machine's own arithmetic."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import psutil  # type: ignore[import-untyped]
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress import TimeRemainingColumn as Remaining
from rich.table import Table

from core.chunks import ChunkSpec
from core.contract import LATENTS
from core.errors import UsageError
from core.evaluation.bench import device_memory, device_name
from core.json_report import check_json, write_json
from core.models.table import MODELS, check_latency
from server.commands import bench_backends, bench_preset, compare, options
from server.commands.bench_timing import (
    STREAM,
    Bench,
    Timed,
    peak_rate,
    roofline,
    spread,
    stages,
    steady_flops,
)

SIZE = (240, 416)
"""(height, width) where none is given"""
CHUNKS = 20
LONG = (100, 10_000)
"""chunk numbers whose costs --long compares"""
TURNS = 60
"""chunks around each of them that are timed"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_model_arguments(parser)
    parser.add_argument("--size", metavar="WxH", type=options.size, help="default: 416x240, to compare 64x64")
    parser.add_argument(
        "--chunks", metavar="N", type=options.positive, help=f"timed chunks (default: {CHUNKS}, to compare 5)"
    )
    parser.add_argument(
        "--compare",
        choices=list(compare.OTHERS),
        help=f"time parts of {compare.MODEL}, with random weights, in turn with those weights in other hands: "
        + ", ".join(f"{name} is {words}" for name, words in compare.OTHERS.items()),
    )
    parser.add_argument(
        "--backends",
        action="store_true",
        help="time every arithmetic that this machine can compute the model in, in turn, and tell what each costs in "
        "quality",
    )
    options.add_latency_argument(parser)
    parser.add_argument("--operator", metavar="KIND", default="super_resolution", help=", ".join(options.OPERATORS))
    parser.add_argument("--long", action="store_true", help=f"compare the cost of chunk {LONG[0]} and chunk {LONG[1]}")
    bench_preset.add_arguments(parser)
    options.add_json_argument(parser)
    options.add_operator_arguments(parser)
    options.add_solver_arguments(parser)


def run(args: argparse.Namespace) -> int:
    check_json(args.json)
    if args.preset:
        return bench_preset.run(args, args.size or SIZE)
    if args.compare:
        return compare.run(args)
    if args.operator == "mask":
        raise UsageError("expected an operator without a picture of its own, found mask: use inpainting")
    check_latency(args.model, args.latency)
    if args.backends:
        return bench_backends.run(args, args.size or SIZE)
    operator, config = options.operator(args.operator, args), options.solver_config(args)
    model = options.load_model(args)
    bench = Bench(model, operator, config, args.size or SIZE, ChunkSpec(LATENTS[args.latency]))
    first = bench.warm_up()
    rates = [peak_rate(model)]
    timed: list[Timed] = []
    chunks = args.chunks or CHUNKS
    with progress("timing", chunks) as advance:
        for _ in range(chunks):
            timed.append(bench.step())
            advance()
    rates.append(peak_rate(model))
    flops = steady_flops(bench, [chunk.guided for chunk in timed])
    found = report(args, bench, first, timed, flops, rates)
    found["memory_bytes"] = device_memory(model.device) or psutil.Process().memory_info().rss
    found["session_bytes"] = bench.engine.session_bytes(STREAM)
    if args.long:
        found["chunk_ms_by_index"] = long_run(bench)
    options.console(args.json).print(table(found))
    write_json(found, args.json)
    return 0


def report(
    args: argparse.Namespace,
    bench: Bench,
    first: Timed,
    timed: list[Timed],
    flops: int,
    rates: list[dict[str, dict[str, float]]],
) -> dict[str, Any]:
    model, config, size = bench.model, bench.config, bench.size
    walls, cpus = [chunk.wall for chunk in timed], [chunk.cpu for chunk in timed]
    on_cpu = model.device.type == "cpu"
    found: dict[str, Any] = {
        "model": args.model,
        "weights": args.weights,
        "device": device_name(model.device),
        "backend": model.denoiser.backend,
        "size": f"{size[1]}x{size[0]}",
        "codec": args.codec or MODELS[args.model].codecs[0],
        "settings": {
            "model": options.model_settings(args),
            "operator": args.operator,
            "latency": args.latency,
            "chunks": len(timed),
            "guided_chunks": sum(chunk.guided for chunk in timed),
            "num_steps": config.num_steps or model.num_steps,
            "solver": config.model_dump(),
        },
        "chunk_ms": spread(walls),
        "first_chunk_ms": first.wall,
        "fps": 1000 * bench.spec.frames(1) / median(walls),
        "stages_ms": stages([chunk.stages for chunk in timed]),
        "flops": flops,
        "roofline": roofline(flops, median(cpus if on_cpu else walls), rates, "cpu" if on_cpu else "wall"),
    }
    if on_cpu:
        found["cpu_ms"] = spread(cpus)
        found["stages_cpu_ms"] = stages([chunk.stages_cpu for chunk in timed])
    return found


def long_run(bench: Bench) -> dict[str, dict[str, float]]:
    """Median costs of the TURNS chunks around each number in LONG, of streams that take turns then.

    In turns, since a machine may well be faster or slower a few minutes later.
    """
    bench.engine.close(STREAM)
    streams = {str(number): number for number in LONG}
    with progress("long run", sum(LONG) + TURNS // 2 * len(LONG)) as advance:

        def step(stream: str) -> Timed:
            advance()
            return bench.step(stream)

        for stream, number in streams.items():
            bench.open(stream)
            for _ in range(number - TURNS // 2):
                step(stream)
        turns = [{stream: step(stream) for stream in streams} for _ in range(TURNS)]
    costs = {
        stream: [turn[stream] for turn in turns if not turn[stream].guided] or [turn[stream] for turn in turns]
        for stream in streams
    }
    return {
        stream: {"wall": median(c.wall for c in chunks), "cpu": median(c.cpu for c in chunks)}
        for stream, chunks in costs.items()
    }


def table(found: dict[str, Any]) -> Table:
    chunk, roof = found["chunk_ms"], found["roofline"]
    lines = Table(title=f"{found['model']} ({found['weights']}), {found['size']}, {found['device']}")
    for name in ("", "ms", "CPU ms"):
        lines.add_column(name, justify="left" if not name else "right")
    cpu, stages_cpu = found.get("cpu_ms"), found.get("stages_cpu_ms", {})
    lines.add_row("first chunk", f"{found['first_chunk_ms']:.0f}", "")
    lines.add_row("chunk, median", f"{chunk['median']:.0f}", f"{cpu['median']:.0f}" if cpu else "")
    lines.add_row("chunk, p95", f"{chunk['p95']:.0f}", f"{cpu['p95']:.0f}" if cpu else "")
    lines.add_section()
    for name, value in found["stages_ms"].items():
        lines.add_row(name, f"{value:.1f}", f"{stages_cpu[name]:.1f}" if name in stages_cpu else "")
    lines.add_section()
    lines.add_row("frames a second", f"{found['fps']:.1f}", "")
    lines.add_row("GFLOP a chunk", f"{found['flops'] / 1e9:.1f}", "")
    lines.add_row("best GFLOP/s", f"{roof['flops_per_second'] / 1e9:.0f}", roof["basis"])
    lines.add_row("share of it", f"{100 * roof['fraction']:.0f} %", "")
    lines.add_row("memory, MiB", f"{found['memory_bytes'] / 2**20:.0f}", "")
    lines.add_row("session, MiB", f"{found['session_bytes'] / 2**20:.1f}", "")
    for number, costs in found.get("chunk_ms_by_index", {}).items():
        lines.add_row(f"chunk {number}", f"{costs['wall']:.0f}", f"{costs['cpu']:.0f}")
    return lines


@contextmanager
def progress(words: str, total: int) -> Iterator[Any]:
    """A bar on standard error; yields what advances it by one."""
    columns = (TextColumn(words), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=options.progress_console(), transient=True) as bar:
        line = bar.add_task(words, total=total)
        yield lambda: bar.advance(line)
