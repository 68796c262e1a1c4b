"""How well one method restores one clip: the measurement it gets, and how what it returns is scored.

Knows no files; the clock is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from core.chunks import CHUNKS, ChunkSpec
from core.coding import new_coder
from core.contract import Pixels
from core.evaluation.clip_solvers import Part
from core.evaluation.quality import Quality
from core.operators.base import LinearOperator
from core.solver import remember
from core.video import from_pixels

Show = Callable[[Tensor], None]
"""Takes each chunk of restored frames [T, 3, H, W], for whoever wants to look at them."""

Clock = Callable[[], float]
"""Seconds from some fixed moment."""


@dataclass(frozen=True)
class MeasuredChunk:
    """A chunk of the original and its measurement; a short last chunk is filled up with its last frame."""

    x: Tensor
    y: Tensor
    x_past: Tensor | None
    """the original frames before the chunk that A mixes in"""
    frames: int
    """how many of them are the clip's own"""


def measured(
    clip: Pixels,
    operator: LinearOperator,
    seed: int,
    device: torch.device,
    coding: str | None = None,
    spec: ChunkSpec = CHUNKS,
) -> Iterator[MeasuredChunk]:
    """The clip chunk by chunk with y = A x + n; the noise is that of a simulated stream of the same seed.

    With `coding`, such as vp8:400k, y then goes through that encoder and decoder, as what a camera sends does.
    """
    past, start, coder = None, 0, None
    for index, frames in enumerate(spec.split(len(clip))):
        x = from_pixels(clip[start : start + frames], device)
        x = torch.cat([x, x[-1:].expand(spec.frames(index) - frames, -1, -1, -1)])
        y = operator.measure(x, past, torch.Generator(x.device).manual_seed(seed * 1009 + index))
        if coding is not None:
            coder = coder or new_coder(coding, *y.shape[-2:])
            y = operator.observed(coder(y))
        yield MeasuredChunk(x, y, past, frames)
        past, start = remember(past, x, operator.reach), start + frames


@dataclass
class Score:
    """What one method reached on one clip."""

    quality: Quality = field(default_factory=Quality)
    residuals: list[float] = field(default_factory=list)
    """of each chunk: |y - A x| / |y|"""
    guided: int = 0
    """chunks that were guided"""
    psnr_of_chunks: list[float] = field(default_factory=list)
    seams: list[float] = field(default_factory=list)
    """of each chunk after the first: PSNR of its first frame less that of the whole chunk, dB"""
    seconds: list[float] = field(default_factory=list)
    """that each part of the result took"""

    def add(self, restored: Tensor, original: Tensor, residual: float) -> None:
        """Counts the next chunk, [T, 3, H, W] in [-1, 1]."""
        self.quality.add(restored, original)
        psnrs = self.quality.psnrs[-len(restored) :]
        if self.psnr_of_chunks:
            self.seams.append(psnrs[0] - fmean(psnrs))
        self.residuals.append(residual)
        self.psnr_of_chunks.append(fmean(psnrs))

    def row(self) -> dict[str, Any]:
        return {
            "psnr": self.quality.psnr,
            "ssim": self.quality.ssim,
            "flicker": self.quality.flicker,
            "change_ratio": self.quality.change_ratio,
            "residual": fmean(self.residuals),
            "seam": fmean(self.seams) if self.seams else None,
            "frames": len(self.quality.psnrs),
            "guided_chunks": self.guided,
            "psnr_of_chunks": [round(value, 3) for value in self.psnr_of_chunks],
            "latency": round(self.seconds[0], 4),
            "seconds": round(sum(self.seconds), 3),
        }


def score_clip(
    parts: Iterator[Part], chunks: Sequence[MeasuredChunk], operator: LinearOperator, show: Show, clock: Clock
) -> Score:
    """Compares what a method yields with the original. Raises ValueError for parts that cut through a chunk."""
    score, past, waiting = Score(), None, iter(chunks)
    for part in timed(parts, clock, score.seconds):
        score.guided += part.guided
        x = part.x
        while len(x):
            chunk = next(waiting)
            own, x = x[: len(chunk.x)], x[len(chunk.x) :]
            if len(own) != len(chunk.x):
                raise ValueError(f"expected whole chunks of {len(chunk.x)} frames, found {len(own)}")
            score.add(own[: chunk.frames], chunk.x[: chunk.frames], operator.residual(own, chunk.y, past))
            past = remember(past, own, operator.reach)
            show(own[: chunk.frames])
    return score


def timed(parts: Iterator[Part], clock: Clock, seconds: list[float]) -> Iterator[Part]:
    """The parts; what each one took is appended to `seconds`."""
    while True:
        start = clock()
        part = next(parts, None)
        if part is None:
            return
        seconds.append(clock() - start)
        yield part
