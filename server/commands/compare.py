"""`avis bench --compare`: parts of our Wan2.1 timed in turn with the same weights in other hands."""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from rich.table import Table

from core.errors import UsageError
from core.evaluation.bench import device_name, synchronize
from core.json_report import write_json
from core.model_settings import WanConfig
from core.models.load import choose_device
from core.models.table import choose
from core.models.wan.compare import Clock, Comparison, compare_step, compare_vae
from core.models.wan.model import choose_dtype
from server.commands import options

MODEL = "wan2.1-1.3b"
OTHERS = {
    "diffusers": "Wan-VAE of diffusers, whole clip",
    "plain": "a plain port of Self-Forcing's loop",
}
"""what --compare takes, and what that is"""

SIZE = (64, 64)
"""(height, width) where none is given: minutes on a CPU"""
CHUNKS = 5


def run(args: argparse.Namespace) -> int:
    height, width = args.size or SIZE
    if height % 16 or width % 16:
        raise UsageError(f"expected multiples of 16 for --size, found {width}x{height}")
    _, _, config = choose(MODEL, None, options.model_settings(args))
    assert isinstance(config, WanConfig)
    device = choose_device(args.device)
    dtype = choose_dtype(config.dtype, device)
    clock = clock_of(device)
    if args.compare == "diffusers":
        found = compare_vae(clock, height, width, str(device), dtype)
    else:
        num_steps = options.solver_config(args).num_steps or 2
        chunks = args.chunks or CHUNKS
        found = compare_step(clock, height, width, num_steps, chunks, str(device), dtype, window=config.window)
    answer = report(args.compare, found, device, f"{width}x{height}", dtype)
    options.console(args.json).print(table(answer))
    write_json(answer, args.json)
    return 0


def clock_of(device: torch.device) -> Clock:
    """CPU time on a CPU, where others may be at work; on a GPU the time until it is done."""
    if device.type == "cpu":
        return time.process_time

    def clock() -> float:
        synchronize(device)
        return time.perf_counter()

    return clock


def report(compare: str, found: Comparison, device: torch.device, size: str, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "compare": compare,
        "what": found.what,
        "device": device_name(device),
        "size": size,
        "dtype": str(dtype).removeprefix("torch."),
        "basis": "cpu" if device.type == "cpu" else "wall",
        "ours_s": list(found.ours),
        "theirs_s": list(found.theirs),
        "ratio": found.ratio,
        "difference": found.difference,
    }


def table(answer: dict[str, Any]) -> Table:
    lines = Table(title=f"{answer['what']}, {answer['dtype']}, {answer['device']}")
    for name in ("", f"best, {answer['basis']} s", "all runs"):
        lines.add_column(name, justify="left" if not name else "right")
    for name, words in (("ours_s", "ours"), ("theirs_s", OTHERS[answer["compare"]])):
        runs = answer[name]
        lines.add_row(words, f"{min(runs):.2f}", "  ".join(f"{seconds:.2f}" for seconds in runs))
    lines.add_section()
    lines.add_row("ours / theirs", f"{answer['ratio']:.2f}", "")
    lines.add_row("largest difference, relative", f"{answer['difference']:.1e}", "")
    return lines
