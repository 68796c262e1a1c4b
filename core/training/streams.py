"""What the network trains on: streams that a camera measures, chunk by chunk, each with its own operator and past."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from core.coding import Coder
from core.contract import SolverConfig
from core.operators.averages import SpatioTemporalAverage, TemporalAverage
from core.operators.base import LinearOperator
from core.operators.blur import GaussianBlur
from core.operators.denoise import Denoise
from core.operators.lost import mask_lost_frames
from core.operators.masks import Inpainting
from core.operators.prox import least_squares, prox_l2
from core.operators.super_resolution import SuperResolution
from core.solver import consistency, remember
from core.training.data import Library
from core.training.sources import Augmentation, Source

MIX = {
    "super_resolution": 0.26,
    "inpainting": 0.18,
    "gaussian_blur": 0.19,
    "temporal_average": 0.16,
    "spatio_temporal_average": 0.15,
    "denoise": 0.06,
}
"""share of each task"""
CODED = 0.22
"""share of the streams whose measurement passes a real encoder"""
UNTOLD = 0.3
"""share of the coded streams of which the network is told the usual noise level, whatever it is"""
LOSS = 0.06
"""share of the chunks in which frames are lost on the network"""
MARGIN = 16
"""pixels around a blurred crop that only its operator sees: borders are a small part of a real frame"""
DEFAULTS = SolverConfig()


@dataclass(frozen=True)
class Sample:
    """One chunk to restore, and what is known of it; all frames [T, 3, H, W]."""

    operator: LinearOperator
    x: Tensor
    y: Tensor
    x_init: Tensor
    hint: Tensor
    past: Tensor | None
    """the restored frames before the chunk that A mixes in"""

    def consistent(self, x: Tensor) -> Tensor:
        """x after output consistency; a blurred crop is left as it is, its measurement reaches beyond it."""
        if self.operator.kind == "gaussian_blur":
            return x
        gamma = consistency(DEFAULTS.output_gamma, self.operator.noise)
        return prox_l2(self.operator, x, self.y, self.past, gamma, DEFAULTS.output_prox_steps)


@dataclass
class Stream:
    """A camera on a source. `read` and `remember_restored` alone change it."""

    source: Source
    operator: LinearOperator
    augmentation: Augmentation
    rng: torch.Generator
    coder: Coder | None
    told: float | None
    """the noise level that the operator tells, as a multiple of the true one; None tells the usual one"""
    error: float | None = None
    """how far the encoder's frames have been from the measurement, root mean square"""
    clean_past: Tensor | None = None
    y_past: Tensor | None = None
    x_past: Tensor | None = None

    @property
    def margin(self) -> int:
        return MARGIN if isinstance(self.operator, GaussianBlur) else 0

    def read(self, frames: int, lost: tuple[int, ...]) -> Sample:
        """The next chunk, of which the frames with the indices `lost` do not arrive."""
        x = self.augmentation(self.source.read(frames))
        y = self._measure(x)
        op = mask_lost_frames(self.operator.model_copy(update={"noise": self._level()}), lost)
        y = op.completed(y, self.y_past)
        x_init = least_squares(op, y, self.y_past, DEFAULTS.init_steps, self.x_past)
        past = self.x_past[-op.reach :] if op.reach and self.x_past is not None else None
        self.y_past = remember(self.y_past, y, max(1, op.lookback))
        inner = slice(self.margin, -self.margin or None)
        x, y, x_init, hint = (part[..., inner, inner] for part in (x, y, x_init, op.hint(y)))
        return Sample(op, x, y, x_init, hint, past)

    def remember_restored(self, x: Tensor) -> None:
        """What the network made of the last chunk, for operators that look at it."""
        self.x_past = remember(self.x_past, x, max(self.operator.reach, self.operator.recall))

    def _measure(self, x: Tensor) -> Tensor:
        y = self.operator.measure(x, self.clean_past, self.rng)
        if self.coder is not None:
            y, clean = self.coder(y), self.operator.A(x, self.clean_past)
            error = (y - clean).square().mean().sqrt().item()
            self.error = error if self.error is None else (self.error + error) / 2
        self.clean_past = remember(self.clean_past, x, self.operator.reach)
        return y

    def _level(self) -> float:
        if self.told is None:
            return 0.01
        true = self.operator.noise if self.error is None else self.error
        return min(max(float(f"{true * self.told:.2g}"), 0.002), 0.12)


def draw_stream(library: Library, size: int, rng: random.Random) -> Stream:
    """A stream of `size` x `size` pixels."""
    op = draw_operator(rng)
    coder: Coder | None = None
    told: float | None = math.exp(rng.gauss(0, 0.25)) if rng.random() < 0.4 else 1.0
    side = size + (2 * MARGIN if isinstance(op, GaussianBlur) else 0)
    if rng.random() < CODED and not isinstance(op, Inpainting):
        op = op.model_copy(update={"noise": min(op.noise, rng.choice([0.004, 0.01]))})
        coder = draw_coder(*op.measurement_size(side, side), rng)
        told = None if rng.random() < UNTOLD else told
    generator = torch.Generator().manual_seed(rng.randrange(1 << 40))
    return Stream(library.draw(side, rng), op, Augmentation.draw(rng), generator, coder, told)


def draw_operator(rng: random.Random) -> LinearOperator:
    kind, noise = rng.choices(list(MIX), list(MIX.values()))[0], draw_noise(rng)
    if kind == "super_resolution":
        return SuperResolution(noise=noise, scale=4 if rng.random() < 0.88 else 2)
    if kind == "inpainting":
        keep = 0.5 if rng.random() < 0.8 else rng.choice([0.3, 0.7])
        return Inpainting(noise=noise, seed=rng.randrange(12), keep=keep)
    if kind == "gaussian_blur":
        sigma = 3.0 if rng.random() < 0.7 else rng.choice([1.0, 1.5, 2.0, 4.0, 5.0])
        return GaussianBlur(noise=noise, sigma=sigma)
    if kind == "denoise":
        return Denoise(noise=noise if noise >= 0.02 else 0.03)
    return TemporalAverage(noise=noise) if kind == "temporal_average" else SpatioTemporalAverage(noise=noise)


def draw_noise(rng: random.Random) -> float:
    """The usual level most often, else one near it or one of up to ten times as much."""
    share = rng.random()
    if share < 0.68:
        return 0.01
    if share < 0.8:
        return round(rng.uniform(0.004, 0.02), 4)
    return round(math.exp(rng.uniform(math.log(0.02), math.log(0.1))), 3)


def draw_coder(height: int, width: int, rng: random.Random) -> Coder:
    if rng.random() < 0.5:
        return Coder("vp8", height, width, quantiser=rng.randint(8, 48))
    return Coder("h264", height, width, quantiser=rng.randint(16, 32))


def draw_lost(frames: int, rng: random.Random) -> tuple[int, ...]:
    """Most often none; else one burst of up to a third of the chunk, never its first frame."""
    if frames < 4 or rng.random() >= LOSS:
        return ()
    length = rng.randint(1, frames // 3)
    start = rng.randint(1, frames - length)
    return tuple(range(start, start + length))
