"""One file through the engine: sizes, operator, chunks, and what came of it."""

from __future__ import annotations

import argparse
import base64
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]

from core.chunks import ChunkSpec
from core.contract import LATENTS, Mode, Panel, Pixels
from core.engine import ChunkResult, Engine
from core.errors import UsageError
from core.models.table import check_latency
from core.operators.deinterlace import Deinterlace
from core.operators.kernels import KERNEL_SIDE
from core.operators.table import Operator
from core.video import from_pixels
from server.commands import options
from server.commands.restore_report import Outcome, Tally, progress
from server.files.fields import Fields
from server.files.geometry import Fit, place, scaled_size
from server.files.inputs import in_chunks, open_source, read_picture
from server.files.outputs import Sink, encode_png, open_sink
from server.files.paths import named
from server.files.source import About, Extras, Picture, Source

STREAM = "file"


@dataclass(frozen=True)
class Geometry:
    """How a picture becomes a frame of the engine, and a restored frame a picture. All (height, width)."""

    taken: tuple[int, int]
    """size of the pictures that are restored"""
    fed: tuple[int, int]
    """size of the engine's input: `taken`, padded at the right and the bottom"""
    restored: tuple[int, int]
    """size of the engine's output, multiples of 16"""
    shown: tuple[int, int]
    """what is cut from it and written"""
    scaled: tuple[int, int] | None = None
    """size that a source picture is scaled to, before it is cut or padded to `taken`; None: `taken`"""
    aspect: Fraction = Fraction(1)
    """width over height of a restored pixel"""


def check(args: argparse.Namespace) -> None:
    """Raises UsageError for what is wrong whatever the file."""
    fields = options.operator_fields(args.operator)
    for name, setting in (("mask", "png"), ("kernel", "taps")):
        given = getattr(args, name)
        if given and fields["kind"] != name:
            raise UsageError(f"--{name} goes with --operator {name}, found --operator {fields['kind']}")
        if not given and fields["kind"] == name and setting not in fields:
            raise UsageError(f"--operator {name} needs --{name} PNG")
    if not args.mask:
        options.operator(args.operator, args, **drawn(args))
    if args.coded and not args.simulate:
        raise UsageError("--coded goes with --simulate: a video that comes degraded was coded already")
    check_latency(args.model, args.latency)
    options.solver_config(args)


def is_deinterlace(args: argparse.Namespace) -> bool:
    return bool(options.operator_fields(args.operator)["kind"] == "deinterlace")


def drawn(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of an operator that a picture gives, whatever the file."""
    if not args.kernel:
        return {}
    picture = read_picture(args.kernel)
    height, width = picture.shape[:2]
    if max(height, width) > KERNEL_SIDE:
        raise UsageError(f"expected a kernel of {KERNEL_SIDE} pixels each way at most, found {width}x{height}")
    return {"taps": picture.mean(2).tolist()}


def outcome_of(source: Path, target: Path, args: argparse.Namespace, engine: Callable[[], Engine]) -> Outcome:
    """Restores `source` to `target`; `engine` is called once the file is known to be good. Raises UsageError."""
    opened = open_source(source, args.fps, not (args.no_deinterlace or is_deinterlace(args)))
    try:
        operator, geometry = plan(args, opened.about)
        if isinstance(operator, Deinterlace) and operator.alternate and opened.about.first_field and not args.simulate:
            opened = Fields(opened)
        return _restored(opened, target, args, operator, geometry, engine, named(source.name or str(source)))
    finally:
        opened.close()


def _restored(
    source: Source,
    target: Path,
    args: argparse.Namespace,
    operator: Operator,
    geometry: Geometry,
    engine: Callable[[], Engine],
    name: str,
) -> Outcome:
    height, width = geometry.shown
    about = replace(source.about, width=width, height=height, aspect=geometry.aspect)
    with ends_on_sigterm(), open_sink(target, about, extras(source, args), args.crf, args.transcode_audio) as sink:
        running = engine()
        mode: Mode = "simulate" if args.simulate else "incoming"
        try:
            spec = ChunkSpec(LATENTS[args.latency])
            running.open(STREAM, operator, mode, *geometry.restored, args.seed, spec, args.coded)
        except ValueError as error:
            raise UsageError(f"{error}; --size chooses another size") from error
        try:
            tally = restore(running, source, sink, operator, geometry, args, name)
        finally:
            running.close(STREAM)
        if not tally.frames:
            raise UsageError(f"expected pictures in {name}, found none that decodes")
    return Outcome(tally, [*source.notes, *sink.notes], source.warnings, source.damaged)


def extras(source: Source, args: argparse.Namespace) -> Extras:
    """What travels with the pictures."""
    if not args.no_audio:
        return source.extras
    return replace(source.extras, streams=tuple(s for s in source.extras.streams if s.type != "audio"))


def strict_code(outcome: Outcome, args: argparse.Namespace) -> int:
    """The exit code: a damaged source is a failure only where the user asked for that."""
    return 1 if args.strict and (outcome.warnings or outcome.damaged) else 0


def plan(args: argparse.Namespace, about: About) -> tuple[Operator, Geometry]:
    """The operator and the sizes that the arguments ask for."""
    if not args.mask:
        first = {"field": about.first_field} if about.first_field and is_deinterlace(args) else {}
        operator = options.operator(args.operator, args, **drawn(args), **first)
        geometry = fit(about, args.size, operator, args.simulate, args.fit)
        if first and not args.simulate and (geometry.scaled or geometry.taken)[0] != about.height:
            raise UsageError("expected no --size with --operator deinterlace: scaling would mix the two fields")
        return operator, geometry
    geometry = fit(about, args.size, None, args.simulate, args.fit)
    png = base64.b64encode(encode_png(fit_mask(read_picture(args.mask), about, geometry))).decode()
    return options.operator("mask", args, png=png), geometry


def fit(
    about: About, size: tuple[int, int] | None, operator: Operator | None, simulate: bool, how: Fit = "crop"
) -> Geometry:
    """The sizes for a source, with the wanted `size` of the restored picture or its own.

    The shape of the picture is kept: a `size` of another shape is filled as `how` says, with square pixels. What is
    no multiple of 16 is padded by repeating its edge, and the restored padding cut away again. An incoming
    measurement that is smaller than the restored picture comes back enlarged.
    """
    scale = 1 if simulate or operator is None else 16 // operator.measurement_size(16, 16)[0]
    shown, aspect = size or (about.height * scale, about.width * scale), about.aspect
    reshaped = size is not None and abs(size[1] - size[0] * Fraction(about.width, about.height)) > 1
    if reshaped:
        aspect = Fraction(1)
        shown = scaled_size(about.shape, shown, how) if how == "inside" else shown
    if min(shown) < 16 or max(shown) > options.LARGEST:
        found = f"{shown[1]}x{shown[0]}"
        raise UsageError(f"expected a restored picture of 16 to {options.LARGEST} pixels each way, found {found}")
    taken = _up(shown[0], scale) // scale, _up(shown[1], scale) // scale
    restored = _up(shown[0], 16), _up(shown[1], 16)
    scaled = scaled_size(about.shape, taken, how) if reshaped and how != "inside" else None
    return Geometry(taken, (restored[0] // scale, restored[1] // scale), restored, shown, scaled, aspect)


def fit_mask(mask: Pixels, about: About, geometry: Geometry) -> Pixels:
    """A mask of the picture's size, cut and padded as the picture is. Raises UsageError for one of another size."""
    height, width = mask.shape[:2]
    if (height, width) not in (geometry.shown, (about.height, about.width)):
        expected = f"{geometry.shown[1]}x{geometry.shown[0]}"
        raise UsageError(f"expected a mask of {expected} pixels, the size of the picture, found {width}x{height}")
    target = geometry.shown if (height, width) == geometry.shown else geometry.scaled or geometry.shown
    rows = np.arange(target[0]) * height // target[0]
    columns = np.arange(target[1]) * width // target[1]
    return pad(place(mask[rows][:, columns], geometry.shown, 255), geometry.restored)


def pad(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """[H, W, 3] with its last row and column repeated up to `size`."""
    bottom, right = size[0] - pixels.shape[0], size[1] - pixels.shape[1]
    return np.pad(pixels, ((0, bottom), (0, right), (0, 0)), mode="edge")


def restore(
    engine: Engine,
    source: Source,
    sink: Sink,
    operator: Operator,
    geometry: Geometry,
    args: argparse.Namespace,
    name: str,
) -> Tally:
    """Every chunk of `source` through `engine` into `sink`."""
    tally, process, config = Tally(), psutil.Process(), options.solver_config(args)
    start = time.perf_counter()
    panels: tuple[Panel, ...] = ("original", "x_init", "restored") if args.simulate else ("restored",)
    pictures = source.pictures(geometry.scaled or geometry.taken, sink.carry)
    with progress(source.about.length, name) as advance:
        for chunk in in_chunks(pictures, ChunkSpec(LATENTS[args.latency])):
            arrived = time.perf_counter()
            frames = fill(chunk, engine.frames(STREAM), geometry)
            result = engine.step(STREAM, frames, operator, config, panels=panels)
            count(tally, result, len(chunk), geometry, args.simulate)
            restored = cut(result.panels, len(panels) - 1, len(chunk), geometry)
            tally.first = tally.first or time.perf_counter() - arrived
            for picture, pixels in zip(chunk, restored, strict=True):
                sink.write(replace(picture, pixels=pixels))
            tally.remember_memory(process.memory_info().rss)
            advance(len(chunk))
    tally.seconds = time.perf_counter() - start
    return tally


def fill(chunk: list[Picture], frames: int, geometry: Geometry) -> Pixels:
    """A chunk as [frames, H, W, 3]: cut, padded to `geometry.fed`, the last picture repeated where too few came."""
    padded = [pad(place(picture.pixels, geometry.taken), geometry.fed) for picture in chunk]
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


@contextmanager
def ends_on_sigterm() -> Iterator[None]:
    """Turns SIGTERM into SystemExit for the block, so that a half-written file is removed."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
