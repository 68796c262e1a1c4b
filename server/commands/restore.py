"""`avis restore`: a file through the engine that serves live video. Memory does not grow with its length."""

from __future__ import annotations

import argparse
import base64
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from statistics import fmean
from types import FrameType
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.progress import TimeRemainingColumn as Remaining
from rich.table import Table
from rich.text import Text

from core.contract import Mode, Panel, SolverConfig
from core.engine import ChunkResult, Engine
from core.errors import UsageError
from core.evaluation.quality import Quality
from core.json_report import check_json, write_json
from core.operators.table import Operator
from core.video import from_pixels
from server.commands import options
from server.files.inputs import About, Picture, Pixels, Source, in_chunks, leave_out, open_source, read_picture
from server.files.outputs import Sink, check_output, encode_png, open_sink

STREAM = "file"


@dataclass(frozen=True)
class Geometry:
    """How a picture becomes a frame of the engine, and a restored frame a picture. All (height, width)."""

    taken: tuple[int, int]
    """size that source pictures are scaled to"""
    fed: tuple[int, int]
    """size of the engine's input: `taken`, padded at the right and the bottom"""
    restored: tuple[int, int]
    """size of the engine's output, multiples of 16"""
    shown: tuple[int, int]
    """what is cut from it and written"""


@dataclass
class Tally:
    """What a run adds up to."""

    frames: int = 0
    guided: list[bool] = field(default_factory=list)
    residuals: list[float] = field(default_factory=list)
    x_init: Quality = field(default_factory=Quality)
    restored: Quality = field(default_factory=Quality)
    seconds: float = 0.0
    first: float = 0.0
    """seconds from the first chunk's pictures to its restored ones"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", type=Path, help="a video, a picture or a folder of pictures")
    parser.add_argument(
        "target",
        metavar="OUT",
        type=Path,
        help="a .mp4, .mov, .mkv or .webm file, or a folder for PNG pictures",
    )
    parser.add_argument("--operator", metavar="KIND", required=True, help=", ".join(options.OPERATORS))
    parser.add_argument("--mask", metavar="PNG", type=Path, help="for operator mask: white is kept, black is lost")
    parser.add_argument(
        "--simulate",
        action="store_true",
        help="degrade a clean IN first, and report PSNR and SSIM against it",
    )
    parser.add_argument(
        "--size",
        metavar="WxH",
        type=options.size,
        help="size of the restored picture (default: the source's own)",
    )
    parser.add_argument("--seed", type=options.seed, default=0, help="of all noise (default: 0)")
    parser.add_argument("--crf", type=int, default=16, help="quality of the video file, 0 best to 51 (default: 16)")
    parser.add_argument("--no-audio", action="store_true", help="leave the sound out")
    options.add_model_arguments(parser)
    options.add_json_argument(parser)
    options.add_operator_arguments(parser)
    options.add_solver_arguments(parser)


def run(args: argparse.Namespace) -> int:
    check_json(args.json)
    if not 0 <= args.crf <= 51:
        raise UsageError(f"expected --crf from 0 to 51, found {args.crf}")
    check_output(args.source, args.target)
    source = open_source(args.source)
    try:
        operator, geometry = plan(args, source.about)
        model = options.load_model(args)
        config = options.solver_config(args)
        engine = Engine(model)
        mode: Mode = "simulate" if args.simulate else "incoming"
        try:
            engine.open(STREAM, operator, mode, *geometry.restored, seed=args.seed)
        except ValueError as error:
            raise UsageError(f"{error}; --size chooses another size") from error
        audio = () if args.no_audio else source.audio
        height, width = geometry.shown
        about = replace(source.about, width=width, height=height)
        if args.size:
            about = replace(about, aspect=Fraction(1))
        with ends_on_sigterm(), open_sink(args.target, about, audio, args.crf) as sink:
            tally = restore(engine, source, sink, operator, config, geometry, bool(audio), args.simulate)
    finally:
        source.close()
    options.console(args.json).print(table(tally, source.damaged))
    write_json(report(tally), args.json)
    return 0


def plan(args: argparse.Namespace, about: About) -> tuple[Operator, Geometry]:
    """The operator and the sizes that the arguments ask for."""
    if args.operator != "mask":
        if args.mask:
            raise UsageError(f"--mask goes with --operator mask, found --operator {args.operator}")
        operator = options.operator(args.operator, args)
        return operator, fit(about, args.size, operator, args.simulate)
    if not args.mask:
        raise UsageError("--operator mask needs --mask PNG")
    geometry = fit(about, args.size, None, args.simulate)
    png = base64.b64encode(encode_png(fit_mask(read_picture(args.mask), about, geometry))).decode()
    return options.operator("mask", args, png=png), geometry


def fit(about: About, size: tuple[int, int] | None, operator: Operator | None, simulate: bool) -> Geometry:
    """The sizes for a source, with the wanted `size` of the restored picture or its own.

    What is no multiple of 16 is padded by repeating its edge, and the restored padding cut away again. An
    incoming measurement that is smaller than the restored picture comes back enlarged.
    """
    scale = 1 if simulate or operator is None else 16 // operator.measurement_size(16, 16)[0]
    shown = size or (about.height * scale, about.width * scale)
    if min(shown) < 16 or max(shown) > options.LARGEST:
        found = f"{shown[1]}x{shown[0]}"
        raise UsageError(f"expected a restored picture of 16 to {options.LARGEST} pixels each way, found {found}")
    restored = _up(shown[0], 16), _up(shown[1], 16)
    taken = _up(shown[0], scale) // scale, _up(shown[1], scale) // scale
    return Geometry(taken, (restored[0] // scale, restored[1] // scale), restored, shown)


def fit_mask(mask: Pixels, about: About, geometry: Geometry) -> Pixels:
    """A mask of the picture's size, padded as the picture is. Raises UsageError for one of another size."""
    height, width = mask.shape[:2]
    if (height, width) not in (geometry.shown, (about.height, about.width)):
        expected = f"{geometry.shown[1]}x{geometry.shown[0]}"
        raise UsageError(f"expected a mask of {expected} pixels, the size of the picture, found {width}x{height}")
    rows = np.arange(geometry.shown[0]) * height // geometry.shown[0]
    columns = np.arange(geometry.shown[1]) * width // geometry.shown[1]
    return pad(mask[rows][:, columns], geometry.restored)


def pad(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """[H, W, 3] with its last row and column repeated up to `size`."""
    bottom, right = size[0] - pixels.shape[0], size[1] - pixels.shape[1]
    return np.pad(pixels, ((0, bottom), (0, right), (0, 0)), mode="edge")


def restore(
    engine: Engine,
    source: Source,
    sink: Sink,
    operator: Operator,
    config: SolverConfig,
    geometry: Geometry,
    with_audio: bool,
    simulate: bool,
) -> Tally:
    """Every chunk of `source` through `engine` into `sink`."""
    tally = Tally()
    carry = sink.carry if with_audio else leave_out
    start = time.perf_counter()
    panels: tuple[Panel, ...] = ("original", "x_init", "restored") if simulate else ("restored",)
    with progress(source.about.length) as advance:
        for chunk in in_chunks(source.pictures(geometry.taken, carry), engine.spec):
            arrived = time.perf_counter()
            frames = fill(chunk, engine.spec.frames(len(tally.guided)), geometry.fed)
            result = engine.step(STREAM, frames, operator, config, panels=panels)
            count(tally, result, len(chunk), geometry, simulate)
            restored = cut(result.panels, len(panels) - 1, len(chunk), geometry)
            tally.first = tally.first or time.perf_counter() - arrived
            for picture, pixels in zip(chunk, restored, strict=True):
                sink.write(Picture(pixels, picture.pts))
            advance(len(chunk))
    tally.seconds = time.perf_counter() - start
    return tally


def fill(chunk: list[Picture], frames: int, size: tuple[int, int]) -> Pixels:
    """A chunk as [frames, H, W, 3]: padded to `size`, the last picture repeated where there are too few."""
    padded = [pad(picture.pixels, size) for picture in chunk]
    return np.stack(padded + padded[-1:] * (frames - len(padded)))


def cut(panels: Pixels, index: int, frames: int, geometry: Geometry) -> Pixels:
    """The picture part of panel `index`, without padding in space or time, [frames, H, W, 3]."""
    (height, width), left = geometry.shown, index * geometry.restored[1]
    return panels[:frames, :height, left : left + width]


def count(tally: Tally, result: ChunkResult, frames: int, geometry: Geometry, simulate: bool) -> None:
    tally.frames += frames
    tally.guided.append(result.guided)
    tally.residuals.append(result.residual)
    if simulate:
        original, x_init, restored = (from_pixels(cut(result.panels, i, frames, geometry)) for i in range(3))
        tally.x_init.add(x_init, original)
        tally.restored.add(restored, original)


def report(tally: Tally) -> dict[str, Any]:
    found: dict[str, Any] = {
        "frames": tally.frames,
        "fps": round(tally.frames / tally.seconds, 2),
        "chunks": len(tally.guided),
        "guided_chunks": sum(tally.guided),
        "seconds": round(tally.seconds, 3),
        "latency_first_chunk": round(tally.first, 3),
        "residual": fmean(tally.residuals),
    }
    if tally.restored.psnrs:
        found["psnr"] = {"x_init": tally.x_init.psnr, "restored": tally.restored.psnr}
        found["ssim"] = {"x_init": tally.x_init.ssim, "restored": tally.restored.ssim}
    return found


def table(tally: Tally, damaged: int) -> Table:
    found = report(tally)
    lines = Table(show_header=False, box=None)
    lines.add_row("frames", f"{found['frames']} in {found['seconds']:.1f} s, {found['fps']:.1f} a second")
    lines.add_row("chunks", f"{found['chunks']}, {found['guided_chunks']} of them guided")
    lines.add_row("first chunk", f"{found['latency_first_chunk']:.2f} s")
    lines.add_row("residual", f"{found['residual']:.4f}")
    if "psnr" in found:
        for name, unit, digits in (("psnr", " dB", 2), ("ssim", "", 4)):
            x_init, restored = found[name]["x_init"], found[name]["restored"]
            lines.add_row(name, f"{x_init:.{digits}f}{unit} x_init, {restored:.{digits}f}{unit} restored")
    if damaged:
        lines.add_row("damaged", f"{damaged} packets of the source could not be decoded and were left out")
    return lines


@contextmanager
def progress(total: int | None) -> Iterator[Any]:
    """A bar with frames, frames per second and the time left, on standard error; yields what advances it."""
    columns = (
        TextColumn("restoring"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        Remaining(elapsed_when_finished=True),
    )
    with Progress(*columns, console=options.progress_console()) as bar:
        task = bar.add_task("restoring", total=total)
        yield lambda frames: bar.advance(task, frames)


class Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} fps" if speed else "- fps")


@contextmanager
def ends_on_sigterm() -> Iterator[None]:
    """Turns SIGTERM into SystemExit for the block, so that a half-written file is taken away."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
