"""One face for everything that restores a whole recorded clip: ours, the plain methods and the rivals.

For comparison only: the engine and the server know nothing of it. A streaming method yields each chunk as it is done,
so the time to the first yield is its latency; a holistic one yields once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from core.chunks import CHUNKS, ChunkSpec
from core.contract import Rung, SolverConfig
from core.evaluation.baselines import baseline
from core.flow import add_noise, chunk_rng, timesteps
from core.models.base import Condition, Denoiser
from core.operators.base import LinearOperator
from core.operators.prox import least_squares, prox_l2
from core.solver import Solver, consistency, guided_pixels, remember


@dataclass(frozen=True)
class Part:
    """Restored frames, in order, as soon as a method has them."""

    x: Tensor
    """[T, 3, H, W] in [-1, 1]"""
    guided: int = 0
    """guided chunks among them"""


class ClipSolver(Protocol):
    """Restores a recorded clip."""

    def restore_clip(self, y: Tensor, operator: LinearOperator, seed: int, config: SolverConfig) -> Iterator[Part]:
        """The frames behind the whole measurement y [T, 3, h, w], where T fills its chunks, in display order."""
        ...


@dataclass(frozen=True)
class AvisClip:
    """Our solver, chunk by chunk, as the server runs it (Algorithm 1)."""

    solver: Solver
    rung: Rung = "full"
    spec: ChunkSpec = CHUNKS

    def restore_clip(self, y: Tensor, operator: LinearOperator, seed: int, config: SolverConfig) -> Iterator[Part]:
        state = None
        for part in y.split(self.spec.split(len(y))):
            state = state or self.solver.new_state(operator, *frame_size(operator, part), seed)
            restored, state = self.solver.restore(part, state, config, self.rung)
            yield Part(restored.x, int(restored.guided))


@dataclass(frozen=True)
class PlainClip:
    """The measurement as one sees it (`degraded`), or the plain method of the task (`baseline`)."""

    name: str
    spec: ChunkSpec = CHUNKS

    def restore_clip(self, y: Tensor, operator: LinearOperator, seed: int, config: SolverConfig) -> Iterator[Part]:
        def restore(part: Tensor) -> Tensor:
            return operator.show(part).clamp(-1, 1) if self.name == "degraded" else baseline(operator, part)

        return per_chunk(restore, y, operator, config, self.spec)


@torch.inference_mode()
def per_chunk(
    restore: Callable[[Tensor], Tensor],
    y: Tensor,
    operator: LinearOperator,
    config: SolverConfig,
    spec: ChunkSpec = CHUNKS,
) -> Iterator[Part]:
    """What a method that knows no past makes of each chunk, with output consistency where it is asked for."""
    past = None
    for part in y.split(spec.split(len(y))):
        x = consistent(operator, restore(part), part, past, config)
        past = remember(past, x, operator.reach)
        yield Part(x)


@dataclass(frozen=True)
class HolisticClip:
    """All frames of the clip at once: one bidirectional pass over all latents a step, guidance at every step.

    What latent diffusion solvers for recorded video do. On a causal backbone the pass lies outside its training.
    """

    solver: Solver

    @torch.inference_mode()
    def restore_clip(self, y: Tensor, operator: LinearOperator, seed: int, config: SolverConfig) -> Iterator[Part]:
        codec, clip = self.solver.codec, WholeClip(self.solver, y, operator, config)
        rng = chunk_rng(seed, 0, y.device)
        z = clip.z_init
        for t in timesteps(config.t0, config.num_steps or self.solver.num_steps):
            z = clip.estimate(add_noise(z, t, rng), t)  # Eq. 4
            x = guided_pixels(operator, codec.decode(z, None)[0], y, None, config)  # Eq. 7
            z = codec.encode(x, None)[0]  # Eq. 8
        x = codec.decode(z, None)[0]
        yield Part(consistent(operator, x, y, None, config), len(ChunkSpec().split(len(y))))


class WholeClip:
    """The start of a clip and its denoiser, with all latents in one call."""

    def __init__(self, solver: Solver, y: Tensor, operator: LinearOperator, config: SolverConfig):
        self.denoiser = solver.denoiser
        self.x_init = least_squares(operator, y, None, config.init_steps)  # Eq. 9
        self.z_init = solver.codec.encode(self.x_init, None)[0]
        self.condition = Condition(operator, y, self.x_init, self.z_init) if config.condition else None

    def estimate(self, z: Tensor, t: float) -> Tensor:
        """The clean estimate of all latents z [L, C, h, w] at time `t`, each of which sees all others."""
        cache = cache_for(self.denoiser, len(z), *self.x_init.shape[-2:])
        return self.denoiser(z, t, cache, self.condition)[0]


@runtime_checkable
class AnyLength(Protocol):
    """A denoiser whose cache fixes how many latents a call takes."""

    def cache_of(self, latents: int, height: int, width: int) -> Any:
        """An empty cache for calls with `latents` latents of `height` x `width` pixels."""
        ...


def cache_for(denoiser: Denoiser, latents: int, height: int, width: int) -> Any:
    """An empty cache for one call with `latents` latents, where a stream's own calls have three."""
    if isinstance(denoiser, AnyLength):
        return denoiser.cache_of(latents, height, width)
    return denoiser.new_cache(height, width)


def consistent(operator: LinearOperator, x: Tensor, y: Tensor, past: Tensor | None, config: SolverConfig) -> Tensor:
    """x with output consistency, where the settings ask for it, in [-1, 1]."""
    if config.output_gamma > 0:
        gamma = consistency(config.output_gamma, operator.noise)
        x = prox_l2(operator, x, y, past, gamma, config.output_prox_steps)
    return x.clamp(-1, 1)


def frame_size(operator: LinearOperator, y: Tensor) -> tuple[int, int]:
    """Height and width of the frames that y [T, 3, h, w] measures."""
    height, width = operator.show(y[:1]).shape[-2:]
    return height, width
