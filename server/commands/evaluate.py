"""`avis eval`: quality per clip, operator and variant, always with and without output consistency."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import IO, Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress import TimeRemainingColumn as Remaining
from rich.table import Table

from core.chunks import ChunkSpec
from core.contract import SolverConfig
from core.errors import UsageError
from core.evaluation.evaluate import (
    PLAIN,
    VARIANTS,
    Score,
    gains,
    means,
    measured,
    score_plain,
    score_variant,
    variant_config,
)
from core.json_report import check_file, check_json, write_json
from core.models.load import Model
from core.operators.table import PAPER_OPERATORS, Operator
from core.solver import Solver
from core.video import to_pixels
from server.commands import evaluate_loss, options
from server.files.geometry import Pixels
from server.files.inputs import read_clip
from server.files.outputs import write_png
from server.files.sheet import SheetRow, sheet
from server.files.vmaf import vmaf, vmaf_ffmpeg

ALL_VARIANTS = (*PLAIN, *VARIANTS)
SHEET_VARIANTS = (("degraded", False), ("x_init", True), ("flash", True))
"""what a contact sheet shows beside the original: variant and output consistency"""


@dataclass
class Look:
    """What is kept of a run's pictures: all of them in a file for VMAF, one for the contact sheet."""

    file: IO[bytes] | None
    keep: int
    """number of the frame for the contact sheet"""
    seen: int = 0
    kept: Pixels = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))

    def __call__(self, x: Any) -> None:
        pixels = to_pixels(x)
        if self.file:
            self.file.write(pixels.tobytes())
        if self.seen <= self.keep < self.seen + len(pixels):
            self.kept = pixels[self.keep - self.seen]
        self.seen += len(pixels)


@dataclass(frozen=True)
class Task:
    """One line of the table."""

    operator: Operator
    variant: str
    output_consistency: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clips", metavar="CLIP", nargs="+", type=Path, help="videos that are clean, the originals")
    parser.add_argument("--operators", default="all", help="all (the paper's five) or KIND,...")
    parser.add_argument("--variants", default="all", help=f"all or some of {','.join(ALL_VARIANTS)}")
    parser.add_argument("--size", metavar="WxH", type=options.size, default=(240, 416), help="default: 416x240")
    parser.add_argument("--noise", type=float, default=0.01, help="of the measurement, on [-1, 1] (default: 0.01)")
    parser.add_argument("--seed", type=options.seed, default=0, help="of all noise (default: 0)")
    parser.add_argument("--frames", metavar="N", type=options.positive, help="first N frames of each clip")
    parser.add_argument("--sheet", metavar="PNG", type=Path, help="write a contact sheet")
    parser.add_argument("--no-vmaf", action="store_true", help="leave VMAF out although it could be computed")
    evaluate_loss.add_arguments(parser)
    options.add_model_arguments(parser)
    options.add_json_argument(parser)
    options.add_operator_arguments(parser)
    options.add_solver_arguments(parser)


def run(args: argparse.Namespace) -> int:
    check_json(args.json)
    if args.loss:
        evaluate_loss.check(args)
    if args.sheet:
        check_file(args.sheet, "--sheet")
        if args.sheet.suffix.lower() != ".png":
            raise UsageError(f"expected a .png file for --sheet, found {args.sheet}")
    for clip in args.clips:
        read_clip(clip, args.size, 1)  # a bad one is told before the work begins
    model = options.load_model(args)
    config = options.solver_config(args)
    tasks = plan(args, config)
    solver = Solver(model.codec, model.denoiser, model.num_steps)
    if args.loss:
        return run_loss(args, solver, model, config)
    ffmpeg = None if args.no_vmaf else vmaf_ffmpeg()
    rows: list[dict[str, Any]] = []
    drawn: list[SheetRow] = []
    with progress(len(args.clips) * len(tasks)) as begin:
        for clip in args.clips:
            pixels = read_clip(clip, args.size, args.frames)
            with tempfile.TemporaryDirectory() as folder:
                clip_rows, kept = evaluate(
                    clip, pixels, tasks, solver, model, config, args, ffmpeg, Path(folder), begin
                )
            rows += clip_rows
            drawn += sheet_rows(clip, pixels, tasks, kept)
    averages, gained = means(rows), gains(rows)
    report = {
        "settings": settings(args, config, model, ffmpeg),
        "rows": rows,
        "means": averages,
        "gains": gained,
    }
    if args.sheet:
        write_png(args.sheet, sheet(drawn))
    console = options.console(args.json)
    console.print(mean_table(averages))
    if gained:
        console.print(gain_table(gained))
    write_json(report, args.json)
    return 0


def run_loss(args: argparse.Namespace, solver: Solver, model: Model, config: SolverConfig) -> int:
    """The comparison of masking lost frames with freezing, in the place of that of the variants."""
    operators = operators_of(args)
    prepare(operators, args)
    rows: list[dict[str, Any]] = []
    with progress(len(args.clips)) as begin:
        for clip in args.clips:
            begin(clip.stem)
            pixels = read_clip(clip, args.size, args.frames)
            rows += evaluate_loss.evaluate(clip.name, pixels, operators, solver, model, config, args)
    averages = evaluate_loss.means(rows)
    found = {**settings(args, config, model, None), "loss": args.loss, "burst": args.burst}
    options.console(args.json).print(evaluate_loss.mean_table(averages))
    write_json({"settings": found, "rows": rows, "means": averages}, args.json)
    return 0


def plan(args: argparse.Namespace, config: SolverConfig) -> list[Task]:
    """The rows that were asked for, in the order of the table."""
    variants = chosen(args.variants, ALL_VARIANTS, "variants")
    operators = operators_of(args)
    prepare(operators, args)
    tasks = []
    for operator in operators:
        for variant in variants:
            tasks.append(Task(operator, variant, False))
            if variant != "degraded" and config.output_gamma > 0:
                tasks.append(Task(operator, variant, True))
    return tasks


def prepare(operators: list[Operator], args: argparse.Namespace) -> None:
    """Has every operator check the size. Raises UsageError for one that does not fit."""
    for operator in operators:
        try:
            operator.prepare(*args.size)
        except ValueError as error:
            raise UsageError(f"{operator.kind}: {error}") from error
    if args.size[0] % 16 or args.size[1] % 16:
        raise UsageError(f"expected a --size in multiples of 16, found {args.size[1]}x{args.size[0]}")


def operators_of(args: argparse.Namespace) -> list[Operator]:
    paper = [kind for kind, known in options.OPERATORS.items() if known in map(type, PAPER_OPERATORS)]
    names = chosen(",".join(paper) if args.operators == "all" else args.operators, (*options.OPERATORS,), "operators")
    if "mask" in names:
        raise UsageError("expected operators without `mask`, which is drawn for one video: use inpainting")
    known = {field for name in names for field in options.OPERATORS[name].model_fields}
    for given in options.operator_settings(args):
        if given not in known:
            raise UsageError(
                f"expected an operator among --operators that has --operator.{given}, found {', '.join(names)}"
            )
    return [options.operator(name, only_fields_of(name, args), noise=args.noise) for name in names]


def only_fields_of(kind: str, args: argparse.Namespace) -> argparse.Namespace:
    """The arguments without the operator settings that `kind` does not have."""
    known = options.OPERATORS[kind].model_fields
    kept = {n: v for n, v in vars(args).items() if not n.startswith("operator.") or n.split(".", 1)[1] in known}
    return argparse.Namespace(**kept)


def chosen(text: str, names: tuple[str, ...], what: str) -> list[str]:
    """The names in a comma-separated list, or all of them."""
    if text == "all":
        return list(names)
    found = [name.strip() for name in text.split(",")]
    for name in found:
        if name not in names:
            raise UsageError(f"expected --{what} among {', '.join(names)}, found {name!r}")
    return list(dict.fromkeys(found))


def evaluate(
    clip: Path,
    pixels: Pixels,
    tasks: list[Task],
    solver: Solver,
    model: Model,
    config: SolverConfig,
    args: argparse.Namespace,
    ffmpeg: str | None,
    folder: Path,
    begin: Callable[[str], None],
) -> tuple[list[dict[str, Any]], dict[Task, Pixels]]:
    """The rows of one clip, and the frame of each for the contact sheet."""
    rows, kept = [], {}
    original, restored = folder / "original.rgb", folder / "restored.rgb"
    if ffmpeg:
        original.write_bytes(pixels.tobytes())
    for task in tasks:
        begin(f"{clip.stem} {task.operator.kind} {task.variant}")
        with raw_file(restored if ffmpeg else None) as file:
            look = Look(file, sheet_frame(len(pixels)))
            start = time.perf_counter()
            score = score_task(task, pixels, solver, model, config, args.seed, look)
            seconds = time.perf_counter() - start
        row: dict[str, Any] = {"clip": clip.name, "operator": task.operator.kind, "variant": task.variant}
        row |= {"output_consistency": task.output_consistency, **score.row(), "seconds": round(seconds, 3)}
        if ffmpeg:
            row["vmaf"] = vmaf(ffmpeg, restored, original, args.size)
        rows.append(row)
        kept[task] = look.kept
    return rows, kept


def score_task(
    task: Task, pixels: Pixels, solver: Solver, model: Model, config: SolverConfig, seed: int, look: Look
) -> Score:
    chunks = measured(pixels, task.operator, seed, model.device)
    own = variant_config(task.variant, config, task.output_consistency)
    if task.variant in PLAIN:
        return score_plain(task.variant, chunks, task.operator, own, look)
    return score_variant(solver, chunks, task.operator, own, VARIANTS[task.variant].rung, seed, look)


def raw_file(path: Path | None) -> AbstractContextManager[IO[bytes] | None]:
    return nullcontext() if path is None else path.open("wb")


def sheet_frame(frames: int) -> int:
    """The middle of the last chunk, at the latest of the third: far enough in for the cache to be at work."""
    lengths = ChunkSpec().split(frames)
    last = min(len(lengths), 3)
    return sum(lengths[:last]) - 1 - lengths[last - 1] // 2


def sheet_rows(clip: Path, pixels: Pixels, tasks: list[Task], kept: dict[Task, Pixels]) -> list[SheetRow]:
    rows = []
    original = pixels[sheet_frame(len(pixels))]
    for operator in dict.fromkeys(task.operator for task in tasks):
        wanted = [Task(operator, variant, oc) for variant, oc in SHEET_VARIANTS]
        cells = [(label(task), kept[task]) for task in wanted if task in kept]
        rows.append(SheetRow(f"{clip.stem}: {operator.kind}", (*cells, ("original", original))))
    return rows


def label(task: Task) -> str:
    return f"{task.variant} + output consistency" if task.output_consistency else task.variant


def settings(args: argparse.Namespace, config: SolverConfig, model: Model, ffmpeg: str | None) -> dict[str, Any]:
    operators = operators_of(args)
    return {
        "model": args.model,
        "weights": args.weights,
        "codec": args.codec,
        "device": args.device,
        "size": f"{args.size[1]}x{args.size[0]}",
        "noise": operators[0].noise,
        "seed": args.seed,
        "frames": args.frames,
        "solver": config.model_dump(),
        "num_steps": config.num_steps or model.num_steps,
        "variants": {name: variant.changes for name, variant in VARIANTS.items()},
        "operators": [operator.model_dump() for operator in operators],
        "ssim": "scikit-image, Gaussian window, sigma 1.5",
        "vmaf": "libvmaf vmaf_v0.6.1" if ffmpeg else None,
    }


def mean_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="means over clips")
    for name in ("operator", "variant", "oc"):
        table.add_column(name)
    for name in ("PSNR", "SSIM", "VMAF", "flicker", "change", "residual", "guided", "s"):
        table.add_column(name, justify="right")
    last = None
    for row in rows:
        if last not in (None, row["operator"]):
            table.add_section()
        last = row["operator"]
        table.add_row(
            row["operator"],
            row["variant"],
            "yes" if row["output_consistency"] else "",
            f"{row['psnr']:.2f}",
            f"{row['ssim']:.4f}",
            f"{row['vmaf']:.1f}" if "vmaf" in row else "-",
            f"{row['flicker']:.4f}",
            f"{row['change_ratio']:.2f}",
            f"{row['residual']:.4f}",
            f"{row['guided_chunks']:.1f}",
            f"{row['seconds']:.1f}",
        )
    return table


def gain_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="flash over x_init, both with output consistency")
    table.add_column("operator")
    for name in ("clips", "PSNR dB", "worst", "SSIM", "worst", "VMAF", "worst"):
        table.add_column(name, justify="right")
    for row in rows:
        cells = []
        for key, digits in (("psnr", 2), ("ssim", 4), ("vmaf", 1)):
            pair = row.get(key)
            cells += [f"{pair[end]:+.{digits}f}" if pair else "-" for end in ("mean", "min")]
        table.add_row(row["operator"], str(row["clips"]), *cells)
    return table


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar for `total` tasks on standard error; yields what is called with each task's name at its start."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=options.progress_console()) as bar:
        line = bar.add_task("", total=total)
        begun = count()

        def begin(words: str) -> None:
            bar.update(line, description=words, completed=next(begun))

        yield begin
        bar.update(line, completed=total)
