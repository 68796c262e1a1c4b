"""Running the comparison on one clip: what `avis eval` and its presets share."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress import TimeRemainingColumn as Remaining
from torch import Tensor

from core.chunks import ChunkSpec
from core.contract import Pixels, SolverConfig
from core.evaluation.as_published import as_published
from core.evaluation.clip_solvers import ClipSolver
from core.evaluation.evaluate import clip_solver
from core.evaluation.extras import NAMES, NO_FID, ClipExtras, Extras
from core.evaluation.score import MeasuredChunk, measured, score_clip
from core.models.load import Model
from core.operators.base import LinearOperator
from core.operators.table import Operator
from core.solver import Solver
from core.video import to_pixels
from server.commands import evaluate_outside, options
from server.files.vmaf import vmaf, vmaf_ffmpeg


@dataclass(frozen=True)
class Task:
    """One line of the table: a method with its settings, on an operator."""

    operator: Operator
    variant: str
    """what the line is called"""
    method: str
    """a name of core.evaluation.evaluate.METHODS, or of a method from outside"""
    config: SolverConfig
    coding: str | None = None
    """how the measurement is coded before anything restores it"""
    told_noise: float | None = None
    """the noise level that the method is told, where it is not the measurement's own"""
    as_published: bool = False
    keys: tuple[tuple[str, Any], ...] = ()
    """further keys of its row"""
    latents: int = 3
    """of a chunk"""

    @property
    def row_keys(self) -> dict[str, Any]:
        """What tells the row of this task from others of the same clip."""
        return {
            "operator": self.operator.kind,
            "variant": self.variant,
            "output_consistency": self.config.output_gamma > 0,
            "coded": self.coding,
            **dict(self.keys),
        }

    def told(self) -> LinearOperator:
        """The operator as the method is told it."""
        operator: LinearOperator = self.operator
        if self.told_noise is not None:
            operator = operator.model_copy(update={"noise": self.told_noise})
        return as_published(operator) if self.as_published else operator


@dataclass(frozen=True)
class Bench:
    """What every task of a run shares."""

    model: Model
    solver: Solver
    extras: Extras
    ffmpeg: str | None
    """an FFmpeg with libvmaf, if VMAF is wanted"""
    seed: int
    outside: dict[str, ClipSolver] = field(default_factory=dict)
    """the methods that are not ours, by name"""

    def method(self, name: str, spec: ChunkSpec) -> ClipSolver:
        """The method of that name, ours with chunks of `spec` or one from outside."""
        return self.outside.get(name) or clip_solver(name, self.solver, spec)


@dataclass
class Frames:
    """The restored frames of one task, in 8 bits."""

    parts: list[Pixels] = field(default_factory=list)

    def __call__(self, x: Tensor) -> None:
        self.parts.append(to_pixels(x))

    def pixels(self) -> Pixels:
        """All of them, [T, H, W, 3]."""
        return np.concatenate(self.parts)


class ClipRun:
    """Every task of one clip. What only depends on the clip and the measurement is computed once."""

    def __init__(self, bench: Bench, name: str, pixels: Pixels):
        self.bench, self.name, self.pixels = bench, name, pixels
        self._extras: ClipExtras | None = None
        self._measured: tuple[tuple[Operator, str | None, int], list[MeasuredChunk]] | None = None

    def run(self, task: Task) -> tuple[dict[str, Any], Pixels]:
        """The task's row, and its restored frames [T, H, W, 3]."""
        chunks, frames = self._chunks(task), Frames()
        y = torch.cat([chunk.y for chunk in chunks])
        method = self.bench.method(task.method, ChunkSpec(task.latents))
        parts = method.restore_clip(y, task.told(), self.bench.seed, task.config)
        score = score_clip(parts, chunks, task.operator, frames, time.perf_counter)
        pixels = frames.pixels()
        self._extras = self._extras or self.bench.extras.of_clip(self.name, self.pixels)
        row = {"clip": self.name, **task.row_keys, "latents": task.latents, **score.row(), **self._extras.row(pixels)}
        if self.bench.ffmpeg:
            row["vmaf"] = score_vmaf(self.bench.ffmpeg, pixels, self.pixels)
        return row, pixels

    def _chunks(self, task: Task) -> list[MeasuredChunk]:
        """The clip as the task's operator measures it. The last one is kept: tasks of an operator follow each other."""
        key = (task.operator, task.coding, task.latents)
        if self._measured is None or self._measured[0] != key:
            device, spec = self.bench.model.device, ChunkSpec(task.latents)
            found = measured(self.pixels, task.operator, self.bench.seed, device, task.coding, spec)
            self._measured = key, list(found)
        return self._measured[1]


def score_vmaf(ffmpeg: str, restored: Pixels, original: Pixels) -> float:
    """Mean VMAF of two videos [T, H, W, 3]."""
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "restored.rgb"), Path(folder, "original.rgb")
        for file, pixels in zip(files, (restored, original), strict=True):
            file.write_bytes(pixels.tobytes())
        return vmaf(ffmpeg, *files, original.shape[1:3])


def add_metric_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("metrics beyond PSNR, SSIM, flicker and warp error")
    group.add_argument("--no-vmaf", action="store_true", help="leave VMAF out although it could be computed")
    group.add_argument(
        "--metrics",
        metavar="NAME,...",
        type=metric_names,
        default=[],
        help="lpips (VGG at 224x224 as in the paper, and AlexNet at full size) and fvd; fid is always left out",
    )
    group.add_argument(
        "--metric-weights", metavar="FOLDER", type=Path, help="where the weights of these metrics lie (docs/paper.md)"
    )
    group.add_argument(
        "--metric-every", metavar="N", type=options.positive, default=1, help="LPIPS of each N-th frame (default: 1)"
    )
    group.add_argument("--through-mp4", action="store_true", help="also compare as H.264 files, as the paper does")


def metric_names(text: str) -> list[str]:
    """An argparse type: some of the optional metrics."""
    found = text.split(",")
    for name in found:
        if name not in NAMES:
            raise argparse.ArgumentTypeError(f"expected metrics among {', '.join(NAMES)}, found {name!r}")
    return list(dict.fromkeys(found))


def load_bench(args: argparse.Namespace, model: Model, methods: Iterable[str] = ()) -> Bench:
    """The model's solver, the metrics, and those of `methods` that are not ours. UsageError for what is missing."""
    if "fid" in args.metrics:
        options.progress_console().print(NO_FID)
    extras = Extras.load(args.metrics, args.metric_weights, args.through_mp4, args.metric_every, model.device)
    solver = Solver(model.codec, model.denoiser, model.num_steps)
    outside = evaluate_outside.load(methods, args)
    return Bench(model, solver, extras, None if args.no_vmaf else vmaf_ffmpeg(), args.seed, outside)


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar for `total` tasks on standard error, with the time that is left.

    Yields what is called with each task's name at its start.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=options.progress_console()) as bar:
        line = bar.add_task("", total=total)
        begun = count()

        def begin(words: str) -> None:
            bar.update(line, description=words, completed=next(begun))

        yield begin
        bar.update(line, completed=total)
