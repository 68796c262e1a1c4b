"""What callers and the engine agree on: rungs, solver settings, modes, panels, pixels. Loads no torch."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_validator

from core.config import Config

Rung = Literal["full", "one_step", "no_reinjection", "x_init", "passthrough"]
"""What a chunk is worth, best first: each rung drops one thing more. `passthrough` never reaches the solver."""

Latency = Literal["normal", "low"]
"""How long a session's chunks are: a chunk is restored when its last frame is there."""

LATENTS: dict[Latency, int] = {"normal": 3, "low": 1}
"""latents of a chunk: 12 frames, or 4"""


Tier = Literal["faithful", "sharp"]
"""What the network was trained for: the smallest error, or that and a small perceptual distance."""


LEAST_STRENGTH = 1e-6
"""of consistency with the measurement: less than that changes no pixel"""


class SolverConfig(Config):
    tier: Tier = "faithful"
    """sharp has a little more texture, and a slightly larger error; both agree with the measurement to its noise"""
    t0: float = Field(0.1, ge=0, lt=1)
    """start time of the reverse diffusion (Eq. 10); at 1 nothing of x_init would be left"""
    num_steps: int = Field(0, ge=0, le=8)
    """denoising steps per chunk, K; 0 takes the model's own number"""
    reinject_every: int = Field(7, ge=0, le=1000)
    """guide every n-th chunk: 0 the first only (AVIS Flash), 1 all (AVIS), 7 is the paper's long-video setting"""
    reinject_phase: int = Field(0, ge=0, le=1000)
    """chunks by which that calendar is shifted, so that the streams of one device are not all guided at once"""
    reinject_residual: float = Field(0.0, ge=0, le=1000)
    """also guide a chunk when the last residual exceeded this multiple of the last guided chunk's; 0 never does"""
    gamma: float = Field(1.0, ge=LEAST_STRENGTH, le=1e6)
    """strength of measurement consistency in a guided chunk (Eq. 7), for an operator of norm 1"""
    init_steps: int = Field(5, ge=0, le=100)
    """CG updates for x_init (Eq. 9), for operators without a closed form"""
    prox_steps: int = Field(5, ge=1, le=100)
    """CG updates for the prox (Eq. 7), for operators without a closed form"""
    clamp_guided: bool = False
    """clamp a guided chunk's pixels to [-1, 1] between prox and encoder, as the official code does"""
    output_gamma: float = Field(3.0, ge=0, le=1e6)
    """strength of output consistency, one prox in pixels after the last decode (beyond the paper): 0 switches it off,
    else 1e-6 at least"""
    output_prox_steps: int = Field(5, ge=1, le=100)
    """CG updates for output consistency, for operators without a closed form"""
    condition: bool = True
    """let the denoiser see x_init and the operator (beyond the paper); false is the paper's zero-shot form"""
    use_cache: bool = True
    """let the denoiser see the restored prefix"""
    denoise: bool = True
    """false decodes x_init's latents without any denoising step: what the codec alone does"""

    @field_validator("output_gamma")
    @classmethod
    def _is_off_or_felt(cls, value: float) -> float:
        """Float32, in which the prox is computed, makes 0 / 0 of a strength that is next to nothing."""
        if 0 < value < LEAST_STRENGTH:
            raise ValueError(f"expected 0 or {LEAST_STRENGTH:g} at least, found {value:g}")
        return value

    @model_validator(mode="after")
    def _sharp_sees_the_measurement(self) -> SolverConfig:
        if self.tier == "sharp" and not self.condition:
            raise ValueError("tier sharp needs condition=true: without it the network sees no measurement")
        return self


Pixels = npt.NDArray[np.uint8]
"""Frames [T, H, W, 3], or one frame [H, W, 3]: RGB, 0..255."""

Mode = Literal["incoming", "simulate"]
"""Whether the frames that come in are the measurement y, or clean frames to which the engine applies A first."""

Panel = Literal["original", "degraded", "x_init", "restored", "trust"]
"""A picture of a chunk. `trust` shows what each restored pixel owes to the measurement: see core.trust."""


class TrustShares(Config):
    """Shares of a chunk's restored pixels, which add up to 1."""

    measured: float = Field(ge=0, le=1)
    """y holds the pixel alone, and the restored one agrees with it within 3 sigma"""
    inferred: float = Field(ge=0, le=1)
    """y holds no such value; what it does hold of the pixel, if anything, agrees"""
    departs: float = Field(ge=0, le=1)
    """what y holds of the pixel is further than 3 sigma from it"""
    lost: float = Field(ge=0, le=1)
    """the pixel's frame never came"""
