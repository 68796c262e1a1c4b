"""`avis novel-view`: a clip from another camera (paper, A.2). What the first camera never saw is inpainted by Flash."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import log10
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from core.chunks import ChunkSpec
from core.contract import SolverConfig
from core.errors import UsageError
from core.json_report import check_json, write_json
from core.models.load import choose_device
from core.novel_view import scene
from core.novel_view.camera import TRAJECTORIES, Lens, Pose, named_stops, pivot_distance, trajectory
from core.novel_view.splat import render
from core.operators.frame_masks import FrameMasks
from core.solver import Solver, StreamState
from core.video import from_pixels, to_pixels
from server.commands import options
from server.commands.evaluate_clip import progress
from server.files.depth import distances, read_depth
from server.files.inputs import open_source, read_clip
from server.files.outputs import Sink, check_output, open_sink
from server.files.source import About, Picture

SIZE = (240, 416)
SCENE_FRAMES = 45
"""of the synthetic scene, where --frames says nothing"""
FPS = Fraction(16)


@dataclass(frozen=True)
class Take:
    """What was filmed, and from where it is to be seen."""

    frames: Tensor
    """[T, 3, H, W] in [-1, 1]"""
    depth: Tensor
    """[T, H, W] along the camera's axis"""
    lens: Lens
    poses: list[Pose]
    rate: Fraction
    synthetic: bool
    """of the scene whose views are known exactly"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", type=Path, help="a video; not read with --depth scene")
    parser.add_argument("target", metavar="OUT", type=Path, help="the video from the other camera")
    parser.add_argument(
        "--depth",
        metavar="FILE|scene|model:FOLDER",
        required=True,
        help=".npy, .npz [T, H, W] or 16-bit PNG; `scene` films a synthetic scene in place of IN; model:FOLDER runs a "
        "depth-estimation checkpoint of transformers that lies in FOLDER",
    )
    parser.add_argument("--depth-kind", choices=["depth", "disparity"], default="depth", help="what FILE holds")
    parser.add_argument("--depth-scale", type=positive, default=1.0, help="factor of all distances (default: 1)")
    parser.add_argument(
        "--trajectory",
        metavar="NAME|FILE.json",
        default="orbit-left",
        help=f"{', '.join(TRAJECTORIES)}, or a JSON list of [theta, phi, r]: degrees down, degrees to the left, and "
        "the share of the way to the pivot; linear in between (default: orbit-left)",
    )
    parser.add_argument("--fov", type=angle, default=60.0, help="horizontal field of view in degrees (default: 60)")
    parser.add_argument("--size", metavar="WxH", type=options.size, default=SIZE, help="default: 416x240")
    parser.add_argument("--frames", metavar="N", type=options.positive, help="first N frames")
    parser.add_argument("--seed", type=options.seed, default=0, help="of all noise (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is there")
    options.add_model_arguments(parser)
    options.add_json_argument(parser)
    options.add_solver_arguments(parser)


def positive(text: str) -> float:
    """An argparse type: a finite number above 0."""
    return _number(text, 0, 1e9, "a number above 0")


def angle(text: str) -> float:
    """An argparse type: an angle that a lens can have."""
    return _number(text, 1, 170, "an angle from 1 to 170 degrees")


def _number(text: str, low: float, high: float, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high or value == 0:
        raise argparse.ArgumentTypeError(f"expected {expected}, found {text!r}")
    return value


def run(args: argparse.Namespace) -> int:
    check_json(args.json)
    check_output(args.source, args.target, args.overwrite)
    if args.size[0] % 16 or args.size[1] % 16:
        raise UsageError(f"expected a --size in multiples of 16, found {args.size[1]}x{args.size[0]}")
    stops = stops_of(args.trajectory)
    take = filmed(args, stops)
    config = SolverConfig(**{**options.solver_config(args).model_dump(), "reinject_every": 0})
    model = options.load_model(args)
    solver = Solver(model.codec, model.denoiser, model.num_steps)
    height, width = args.size
    about = About(width, height, take.rate, 1 / take.rate, len(take.frames))
    tally = Tally()
    with open_sink(args.target, about) as sink:
        for chunk in restored(solver, take, config, args.seed):
            write(sink, chunk)
            tally.add(chunk, truth_of(take, chunk) if take.synthetic else None)
    report = {**tally.report(), "settings": settings(args, config, stops)}
    options.console(args.json).print(table(report))
    write_json(report, args.json)
    return 0


def stops_of(name: str) -> list[tuple[float, float, float]]:
    """Where the camera passes. Raises UsageError for a file that holds no trajectory."""
    if name in TRAJECTORIES:
        return named_stops(name)
    if not name.endswith(".json"):
        raise UsageError(f"expected a trajectory among {', '.join(TRAJECTORIES)} or a .json file, found {name!r}")
    try:
        found = [tuple(float(value) for value in stop) for stop in json.loads(Path(name).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"expected a JSON list of [theta, phi, r] in {name}, found none: {error}") from error
    good = [
        stop for stop in found if len(stop) == 3 and abs(stop[0]) <= 90 and abs(stop[1]) <= 90 and -5 <= stop[2] < 1
    ]
    if not found or len(good) < len(found):
        raise UsageError(
            f"expected [theta, phi, r] within 90 degrees and r from -5 to below 1 in {name}, found {found}"
        )
    return [(theta, phi, r) for theta, phi, r in good]


def filmed(args: argparse.Namespace, stops: list[tuple[float, float, float]]) -> Take:
    """Frames, depth and poses. Raises UsageError for a video or a depth that cannot be read."""
    height, width = args.size
    lens, rate = Lens.of(args.fov, height, width), FPS
    if args.depth == "scene":
        still = Pose.orbit(0, 0, 0, 1.0)
        views = [scene.view(frame, lens, still) for frame in range(args.frames or SCENE_FRAMES)]
        frames, depth = (torch.stack(parts) for parts in zip(*views, strict=True))
    else:
        opened = open_source(args.source)
        rate = opened.about.rate
        opened.close()
        frames = from_pixels(read_clip(args.source, args.size, args.frames)).contiguous()
        depth = torch.from_numpy(depth_of(args, frames))
    poses = trajectory(stops, len(frames), pivot_distance(depth[0]))
    return Take(frames, depth, lens, poses, rate, args.depth == "scene")


def depth_of(args: argparse.Namespace, frames: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The depth of real frames: estimated, or from a file."""
    kind, _, folder = args.depth.partition(":")
    if kind == "model" and folder:
        device = choose_device(args.device)
        try:
            from core.novel_view.depth_model import estimate_disparity
        except ImportError as error:
            raise UsageError(f"a depth model needs the extra `wan` of this package: {error}") from error
        scale = float(args.depth_scale)
        return scale * distances(estimate_disparity(Path(folder), frames, device).numpy())
    return read_depth(Path(args.depth), args.depth_kind, args.depth_scale, len(frames), args.size)


@dataclass(frozen=True)
class NovelChunk:
    """A chunk from the new camera."""

    start: int
    """number of its first frame"""
    x: Tensor
    """[T, 3, H, W]"""
    x_init: Tensor
    masks: Tensor
    """1 where the source camera had seen it, [T, 1, H, W]"""


def restored(solver: Solver, take: Take, config: SolverConfig, seed: int) -> Iterator[NovelChunk]:
    """Renders and inpaints chunk by chunk; a short last chunk is filled up with its last frame."""
    state: StreamState | None = None
    start, spec = 0, ChunkSpec()
    lengths = spec.split(len(take.frames))
    with progress(len(lengths)) as begin:
        for index, own in enumerate(lengths):
            begin("novel view")
            numbers = [min(start + step, len(take.frames) - 1) for step in range(spec.frames(index))]
            views = [render(take.frames[n], take.depth[n], take.lens, take.poses[n]) for n in numbers]
            y, masks = (torch.stack(parts) for parts in zip(*views, strict=True))
            operator = FrameMasks(masks=masks)
            state = state or solver.new_state(operator, take.lens.height, take.lens.width, seed)
            found, state = solver.restore(y, replace(state, operator=operator), config)
            yield NovelChunk(start, found.x[:own], found.x_init[:own], masks[:own])
            start += own


def write(sink: Sink, chunk: NovelChunk) -> None:
    for number, pixels in enumerate(to_pixels(chunk.x), chunk.start):
        sink.write(Picture(pixels, number))


def truth_of(take: Take, chunk: NovelChunk) -> tuple[Tensor, Tensor]:
    """What the new camera sees of the synthetic scene [T, 3, H, W], and what the old one saw of it [T, 1, H, W]."""
    numbers = range(chunk.start, chunk.start + len(chunk.x))
    truth = torch.stack([scene.view(n, take.lens, take.poses[n])[0] for n in numbers])
    return truth, torch.stack([scene.visible(n, take.lens, take.poses[n]) for n in numbers])


@dataclass
class Tally:
    """What became of all frames."""

    frames: int = 0
    hole_pixels: float = 0.0
    pixels: float = 0.0
    overlap: float = 0.0
    """pixels that are holes both here and in truth"""
    union: float = 0.0
    """pixels that are holes here or in truth"""
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    """of `restored` and `x_init`: squared error on [0, 1] summed inside the true holes and outside"""
    counts: dict[str, float] = field(default_factory=lambda: {"inside": 0.0, "outside": 0.0})

    def add(self, chunk: NovelChunk, truth: tuple[Tensor, Tensor] | None) -> None:
        holes = 1 - chunk.masks
        self.frames += len(chunk.x)
        self.hole_pixels += float(holes.sum())
        self.pixels += holes.numel()
        if truth is None:
            return
        clean, seen = truth
        unseen = 1 - seen
        self.overlap += float((holes * unseen).sum())
        self.union += float(torch.maximum(holes, unseen).sum())
        for place, where in (("inside", unseen), ("outside", seen)):
            self.counts[place] += float(where.sum())
            for name, x in (("restored", chunk.x), ("x_init", chunk.x_init)):
                error = float((((x - clean) / 2).square().mean(1, keepdim=True) * where).sum())
                known = self.errors.setdefault(name, {"inside": 0.0, "outside": 0.0})
                known[place] += error

    def report(self) -> dict[str, Any]:
        """`holes` is their share of all pixels; PSNR over all pixels of a kind, where the truth is known."""
        found: dict[str, Any] = {"frames": self.frames, "holes": self.hole_pixels / self.pixels}
        if not self.errors:
            return found
        found["psnr"] = self._psnr("restored")
        found["psnr_x_init"] = self._psnr("x_init")
        found["hole_iou"] = self.overlap / self.union if self.union else 1.0
        return found

    def _psnr(self, name: str) -> dict[str, float | None]:
        parts = {place: (self.errors[name][place], self.counts[place]) for place in self.counts}
        parts["whole"] = tuple(map(sum, zip(*parts.values(), strict=True)))  # type: ignore[assignment]
        return {place: decibels(error, count) for place, (error, count) in parts.items()}


def decibels(error: float, count: float) -> float | None:
    """PSNR of a summed squared error over `count` pixels; None where there are none."""
    return -10 * log10(max(error / count, 1e-10)) if count else None


def settings(args: argparse.Namespace, config: SolverConfig, stops: list[tuple[float, float, float]]) -> dict[str, Any]:
    return {
        "model": args.model,
        "weights": args.weights,
        "size": f"{args.size[1]}x{args.size[0]}",
        "depth": args.depth,
        "fov": args.fov,
        "stops": stops,
        "seed": args.seed,
        "solver": config.model_dump(),
    }


def table(report: dict[str, Any]) -> Table:
    found = Table(title=f"{report['frames']} frames from another camera, {100 * report['holes']:.1f} % never seen")
    found.add_column("PSNR, dB")
    for name in ("inside holes", "outside", "whole"):
        found.add_column(name, justify="right")
    for name, key in (("x_init", "psnr_x_init"), ("restored", "psnr")):
        if key in report:
            figures = (report[key][place] for place in ("inside", "outside", "whole"))
            found.add_row(name, *("-" if figure is None else f"{figure:.2f}" for figure in figures))
    if "hole_iou" in report:
        found.caption = f"holes agree with the truth to {report['hole_iou']:.3f} (IoU)"
    return found
