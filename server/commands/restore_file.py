"""One file through the engine: sizes, operator, chunks, and what came of it."""

from __future__ import annotations

import argparse
import base64
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import psutil  # type: ignore[import-untyped]

from core.chunks import ChunkSpec
from core.contract import LATENTS, Mode, Panel
from core.engine import ChunkResult, Engine
from core.errors import UsageError
from core.models.table import check_latency
from core.operators.kernels import KERNEL_SIDE
from core.operators.table import Operator
from core.video import from_pixels
from server.commands import options
from server.commands.certify import Witness, witness_of
from server.commands.restore_report import Outcome, Tally, progress
from server.commands.restore_sizes import Geometry, cut, fill, fit, fit_mask
from server.files.fields import in_fields
from server.files.inputs import in_chunks, open_source, read_picture
from server.files.outputs import Sink, encode_png, open_sink, unsealed
from server.files.paths import named
from server.files.source import About, Extras, Source

STREAM = "file"


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
    witness = witness_of(source, target, args)
    opened = open_source(source, args.fps, options.deinterlaced(args))
    try:
        operator, geometry = plan(args, opened.about)
        if not args.simulate:
            opened = in_fields(opened, operator)
        return _restored(opened, target, args, operator, geometry, engine, named(source.name or str(source)), witness)
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
    witness: Witness | None,
) -> Outcome:
    height, width = geometry.shown
    about = replace(source.about, width=width, height=height, aspect=geometry.aspect)
    carried, seal = extras(source, args), witness.seal if witness else unsealed
    with ends_on_sigterm(), open_sink(target, about, carried, args.crf, args.transcode_audio, seal) as sink:
        running = engine()
        if witness:
            witness.begin(running, source, operator, geometry)
        mode: Mode = "simulate" if args.simulate else "incoming"
        try:
            spec = ChunkSpec(LATENTS[args.latency])
            running.open(STREAM, operator, mode, *geometry.restored, args.seed, spec, args.coded)
        except ValueError as error:
            raise UsageError(f"{error}; --size chooses another size") from error
        try:
            tally = restore(running, source, sink, operator, geometry, args, name, witness)
        finally:
            running.close(STREAM)
        if not tally.frames:
            raise UsageError(f"expected pictures in {name}, found none that decodes")
    certificate = witness.sidecar if witness else None
    return Outcome(tally, [*source.notes, *sink.notes], source.warnings, source.damaged, certificate)


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
        first = {"field": about.first_field} if about.first_field and options.is_deinterlace(args) else {}
        operator = options.operator(args.operator, args, **drawn(args), **first)
        geometry = fit(about, args.size, operator, args.simulate, args.fit)
        if first and not args.simulate and (geometry.scaled or geometry.taken)[0] != about.height:
            raise UsageError("expected no --size with --operator deinterlace: scaling would mix the two fields")
        return operator, geometry
    geometry = fit(about, args.size, None, args.simulate, args.fit)
    png = base64.b64encode(encode_png(fit_mask(read_picture(args.mask), about, geometry))).decode()
    return options.operator("mask", args, png=png), geometry


def restore(
    engine: Engine,
    source: Source,
    sink: Sink,
    operator: Operator,
    geometry: Geometry,
    args: argparse.Namespace,
    name: str,
    witness: Witness | None = None,
) -> Tally:
    """Every chunk of `source` through `engine` into `sink`."""
    tally, process, config = Tally(), psutil.Process(), options.solver_config(args)
    start = time.perf_counter()
    panels: tuple[Panel, ...] = ("original", "x_init", "restored") if args.simulate else ("restored",)
    which = len(panels) - 1
    panels += ("trust",) if witness else ()
    pictures = source.pictures(geometry.scaled or geometry.taken, sink.carry)
    with progress(source.about.length, name) as advance:
        for chunk in in_chunks(pictures, ChunkSpec(LATENTS[args.latency])):
            arrived = time.perf_counter()
            frames = fill(chunk, engine.frames(STREAM), geometry)
            result = engine.step(STREAM, frames, operator, config, panels=panels)
            count(tally, result, len(chunk), geometry, args.simulate)
            restored = cut(result.panels, which, len(chunk), geometry)
            if witness:
                witness.note(frames[: len(chunk)], restored, result)
            tally.first = tally.first or time.perf_counter() - arrived
            for picture, pixels in zip(chunk, restored, strict=True):
                sink.write(replace(picture, pixels=pixels))
            tally.remember_memory(process.memory_info().rss)
            advance(len(chunk))
    tally.seconds = time.perf_counter() - start
    return tally


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
