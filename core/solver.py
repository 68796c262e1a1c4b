"""AVIS and AVIS Flash: Algorithm 1 of the paper, one chunk at a time. A stream's state goes in and comes out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from core.contract import Rung, SolverConfig
from core.flow import add_noise, chunk_rng, timesteps
from core.models.base import Condition, Denoiser, VideoCodec
from core.operators.base import LinearOperator
from core.operators.lost import mask_lost_frames
from core.operators.prox import least_squares, prox_l2

Stage = Callable[[str], AbstractContextManager[Any]]
"""Called with a stage's name around its work, by a caller that owns a clock."""


def untimed(name: str) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class StreamState:
    """All that one stream carries from chunk to chunk. Frozen: a failed chunk leaves it as it was."""

    operator: LinearOperator
    cache: Any
    """keys and values of the restored prefix"""
    seed: int = 0
    index: int = 0
    """chunks restored so far"""
    encoder: Any = None
    decoder: Any = None
    y_past: Tensor | None = None
    """the last measurement frames: `operator.lookback` of them, and one at least"""
    x_past: Tensor | None = None
    """the last restored frames: as many as `operator.reach` or `operator.recall`, whichever is more"""
    grounded: bool = False
    """false: the next chunk is guided, whatever the calendar says"""
    residual: float | None = None
    """relative residual of the last chunk before output consistency"""
    guided_residual: float | None = None
    """the same of the last guided chunk"""

    @property
    def past(self) -> Tensor | None:
        """The restored frames before the chunk that A mixes in."""
        return None if self.x_past is None else self.x_past[-self.operator.reach :]

    def change_operator(self, operator: LinearOperator) -> StreamState:
        """The same stream under another operator, which starts anew: no measurement history, next chunk guided."""
        return replace(self, operator=operator, y_past=None, x_past=None, grounded=False)


@dataclass(frozen=True)
class Restored:
    """One restored chunk."""

    x: Tensor
    """frames [T, 3, H, W] in [-1, 1]"""
    x_init: Tensor
    guided: bool
    residual: float
    """|y - A x| / |y| of the frames that are returned"""


class Solver:
    """Restores the chunks of any number of streams with one codec and one denoiser."""

    def __init__(self, codec: VideoCodec, denoiser: Denoiser, num_steps: int = 2):
        self.codec = codec
        self.denoiser = denoiser
        self.num_steps = num_steps

    def new_state(self, operator: LinearOperator, height: int, width: int, seed: int = 0) -> StreamState:
        return StreamState(operator, self.denoiser.new_cache(height, width), seed)

    @torch.inference_mode()
    def restore(
        self,
        y: Tensor,
        state: StreamState,
        config: SolverConfig,
        rung: Rung = "full",
        stage: Stage = untimed,
        lost: tuple[int, ...] = (),
    ) -> tuple[Restored, StreamState]:
        """Restores the next chunk of a stream: y -> x, and the state after it (Algorithm 1).

        `y` [T, 3, h, w] is the measurement of `ChunkSpec.frames(state.index)` frames, of which those with the indices
        `lost` never came. `state` is not changed. Raises ValueError where nothing is left to restore from.
        """
        op, past = mask_lost_frames(state.operator, lost), state.past
        with stage("x_init"):
            y = op.completed(y, state.y_past)
            x_init = least_squares(op, y, state.y_past, config.init_steps, state.x_past)  # Eq. 9
        if rung == "x_init":
            skipped = self._skip(x_init, state, stage)
            return self._finish(op, y, x_init, x_init, False, skipped, config, stage)
        with stage("encode"):
            z_init, encoder = self.codec.encode(x_init, state.encoder)
        condition = Condition(op, y, x_init, z_init, config.tier) if config.condition else None
        cache = state.cache if config.use_cache else self.denoiser.new_cache(*x_init.shape[-2:])
        rng = chunk_rng(state.seed, state.index, z_init.device)
        guided = self.is_guided(state, config, rung)
        z, seen = z_init, cache
        for t in self._times(config, rung):
            with stage("denoise"):
                z, seen = self.denoiser(add_noise(z, t, rng), t, cache, condition)  # Eq. 10 / 5, then Eq. 4
            if guided:
                with stage("prox"):
                    x, _ = self.codec.decode(z, state.decoder)  # Eq. 6
                    x = guided_pixels(op, x, y, past, config)  # Eq. 7
                    z, _ = self.codec.encode(x, state.encoder)  # Eq. 8
        with stage("decode"):
            x, decoder = self.codec.decode(z, state.decoder)
        with stage("cache"):
            cache = self.denoiser.update_cache(z, seen)  # Alg. 1, line 14
        after = replace(state, cache=cache, encoder=encoder, decoder=decoder, grounded=state.grounded or guided)
        return self._finish(op, y, x, x_init, guided, after, config, stage)

    def _skip(self, x_init: Tensor, state: StreamState, stage: Stage) -> StreamState:
        """The state when a chunk passes the model by: ungrounded, and with codec memories even at a stream's start.

        There they are those of a stream that begins with the chunk's last frame, which is a ninth of the work.
        """
        if state.encoder is not None:
            return replace(state, grounded=False)
        with stage("encode"):
            z, encoder = self.codec.encode(x_init[-1:], None)
        with stage("decode"):
            _, decoder = self.codec.decode(z, None)
        return replace(state, encoder=encoder, decoder=decoder, grounded=False)

    def is_guided(self, state: StreamState, config: SolverConfig, rung: Rung) -> bool:
        """Whether the next chunk is guided: when ungrounded, on the calendar, or when the residual asks."""
        if not state.grounded:
            return True
        if rung not in ("full", "one_step"):
            return False
        every = config.reinject_every
        due = every > 0 and (state.index + config.reinject_phase) % every == 0
        drifted = (
            config.reinject_residual > 0
            and state.residual is not None
            and state.guided_residual is not None
            and state.residual > config.reinject_residual * state.guided_residual
        )
        return due or drifted

    def _times(self, config: SolverConfig, rung: Rung) -> tuple[float, ...]:
        if not config.denoise:
            return ()
        return timesteps(config.t0, (config.num_steps or self.num_steps) if rung == "full" else 1)

    @staticmethod
    def _finish(
        op: LinearOperator,
        y: Tensor,
        x: Tensor,
        x_init: Tensor,
        guided: bool,
        state: StreamState,
        config: SolverConfig,
        stage: Stage,
    ) -> tuple[Restored, StreamState]:
        """Output consistency, the residual, and what the next chunk must remember."""
        with stage("prox"):
            drift = op.residual(x, y, state.past)
            residual = drift
            if config.output_gamma > 0:
                gamma = consistency(config.output_gamma, op.noise)
                x = prox_l2(op, x, y, state.past, gamma, config.output_prox_steps)
                residual = op.residual(x, y, state.past)
            x = x.clamp(-1, 1)
        after = replace(
            state,
            index=state.index + 1,
            y_past=remember(state.y_past, y, max(1, op.lookback)),
            x_past=remember(state.x_past, x, max(op.reach, op.recall)),
            residual=drift,
            guided_residual=drift if guided else state.guided_residual,
        )
        return Restored(x, x_init, guided, residual), after


def guided_pixels(op: LinearOperator, x: Tensor, y: Tensor, past: Tensor | None, config: SolverConfig) -> Tensor:
    """A guided chunk's pixels before they are encoded again (Eq. 7), in [-1, 1] where `clamp_guided` asks for it."""
    x = prox_l2(op, x, y, past, consistency(config.gamma, op.noise), config.prox_steps)
    return x.clamp(-1, 1) if config.clamp_guided else x


def consistency(gamma: float, noise: float) -> float:
    """The strength of measurement consistency under this noise: `gamma` up to 0.01, above it falling as 1 / noise^2.

    A least-squares weight is a ratio of variances: the estimate's error over the measurement's noise.
    """
    return gamma * min(1.0, (0.01 / noise) ** 2)


def remember(past: Tensor | None, frames: Tensor, count: int) -> Tensor | None:
    """The last `count` frames of `past` followed by `frames`; None when nothing need be remembered."""
    if count == 0:
        return None
    together = frames if past is None else torch.cat([past, frames])
    return together[-count:].clone()
