"""The flow-matching schedule: times and noise. Knows no model."""

from __future__ import annotations

import torch
from torch import Tensor


def timesteps(t0: float, num_steps: int) -> tuple[float, ...]:
    """The K = `num_steps` times of a chunk, evenly from `t0` down, without the final 0: (0.1, 0.05) for 0.1, 2.

    Un-shifted, and sigma = t exactly (the published code rounds to a table: 0.1011, 0.0481).
    """
    return tuple(t0 * (num_steps - k) / num_steps for k in range(num_steps))


def add_noise(z: Tensor, t: float, rng: torch.Generator) -> Tensor:
    """The state at time `t` in [0, 1] of clean latents z: (1 - t) z + t n, n ~ N(0, I) (Eq. 3, Eq. 10)."""
    noise = torch.randn(z.shape, generator=rng, dtype=torch.float32, device=rng.device).to(z)
    return (1 - t) * z + t * noise


def chunk_rng(seed: int, index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The noise source of chunk `index`: a function of the seed and the index, so a repeated chunk repeats.

    It draws on `device`, for which each kind of device has numbers of its own.
    """
    return torch.Generator(device).manual_seed((seed * 1_000_003 + index) % 2**63)
