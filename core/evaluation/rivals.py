"""The paper's rivals on our own prior: what each adds to the plain scheme, with our operators and our backbone.

None of them is the original: those need other weights. `_v` has the video prior alone, `_ar` runs it causally, and
`_style` keeps an idea and leaves the rest. All start from the same x_init as ours, which is better than their own
start, and their noise levels are scaled so that the first is `t0`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor

from core.chunks import ChunkSpec
from core.contract import SolverConfig
from core.evaluation.clip_solvers import (
    ClipSolver,
    HolisticClip,
    Part,
    WholeClip,
    cache_for,
    consistent,
    frame_size,
)
from core.evaluation.warp import flow, luminance, occluded, warp
from core.flow import add_noise, chunk_rng, timesteps
from core.models.base import Condition
from core.operators.base import LinearOperator
from core.operators.blur import blur_matrix
from core.operators.prox import conjugate_gradient, least_squares, prox_l2
from core.solver import Solver, StreamState, guided_pixels, remember

VIDEO_TIMES = (0.757, 0.522, 0.375, 0.255, 0.125)
"""of LVTINO's five video steps"""
IMAGE_TIMES = (0.499, 0.374, 0.249, 0.124, 0.124)
"""of its image steps; the first is never taken"""
STRONG = 200.0
"""LVTINO's strength of consistency for an operator that it was not tuned for: nearly a projection"""

VISION_STEPS = 8
"""VISION-XL's denoising steps"""
VISION_CG = 10
"""its CG updates a step: early stopping is its regulariser"""
SHARED = 0.2
"""share of its fresh noise, which all frames have in common, in each step's noise"""
LOW_PASS = 2.0
"""variance in square pixels of its low-pass, for each unit of the noise's share in the power"""


@dataclass(frozen=True)
class Lvtino:
    """LVTINO's loop: video step, consistency, image step, consistency, at five falling noise levels.

    Differs from the original: one prior for videos and frames (theirs: CausVid and SDXL), a fixed strength (theirs is
    tuned for each task), our x_init. As there, the last consistency step is not part of the result.
    """

    solver: Solver
    causal: bool = False
    """run the video step chunk by chunk, as the paper's Table 4 does; false: all latents at once"""

    @torch.inference_mode()
    def restore_clip(self, y: Tensor, operator: LinearOperator, seed: int, config: SolverConfig) -> Iterator[Part]:
        codec, clip = self.solver.codec, WholeClip(self.solver, y, operator, config)
        frames = FrameByFrame(self.solver, y, operator, config)
        rng, scale = chunk_rng(seed, 0, y.device), config.t0 / VIDEO_TIMES[0]
        x = clip.x_init
        for step, (video, image) in enumerate(zip(VIDEO_TIMES, IMAGE_TIMES, strict=True)):
            if step:
                x = strongly_consistent(operator, frames(x, image * scale, rng), y, config)
            t = video * scale
            z = add_noise(codec.encode(x, None)[0], t, rng)
            z = rollout(self.solver, clip, z, t) if self.causal else clip.estimate(z, t)
            restored = codec.decode(z, None)[0]
            x = strongly_consistent(operator, restored, y, config)
        yield Part(consistent(operator, restored, y, None, config), len(ChunkSpec().split(len(y))))


def strongly_consistent(operator: LinearOperator, x: Tensor, y: Tensor, config: SolverConfig) -> Tensor:
    """LVTINO's prox, whose strength is not relative to the operator's norm as ours is."""
    return prox_l2(operator, x, y, None, STRONG * operator.norm**2, config.prox_steps).clamp(-1, 1)


def rollout(solver: Solver, clip: WholeClip, z: Tensor, t: float) -> Tensor:
    """One denoising step of the whole clip, chunk after chunk, each of which sees the clean ones before it."""
    latents, spec = ChunkSpec().latents, ChunkSpec()
    cache = solver.denoiser.new_cache(*clip.x_init.shape[-2:])
    found, start = [], 0
    for index, part in enumerate(z.split(latents)):
        span = slice(start, start := start + spec.frames(index))
        condition = None if clip.condition is None else part_of(clip.condition, span, slice(index * latents, None))
        clean, cache = solver.denoiser(part, t, cache, condition)
        cache = solver.denoiser.update_cache(clean, cache)
        found.append(clean)
    return torch.cat(found)


def part_of(condition: Condition, frames: slice, latents: slice) -> Condition:
    """What a condition says of some of its frames."""
    z = condition.z_init[latents][: ChunkSpec().latents]
    return replace(condition, y=condition.y[frames], x_init=condition.x_init[frames], z_init=z)


@dataclass(frozen=True)
class FrameByFrame:
    """The denoiser as a prior of single frames, each of which starts a stream of its own.

    A frame of an operator that looks at several has no measurement of its own: its denoiser sees no condition then.
    """

    solver: Solver
    y: Tensor
    operator: LinearOperator
    config: SolverConfig

    def __call__(self, x: Tensor, t: float, rng: torch.Generator) -> Tensor:
        """Frames x, noised to time `t` with the same noise for all, and denoised one by one."""
        z = self.encode(x)
        noise = torch.randn(z.shape[1:], generator=rng, device=rng.device).to(z)
        return self.decode(self.estimate((1 - t) * z + t * noise, t, x))

    def encode(self, x: Tensor) -> Tensor:
        """Each frame as the one latent of its own stream, [T, C, h, w]."""
        return torch.cat([self.solver.codec.encode(frame[None], None)[0] for frame in x])

    def decode(self, z: Tensor) -> Tensor:
        return torch.cat([self.solver.codec.decode(latent[None], None)[0] for latent in z])

    def estimate(self, z: Tensor, t: float, x_init: Tensor) -> Tensor:
        """The clean estimates of all frames' latents at time `t`; `x_init` is what a condition shows."""
        alone, denoiser = not (self.operator.reach or self.operator.lookback), self.solver.denoiser
        conditioned = self.config.condition and alone
        found = []
        for index, latent in enumerate(z.split(1)):
            one = slice(index, index + 1)
            condition = Condition(self.operator, self.y[one], x_init[one], latent) if conditioned else None
            cache = cache_for(denoiser, 1, *x_init.shape[-2:])
            found.append(denoiser(latent, t, cache, condition)[0])
        return torch.cat(found)


@dataclass(frozen=True)
class VisionXLStyle:
    """VISION-XL's loop: every frame by itself, joined by common noise and by least squares over the whole clip.

    Differs from the original: our prior in place of SDXL, flow matching in place of DDIM, and every frame starts from
    its own x_init, where theirs all start from the first frame's inverted latent. Its result is the last clean
    estimate before consistency, as there.
    """

    solver: Solver

    @torch.inference_mode()
    def restore_clip(self, y: Tensor, operator: LinearOperator, seed: int, config: SolverConfig) -> Iterator[Part]:
        frames, rng = FrameByFrame(self.solver, y, operator, config), chunk_rng(seed, 0, y.device)
        x_init = least_squares(operator, y, None, config.init_steps)
        z = frames.encode(x_init)
        times = (*timesteps(config.t0, VISION_STEPS), 0.0)
        shared = torch.randn(z.shape[1:], generator=rng, device=rng.device).to(z)
        z = (1 - times[0]) * z + times[0] * shared
        for t, after in pairwise(times):
            clean = frames.estimate(z, t, x_init)
            restored = frames.decode(clean)
            if not after:
                break
            noise = (z - (1 - t) * clean) / t
            fresh = torch.randn(z.shape[1:], generator=rng, device=rng.device).to(z)
            x = low_pass(fitted(operator, restored, y), sqrt(LOW_PASS * t**2 / (t**2 + (1 - t) ** 2)))
            z = (1 - after) * frames.encode(x) + after * (SHARED * fresh + sqrt(1 - SHARED**2) * noise)
        yield Part(consistent(operator, restored, y, None, config), len(ChunkSpec().split(len(y))))


def fitted(operator: LinearOperator, x: Tensor, y: Tensor) -> Tensor:
    """A few CG updates of plain least squares from x."""
    normal = operator.A_adjoint(y)
    return conjugate_gradient(lambda u: operator.A_adjoint(operator.A_linear(u)), normal, x, VISION_CG).clamp(-1, 1)


def low_pass(x: Tensor, sigma: float) -> Tensor:
    """Frames under a Gaussian of `sigma` pixels."""
    rows, columns = (blur_matrix(size, sigma).to(x) for size in x.shape[-2:])
    return rows @ x @ columns.T


@dataclass(frozen=True)
class FlowWarpStyle:
    """AVIS Flash whose first clean estimate is steadied by optical flow, as DiffIR2VR-Zero steadies its own.

    Each frame takes what the chunk's middle frame shows of it, and that one what the middle frame of the chunk before
    shows. Differs from the original: our prior and our consistency (theirs is blind), frames are warped in place of
    latents, flow comes from DIS on x_init, and there is no token merging: our attention spans the frames already.
    """

    solver: Solver

    @torch.inference_mode()
    def restore_clip(self, y: Tensor, operator: LinearOperator, seed: int, config: SolverConfig) -> Iterator[Part]:
        state: StreamState | None = None
        key = None
        for part in y.split(ChunkSpec().split(len(y))):
            state = state or self.solver.new_state(operator, *frame_size(operator, part), seed)
            guided = self.solver.is_guided(state, config, "full")
            x, key, state = self._chunk(part, state, config, guided, key)
            yield Part(x, int(guided))

    def _chunk(
        self, y: Tensor, state: StreamState, config: SolverConfig, guided: bool, key: Key | None
    ) -> tuple[Tensor, Key, StreamState]:
        """One chunk of Algorithm 1, with the warping after the first clean estimate."""
        codec, denoiser, op = self.solver.codec, self.solver.denoiser, state.operator
        x_init = least_squares(op, y, state.y_past, config.init_steps, state.x_past)
        z_init, encoder = codec.encode(x_init, state.encoder)
        condition = Condition(op, y, x_init, z_init) if config.condition else None
        rng, z, cache = chunk_rng(state.seed, state.index, y.device), z_init, state.cache
        times = timesteps(config.t0, config.num_steps or self.solver.num_steps)
        for t in times:
            z, seen = denoiser(add_noise(z, t, rng), t, cache, condition)
            if not (guided or t == times[0]):
                continue
            x = codec.decode(z, state.decoder)[0]
            if t == times[0]:
                x, after = steadied(x, x_init, key)
            if guided:
                x = guided_pixels(op, x, y, state.past, config)
            z = codec.encode(x, state.encoder)[0]
        x, decoder = codec.decode(z, state.decoder)
        x = consistent(op, x, y, state.past, config)
        return x, after, advanced(state, x, y, denoiser.update_cache(z, seen), encoder, decoder)


@dataclass(frozen=True)
class Key:
    """A chunk's middle frame, which the others are warped from."""

    look: Tensor
    """of x_init, [1, 3, H, W]: what flow is measured on"""
    x: Tensor
    """its clean estimate"""


def steadied(x: Tensor, x_init: Tensor, before: Key | None) -> tuple[Tensor, Key]:
    """Clean estimates x [T, 3, H, W], each replaced by its key frame, moved into place, where that shows it."""
    middle = len(x) // 2
    look = x_init[middle : middle + 1]
    key = x[middle : middle + 1]
    if before is not None:
        key = shown(before, look, key)
    found = Key(look, key)
    others = [key if i == middle else shown(found, x_init[i : i + 1], x[i : i + 1]) for i in range(len(x))]
    return torch.cat(others), found


def shown(key: Key, look: Tensor, x: Tensor) -> Tensor:
    """x, where the key frame shows its pixel too, as the key frame shows it."""
    source, target = (luminance(frame)[0] for frame in (look, key.look))
    back, forth = flow(source, target), flow(target, source)
    visible = torch.from_numpy(~occluded(back, forth)).to(x)
    return torch.lerp(x, warp(key.x, back), visible)


def advanced(state: StreamState, x: Tensor, y: Tensor, cache: object, encoder: object, decoder: object) -> StreamState:
    """The stream's state after a chunk, as `Solver.restore` leaves it."""
    op = state.operator
    return replace(
        state,
        index=state.index + 1,
        cache=cache,
        encoder=encoder,
        decoder=decoder,
        grounded=True,
        y_past=remember(state.y_past, y, max(1, op.lookback)),
        x_past=remember(state.x_past, x, max(op.reach, op.recall)),
    )


RIVALS: dict[str, Callable[[Solver], ClipSolver]] = {
    "holistic": HolisticClip,
    "lvtino_v": Lvtino,
    "lvtino_ar": partial(Lvtino, causal=True),
    "vision_xl_style": VisionXLStyle,
    "flow_warp_style": FlowWarpStyle,
}
"""The rivals by name"""
