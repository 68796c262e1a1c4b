"""One model on one device and the state of every stream on it. Synchronous; one thread calls it; knows no clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.chunks import CHUNKS, ChunkSpec
from core.coding import new_coder
from core.contract import Mode, Panel, Pixels, Rung, SolverConfig, TrustShares
from core.evaluation.metrics import change_ratio, psnr
from core.memory import tensor_bytes, tensors
from core.models.load import Model
from core.operators.lost import mask_lost_frames
from core.operators.table import Operator
from core.solver import Restored, Solver, Stage, StreamState, remember, untimed
from core.trust import picture_of, shares_of, trust_codes
from core.video import from_pixels, to_pixels


@dataclass
class _Stream:
    mode: Mode
    height: int
    width: int
    seed: int
    state: StreamState
    spec: ChunkSpec
    clean_past: Tensor | None = None
    """simulate only: the last `operator.reach` clean frames"""
    coder: Callable[[Tensor], Tensor] | None = None
    """simulate only: an encoder and decoder that the measurement passes; a failed chunk has passed it all the same"""


@dataclass(frozen=True)
class ChunkResult:
    """What came of one chunk."""

    panels: Pixels
    """frames [T, H, W * number of panels, 3]: the panels that were asked for, side by side"""
    guided: bool
    residual: float
    """|y - A x| / |y|"""
    psnr: float | None = None
    """dB against the clean frames, in simulate mode"""
    psnr_x_init: float | None = None
    flicker: float | None = None
    """how much the restored frames change from one to the next where the clean ones (incoming: x_init) change by 1"""
    trust: TrustShares | None = None
    """where the panel `trust` was asked for"""


class Engine:
    """Opens, steps and closes streams. A failed step leaves its stream, and every other, as it was."""

    def __init__(self, model: Model):
        self.model = model
        self.solver = Solver(model.codec, model.denoiser, model.num_steps)
        self._streams: dict[str, _Stream] = {}

    def open(
        self,
        stream_id: str,
        operator: Operator,
        mode: Mode,
        height: int,
        width: int,
        seed: int = 0,
        spec: ChunkSpec = CHUNKS,
        coding: str | None = None,
    ) -> None:
        """Opens a stream of `height` x `width` restored pixels, both multiples of 16, in chunks as `spec` tells.

        With `coding`, as jpeg:40, a simulated measurement passes that encoder and decoder. Raises ValueError for a
        size or chunks that the model or the operator cannot take, for an id that is open, or for what is no coding.
        """
        if stream_id in self._streams:
            raise ValueError(f"stream {stream_id} is open already")
        if height % 16 or width % 16:
            raise ValueError(f"the size must be a multiple of 16 each way, not {width}x{height}")
        if spec.latents not in self.model.latents:
            known = " or ".join(map(str, self.model.latents))
            raise ValueError(f"model {self.model.name} takes chunks of {known} latents, not {spec.latents}")
        operator.prepare(height, width)
        state = self.solver.new_state(operator, height, width, seed)
        coder = new_coder(coding, *operator.measurement_size(height, width)) if coding else None
        self._streams[stream_id] = _Stream(mode, height, width, seed, state, spec, coder=coder)

    def frames(self, stream_id: str) -> int:
        """How many frames the next chunk of a stream has."""
        stream = self._streams[stream_id]
        return stream.spec.frames(stream.state.index)

    def step(
        self,
        stream_id: str,
        frames: Pixels,
        operator: Operator,
        config: SolverConfig,
        rung: Rung = "full",
        panels: tuple[Panel, ...] = ("restored",),
        stage: Stage = untimed,
        gap: bool = False,
        lost: tuple[int, ...] = (),
    ) -> ChunkResult:
        """Restores the next chunk of a stream; a changed `operator` starts anew with this chunk.

        `gap` says that frames are missing before this chunk: an operator that remembers frames starts anew too.
        `lost` are the indices of frames of this chunk that never came: whatever `frames` holds there is not looked at.

        Raises KeyError for a stream that is not open, ValueError for a wrong number or size of frames, for the panel
        `original` of incoming frames, which nobody knows, or when every frame of a stream's opening chunk is lost, and
        FloatingPointError when the result is not finite.
        """
        stream = self._streams[stream_id]
        state, clean_past = stream.state, stream.clean_past
        if operator != state.operator or (gap and (operator.reach or operator.lookback)):
            operator.prepare(stream.height, stream.width)
            state, clean_past = state.change_operator(operator), None
        self._check(stream_id, frames, operator, panels)
        x = from_pixels(frames, self.model.device)
        with stage("simulate") if stream.mode == "simulate" else untimed("simulate"):
            y, clean_past = measured(stream, x, operator, state.index, clean_past)
        before = state
        restored, state = self.solver.restore(y, before, config, rung, stage, lost)
        if not restored.x.sum().isfinite():  # clamped, so nothing but NaN is not finite
            raise FloatingPointError(f"chunk {state.index - 1} of stream {stream_id} is not finite")
        trust, pictures = None, {}
        if "trust" in panels:
            with stage("trust"):
                codes = codes_of(restored, y, before, lost)
                trust, pictures = shares_of(codes), {"trust": picture_of(codes)}
        with stage("transfer"):
            views = {"original": x, "degraded": y, "x_init": restored.x_init, "restored": restored.x}
            side_by_side = beside(panels, views, operator, pictures)
        scores = score(restored, x if stream.mode == "simulate" else None, lost)
        stream.state, stream.clean_past = state, clean_past  # commit
        return ChunkResult(side_by_side, restored.guided, restored.residual, *scores, trust)

    def close(self, stream_id: str) -> None:
        """Forgets a stream. Closing one that is not open is no error: it may have died with its device."""
        self._streams.pop(stream_id, None)

    def session_bytes(self, stream_id: str) -> int:
        """Bytes of the tensors that a stream carries from chunk to chunk."""
        return tensor_bytes(self._streams[stream_id])

    def check_integrity(self) -> None:
        """Raises AssertionError when a stream reaches memory of another."""
        owners: dict[int, str] = {}
        for stream_id, stream in self._streams.items():
            for tensor in tensors(stream):
                if tensor.untyped_storage().nbytes():
                    owner = owners.setdefault(tensor.untyped_storage().data_ptr(), stream_id)
                    assert owner == stream_id, f"streams {owner} and {stream_id} share memory"

    def _check(self, stream_id: str, frames: Pixels, operator: Operator, panels: tuple[Panel, ...]) -> None:
        stream = self._streams[stream_id]
        height, width = stream.height, stream.width
        if stream.mode == "incoming":
            height, width = operator.measurement_size(height, width)
            if "original" in panels:
                raise ValueError("the original of incoming frames is not known: they are the measurement")
        expected = (self.frames(stream_id), height, width, 3)
        if frames.shape != expected:
            raise ValueError(f"expected frames of shape {expected}, found {frames.shape}")


def measured(
    stream: _Stream, x: Tensor, operator: Operator, index: int, clean_past: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The measurement of chunk `index`, and the clean frames to remember; incoming frames are the measurement."""
    if stream.mode == "incoming":
        return operator.observed(x), clean_past
    rng = torch.Generator(x.device).manual_seed(stream.seed * 1009 + index)
    y = operator.measure(x, clean_past, rng)
    if stream.coder is not None:
        y = operator.observed(stream.coder(y))
    return y, remember(clean_past, x, operator.reach)


def beside(
    panels: tuple[Panel, ...], views: dict[str, Tensor], operator: Operator, pictures: dict[str, Pixels]
) -> Pixels:
    """A chunk's panels side by side, [T, H, W * number of panels, 3]: of `views`, or drawn already, in `pictures`."""
    views = {
        panel: operator.show(view) if panel == "degraded" else view for panel, view in views.items() if panel in panels
    }
    pictures = pictures | {panel: to_pixels(view) for panel, view in views.items()}
    return np.concatenate([pictures[panel] for panel in panels], axis=2)


def codes_of(restored: Restored, y: Tensor, before: StreamState, lost: tuple[int, ...]) -> Pixels:
    """The trust codes [T, H, W] of a chunk, restored from `y` and the state `before` it.

    A chunk is judged on one channel, the next one on the next: a third of the work, and none is left out.
    """
    operator = mask_lost_frames(before.operator, lost)
    channel = slice(before.index % 3, before.index % 3 + 1)
    past = None if before.past is None else before.past[:, channel]
    x, x_init, y = (frames[:, channel] for frames in (restored.x, restored.x_init, y))
    codes: Pixels = trust_codes(operator, x, x_init, y, past).cpu().numpy()
    return codes


def score(
    restored: Restored, clean: Tensor | None, lost: tuple[int, ...]
) -> tuple[float | None, float | None, float | None]:
    """PSNR (dB) of the restored frames and of x_init against the clean ones, and flicker, without the lost frames.

    Flicker is taken from every fourth row. Where nobody knows the clean frames it is that over x_init.
    """
    known = [index for index in range(len(restored.x)) if index not in lost] if lost else slice(None)
    if not known:
        return None, None, None
    x, x_init = restored.x[known], restored.x_init[known]
    if clean is None:
        return None, None, change_ratio(x[..., ::4, :], x_init[..., ::4, :])
    clean = clean[known]
    return psnr(x, clean), psnr(x_init, clean), change_ratio(x[..., ::4, :], clean[..., ::4, :])
