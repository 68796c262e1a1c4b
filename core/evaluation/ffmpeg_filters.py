"""FFmpeg's filters as rivals: the usual answers to noisy and to interlaced video."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import torch
from av.error import BlockingIOError as Again
from av.filter import Graph, filters_available
from torch import Tensor

from core.chunks import ChunkSpec
from core.contract import Pixels, SolverConfig
from core.errors import UsageError
from core.evaluation.clip_solvers import Part, consistent
from core.operators.base import LinearOperator
from core.operators.deinterlace import Deinterlace
from core.operators.denoise import Denoise
from core.video import from_pixels, to_pixels

try:
    import imageio_ffmpeg  # type: ignore[import-untyped]
except ImportError:  # the extra `eval` brings it
    imageio_ffmpeg = None

FORMAT = "yuv444p"
"""what the filters see: all of them take it, and it holds every pixel's colour"""


@dataclass(frozen=True)
class FfmpegFilter:
    """One filter, and the operator that it is a usual answer to."""

    name: str
    settings: Callable[[LinearOperator], str]
    """as FFmpeg writes them"""
    operator: type[LinearOperator]

    def suits(self, operator: LinearOperator) -> bool:
        return isinstance(operator, self.operator) and (not isinstance(operator, Deinterlace) or operator.alternate)


def noise_of(operator: LinearOperator) -> float:
    """The noise in units of 8-bit pixels."""
    return 127.5 * operator.noise


def parity(operator: LinearOperator) -> str:
    first = "bff" if isinstance(operator, Deinterlace) and operator.field == "bottom" else "tff"
    return f"mode=send_field:parity={first}:deint=all"


FILTERS = {
    "hqdn3d": FfmpegFilter("hqdn3d", lambda op: f"luma_spatial={noise_of(op):.2f}", Denoise),
    "nlmeans": FfmpegFilter("nlmeans", lambda op: f"s={max(1.0, 0.7 * noise_of(op)):.2f}:p=5:r=9", Denoise),
    "bwdif": FfmpegFilter("bwdif", parity, Deinterlace),
}
"""The filters by name; the strength of those against noise follows its level, as was best on a clip"""


@dataclass(frozen=True)
class FilteredClip:
    """A `ClipSolver`: the measurement through a filter. Interlaced fields are woven into frames first."""

    filter: FfmpegFilter

    @torch.inference_mode()
    def restore_clip(self, y: Tensor, operator: LinearOperator, seed: int, config: SolverConfig) -> Iterator[Part]:
        frames = to_pixels(woven(y) if isinstance(operator, Deinterlace) else y)
        x = from_pixels(filtered(frames, self.filter.name, self.filter.settings(operator)), y.device)[: len(y)]
        lengths = ChunkSpec().split(len(y))
        yield Part(torch.cat([consistent(operator, *pair, None, config) for pair in in_parts(x, y, lengths)]))


def in_parts(x: Tensor, y: Tensor, lengths: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(x.split(lengths), y.split(lengths), strict=True)


def woven(y: Tensor) -> Tensor:
    """Pairs of fields [2 n, 3, H, W] as n frames; a last field without another one goes with the one before it."""
    pairs = torch.cat([y, y[-2:-1] if len(y) > 1 else 0 * y]) if len(y) % 2 else y
    return pairs[::2] + pairs[1::2]  # lost lines are 0


def filtered(frames: Pixels, name: str, settings: str) -> Pixels:
    """Frames [T, H, W, 3] through a filter. Raises UsageError where no FFmpeg at hand has it."""
    if name in filters_available:
        return by_library(frames, name, settings)
    if imageio_ffmpeg is None:
        raise UsageError(f"the FFmpeg of PyAV has no filter {name}: install the extra `eval`, which brings another one")
    return by_program(str(imageio_ffmpeg.get_ffmpeg_exe()), frames, f"{name}={settings}")


def by_library(frames: Pixels, name: str, settings: str) -> Pixels:
    graph = Graph()
    height, width = frames.shape[1:3]
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat(FORMAT), time_base=Fraction(1, 25))
    graph.link_nodes(source, graph.add(name, settings), graph.add("buffersink"))
    graph.configure()
    found: list[np.ndarray] = []
    for index, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=FORMAT)
        frame.pts = index
        graph.vpush(frame)
        found += pulled(graph)
    graph.vpush(None)
    return np.stack(found + pulled(graph))


def pulled(graph: Graph) -> list[np.ndarray]:
    """The pictures that a graph has ready."""
    found = []
    while True:
        try:
            found.append(graph.vpull().to_ndarray(format="rgb24"))
        except (Again, EOFError):
            return found


def by_program(ffmpeg: str, frames: Pixels, graph: str) -> Pixels:
    height, width = frames.shape[1:3]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24"]
    command = [ffmpeg, "-v", "error", *raw, "-s", f"{width}x{height}", "-i", "-"]
    command += ["-vf", f"format={FORMAT},{graph}", *raw, "-"]
    done = subprocess.run(command, input=frames.tobytes(), capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"FFmpeg could not run {graph}: {done.stderr.decode(errors='replace').strip()}")
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
