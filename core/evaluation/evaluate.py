"""How well a model restores: a clip, an operator, a variant at a time. Knows no files and no clock."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from core.chunks import ChunkSpec
from core.contract import Pixels, Rung, SolverConfig
from core.evaluation.baselines import baseline
from core.evaluation.metrics import psnr_per_frame
from core.evaluation.quality import Quality
from core.operators.base import LinearOperator
from core.operators.prox import prox_l2
from core.solver import Solver, remember
from core.video import from_pixels

Show = Callable[[Tensor], None]
"""Takes each chunk of restored frames [T, 3, H, W], for whoever wants to look at them."""


@dataclass(frozen=True)
class Variant:
    """One way to restore, as a change of the solver's settings."""

    changes: dict[str, Any] = field(default_factory=dict)
    rung: Rung = "full"


VARIANTS: dict[str, Variant] = {
    "x_init": Variant(rung="x_init"),
    "decoder_only": Variant({"reinject_every": 0, "reinject_residual": 0.0, "denoise": False}),
    "no_cache": Variant({"reinject_every": 0, "reinject_residual": 0.0, "use_cache": False}),
    "flash": Variant({"reinject_every": 0, "reinject_residual": 0.0}),
    "reinject": Variant({"reinject_every": 7, "reinject_residual": 0.0}),
    "adaptive": Variant({"reinject_every": 0, "reinject_residual": 1.1}),
    "avis": Variant({"reinject_every": 1, "reinject_residual": 0.0}),
    "blind": Variant({"reinject_every": 0, "reinject_residual": 0.0, "condition": False}),
    "k2": Variant({"reinject_every": 0, "reinject_residual": 0.0, "num_steps": 2}),
}
"""The variants that a solver computes, by name. `degraded` and `baseline` need none."""

PLAIN = ("degraded", "baseline")


@dataclass
class Score:
    """What one variant reached on one clip."""

    quality: Quality = field(default_factory=Quality)
    residuals: list[float] = field(default_factory=list)
    """of each chunk: |y - A x| / |y|"""
    guided: int = 0
    psnr_of_chunks: list[float] = field(default_factory=list)

    def add(self, restored: Tensor, original: Tensor, residual: float, guided: bool) -> None:
        self.quality.add(restored, original)
        self.residuals.append(residual)
        self.guided += guided
        self.psnr_of_chunks.append(fmean(self.quality.psnrs[-len(restored) :]))

    def row(self) -> dict[str, Any]:
        return {
            "psnr": self.quality.psnr,
            "ssim": self.quality.ssim,
            "flicker": self.quality.flicker,
            "change_ratio": self.quality.change_ratio,
            "residual": fmean(self.residuals),
            "frames": len(self.quality.psnrs),
            "guided_chunks": self.guided,
            "psnr_of_chunks": [round(value, 3) for value in self.psnr_of_chunks],
        }


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
    clip: Pixels, operator: LinearOperator, seed: int, device: torch.device, spec: ChunkSpec | None = None
) -> Iterator[MeasuredChunk]:
    """The clip chunk by chunk with y = A x + n; the noise is that of a simulated stream of the same seed."""
    past, start = None, 0
    spec = spec or ChunkSpec()
    for index, frames in enumerate(spec.split(len(clip))):
        x = from_pixels(clip[start : start + frames], device)
        x = torch.cat([x, x[-1:].expand(spec.frames(index) - frames, -1, -1, -1)])
        y = operator.measure(x, past, torch.Generator(x.device).manual_seed(seed * 1009 + index))
        yield MeasuredChunk(x, y, past, frames)
        past, start = remember(past, x, operator.reach), start + frames


def score_variant(
    solver: Solver,
    chunks: Iterator[MeasuredChunk],
    operator: LinearOperator,
    config: SolverConfig,
    rung: Rung,
    seed: int,
    show: Show,
) -> Score:
    """Restores a clip with the solver and compares it with the original."""
    score, state = Score(), None
    for chunk in chunks:
        state = state or solver.new_state(operator, chunk.x.shape[-2], chunk.x.shape[-1], seed)
        restored, state = solver.restore(chunk.y, state, config, rung)
        x = restored.x[: chunk.frames]
        score.add(x, chunk.x[: chunk.frames], restored.residual, restored.guided)
        show(x)
    return score


@torch.inference_mode()
def score_plain(
    name: str, chunks: Iterator[MeasuredChunk], operator: LinearOperator, config: SolverConfig, show: Show
) -> Score:
    """The measurement as one sees it (`degraded`) or the task's plain method (`baseline`).

    Output consistency, where the settings ask for it, reaches back to the frames that were put out before.
    """
    score, x_past = Score(), None
    for chunk in chunks:
        x = operator.show(chunk.y).clamp(-1, 1) if name == "degraded" else baseline(operator, chunk.y)
        if config.output_gamma > 0:
            x = prox_l2(operator, x, chunk.y, x_past, config.output_gamma, config.output_prox_steps).clamp(-1, 1)
        residual = operator.residual(x, chunk.y, x_past)
        score.add(x[: chunk.frames], chunk.x[: chunk.frames], residual, False)
        x_past = remember(x_past, x, operator.reach)
        show(x[: chunk.frames])
    return score


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


def variant_config(name: str, config: SolverConfig, output_consistency: bool) -> SolverConfig:
    """The settings of a variant: `config` with the variant's changes, with or without output consistency."""
    changes = dict(VARIANTS[name].changes) if name in VARIANTS else {}
    if not output_consistency:
        changes["output_gamma"] = 0.0
    return SolverConfig(**{**config.model_dump(), **changes})


def means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The mean over clips of each operator, variant and output consistency, in the order of `rows`."""
    groups: dict[tuple[str, str, bool], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["operator"], row["variant"], row["output_consistency"]), []).append(row)
    return [{**_keys(key), **_mean(group)} for key, group in groups.items()]


def gains(rows: Sequence[dict[str, Any]], variant: str = "flash", over: str = "x_init") -> list[dict[str, Any]]:
    """Per operator, what `variant` gains on `over`, both with output consistency: mean and worst clip."""
    table = {(r["clip"], r["operator"], r["variant"]): r for r in rows if r["output_consistency"]}
    found = []
    for name in dict.fromkeys(row["operator"] for row in rows):
        clips = [clip for clip, op, v in table if op == name and v == variant and (clip, op, over) in table]
        if not clips:
            continue
        row: dict[str, Any] = {"operator": name, "variant": variant, "over": over, "clips": len(clips)}
        for key in ("psnr", "ssim", "vmaf"):
            pairs = [(table[clip, name, variant], table[clip, name, over]) for clip in clips]
            steps = [a[key] - b[key] for a, b in pairs if key in a and key in b]
            if steps:
                row[key] = {"mean": fmean(steps), "min": min(steps)}
        found.append(row)
    return found


def _keys(key: tuple[str, str, bool]) -> dict[str, Any]:
    return dict(zip(("operator", "variant", "output_consistency"), key, strict=True))


def _mean(group: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("psnr", "ssim", "flicker", "change_ratio", "residual", "vmaf", "guided_chunks", "seconds")
    shared = [name for name in names if all(name in row for row in group)]
    return {"clips": len(group), **{name: fmean(row[name] for row in group) for name in shared}}
