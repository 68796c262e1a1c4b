"""Frames lost on the network: which, and how well a clip is restored without them. Knows no files and no clock."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from torch import Tensor

from core.contract import SolverConfig
from core.evaluation.metrics import psnr_per_frame
from core.evaluation.score import MeasuredChunk
from core.operators.base import LinearOperator
from core.solver import Solver

LOSS_VARIANTS = ("intact", "freeze", "mask")
"""Nothing is lost; a lost frame's measurement is that of the frame before; a lost frame is not measured."""


def lost_frames(frames: int, share: float, burst: int, seed: int) -> frozenset[int]:
    """Which frames of a clip are lost on the way: about `share` of them, in runs of `burst`, never the first."""
    starts = range(1, frames - burst + 1, burst)
    if not starts:
        raise ValueError(f"expected more than {burst} frames to lose {burst} in a row of, found {frames}")
    runs = min(len(starts), max(1, round(share * frames / burst)))
    chosen = random.Random(seed).sample(starts, runs)
    return frozenset(start + step for start in chosen for step in range(burst))


@dataclass
class LossScore:
    """What became of a clip of which frames were lost."""

    lost: frozenset[int]
    reach: int
    """frames after a lost one that its measurement would have shared"""
    psnrs: list[float] = field(default_factory=list)
    """of each frame, dB"""

    @property
    def affected(self) -> list[int]:
        """The lost frames, and those after them whose measurements overlap theirs."""
        touched = {n + step for n in self.lost for step in range(self.reach + 1)}
        return sorted(n for n in touched if n < len(self.psnrs))

    def row(self) -> dict[str, Any]:
        affected = self.affected
        return {
            "psnr": fmean(self.psnrs),
            "psnr_lost": fmean(self.psnrs[n] for n in sorted(self.lost)),
            "psnr_affected": fmean(self.psnrs[n] for n in affected),
            "lost": len(self.lost),
            "affected": len(affected),
            "frames": len(self.psnrs),
        }


def score_loss(
    solver: Solver,
    chunks: Iterator[MeasuredChunk],
    operator: LinearOperator,
    config: SolverConfig,
    variant: str,
    lost: frozenset[int],
    seed: int,
) -> LossScore:
    """Restores a clip without the frames `lost` in the way of `variant`, one of LOSS_VARIANTS."""
    score, state, held = LossScore(lost, operator.reach), None, None
    for chunk in chunks:
        state = state or solver.new_state(operator, chunk.x.shape[-2], chunk.x.shape[-1], seed)
        start = len(score.psnrs)
        missing = tuple(n - start for n in sorted(lost) if start <= n < start + chunk.frames)
        frozen = freeze(chunk.y, held, missing)
        y = chunk.y if variant == "intact" else frozen
        restored, state = solver.restore(y, state, config, lost=missing if variant == "mask" else ())
        score.psnrs += psnr_per_frame(restored.x[: chunk.frames], chunk.x[: chunk.frames])
        held = frozen[-1]
    return score


def freeze(y: Tensor, held: Tensor | None, missing: Sequence[int]) -> Tensor:
    """`y` with each missing frame replaced by the one before it, before the first one `held`."""
    y = y.clone()
    for n in missing:
        before = y[n - 1] if n else held
        assert before is not None, "the first frame of a clip is never lost"
        y[n] = before
    return y
