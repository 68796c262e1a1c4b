"""What the solver needs of a model. State goes in and comes out, so that a caller can try and discard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from core.contract import Tier
from core.operators.base import LinearOperator


@dataclass(frozen=True)
class Condition:
    """What a chunk's measurement says, for a denoiser that looks at it. The paper's form is no condition at all."""

    operator: LinearOperator
    y: Tensor
    """the measurement [T, 3, h, w]"""
    x_init: Tensor
    """the measurement-consistent start (Eq. 9), [T, 3, H, W] in [-1, 1]"""
    z_init: Tensor
    """its latents [L, C, h, w]"""
    tier: Tier = "faithful"
    """a denoiser of one tier takes no notice"""


class VideoCodec(Protocol):
    """A causal video autoencoder. `memory` is what earlier chunks left behind, None at the start of a stream.

    The first latent of a stream is one frame, each later one `spec.stride` frames.
    """

    def encode(self, x: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """Frames [T, 3, H, W] in [-1, 1] to latents [L, C, h, w], and the memory for the next chunk."""
        ...

    def decode(self, z: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """Latents [L, C, h, w] to frames [T, 3, H, W], and the memory for the next chunk."""
        ...


class Denoiser(Protocol):
    """A causal flow-matching model that returns the clean estimate, whatever it predicts inside."""

    @property
    def chunks_to_settle(self) -> int:
        """Chunks from a stream's start until its cache is full, so that each later one costs the same."""
        ...

    @property
    def backend(self) -> str:
        """The arithmetic in which it computes, as reports name it."""
        ...

    def new_cache(self, height: int, width: int) -> Any:
        """The empty cache of a stream of `height` x `width` pixels."""
        ...

    def __call__(self, z: Tensor, t: float, cache: Any, condition: Condition | None) -> tuple[Tensor, Any]:
        """The clean estimate of the noisy latents z [L, C, h, w] at time `t`, given the restored prefix (Eq. 4).

        Beside it the cache that `update_cache` takes: a network may leave in it what its features carry on.
        """
        ...

    def update_cache(self, z: Tensor, cache: Any) -> Any:
        """The cache with the clean latents z appended (Alg. 1, line 14); the old one stays valid until then."""
        ...
