"""The tiny model's denoiser: a U-shaped causal network that does its restoring at 1/4 resolution. Stateless.

Convolutions work at 1/4 resolution frame by frame (neighbouring frames reach it by shifting channels) and at 1/8
resolution latent by latent; at 1/16 resolution, windowed attention looks at the restored prefix through a KV cache. The
network sees the noisy latents and, when there is a condition, x_init, a second look at y, the mask of known pixels and
the task; it returns the clean estimate as a correction of x_init (or of the noisy latents, when it has no condition).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.config import Config
from core.models.base import Condition
from core.models.tiny.blocks import (
    MEMORY,
    MLP,
    AttentionLayer,
    ConvBlock,
    ShiftBlock,
    channels_last,
    embed,
    fold,
    pad_even,
    unfold,
    wave,
)
from core.models.tiny.codec import CHANNELS, STRIDE, TinyCodec, still_start
from core.models.tiny.motion import SOURCES, aligned

TASKS = (
    "none",
    "super_resolution",
    "inpainting",
    "gaussian_blur",
    "temporal_average",
    "spatio_temporal_average",
    "mask",
)
"""What a denoiser can be told about the operator; `none` is the paper's zero-shot form. The order is in the weights."""

LATENTS = 3
"""latents a chunk"""


class TinyConfig(Config):
    quarter: int = 48
    """channels at 1/4 resolution"""
    eighth: int = 160
    """channels at 1/8 resolution, for the four frames of a latent together"""
    width: int = 192
    """channels at 1/16 resolution"""
    heads: int = 3
    layers: int = 2
    """attention layers at 1/16 resolution"""
    window: int = 8
    """side of an attention window, in tokens of 16 pixels"""
    context: int = 3
    """latents of the restored prefix that attention sees"""


@dataclass(frozen=True)
class TinyCache:
    """What is kept of the restored prefix. Never changed in place."""

    index: int
    """latents restored so far"""
    keys: tuple[Tensor, ...] = ()
    """of each layer, [B, heads, windows, tokens, d], rotated to their absolute time"""
    values: tuple[Tensor, ...] = ()
    frames: Tensor | None = None
    """features of the last four frames at 1/4 resolution, [B, 4, H / 4, W / 4, memory channels]"""


@dataclass(frozen=True)
class Look:
    """The network's view of one chunk, for a batch of streams: slots are frames, the first one four times."""

    base: Tensor
    """what is corrected, [B, 4L, 3, H, W]"""
    hint: Tensor
    """a second look at y; `base` where there is none"""
    noisy: Tensor
    """the noisy frames"""
    moved: Tensor
    """x_init of the frames before and after, moved into the place of each, [B, SOURCES, 4L, 3, H, W]"""
    mask: Tensor
    """1 where y holds the pixel itself, -1 in a lost frame: of the frame, and of those before and after, moved
    likewise; [B, 1 or 4L, 1 + SOURCES, H, W]"""
    task: Tensor
    """index into TASKS, [B]"""


class TinyDenoiser(nn.Module):
    def __init__(self, codec: TinyCodec, config: TinyConfig | None = None):
        super().__init__()
        self.config = config = config or TinyConfig()
        self.transform, self.inverse = codec.transform, codec.inverse
        q, e, w = config.quarter, config.eighth, config.width
        self.time = nn.Linear(32, 128)
        self.task = nn.Embedding(len(TASKS), 128)
        self.stem = nn.Linear(16 * 9, q)
        self.moved_stem = nn.Linear(16 * 3 * SOURCES, q, bias=False)
        self.mask_stem = nn.Linear(16 * (1 + SOURCES), q, bias=False)
        self.memory_stem = nn.Linear(16 * 3, sum(MEMORY))
        self.down_blocks = nn.ModuleList([ShiftBlock(q, 128)])
        self.to_eighth = nn.Linear(4 * q, e // STRIDE)
        self.eighth_down = nn.ModuleList([ConvBlock(e, 128)])
        self.to_sixteenth = nn.Linear(4 * e, w)
        self.layers = nn.ModuleList([AttentionLayer(w, config.heads, 128) for _ in range(config.layers)])
        self.context = nn.Linear(4 * CHANNELS, w)
        self.context_mlp = MLP(w, 2 * w)
        self.from_sixteenth = nn.Linear(w, 4 * e)
        self.eighth_up = nn.ModuleList([ConvBlock(e, 128)])
        self.from_eighth = nn.Linear(e // STRIDE, 4 * q)
        self.up_blocks = nn.ModuleList([ShiftBlock(q, 128), ShiftBlock(q, 128)])
        self.out = nn.Linear(q, 16 * (3 + 1 + SOURCES))
        nn.init.normal_(self.out.weight, std=0.003)
        nn.init.zeros_(self.out.bias)
        nn.init.normal_(self.task.weight, std=0.3)

    @property
    def chunks_to_settle(self) -> int:
        return -(-self.config.context // LATENTS)

    def new_cache(self, height: int, width: int) -> TinyCache:
        return TinyCache(0)

    def __call__(self, z: Tensor, t: float, cache: TinyCache, condition: Condition | None) -> Tensor:
        """The clean estimate of z [L, 768, h, w] at time `t` in [0, 1)."""
        look = self.look(z, t, condition)
        return self.transform(self.restore(look, torch.tensor([t]), cache))[0]

    def look(self, z: Tensor, t: float, condition: Condition | None) -> Look:
        noisy = self.inverse(z[None]) / (1 - t)
        if condition is None:
            return blind(noisy)
        op, x = condition.operator, condition.x_init
        mask = op.reliability(len(x), *x.shape[-2:]).to(z)
        base, hint = slots(x)[None], slots(op.hint(condition.y))[None]
        moved, mask = surroundings(x, mask)
        task = torch.tensor([TASKS.index(op.kind)], device=z.device)
        return Look(base, hint, noisy, moved[None], mask[None], task)

    def restore(self, look: Look, t: Tensor, cache: TinyCache) -> Tensor:
        """The restored slots [B, 4L, 3, H, W]; `t` [B] or [1]."""
        e = self.time(wave(t).to(look.base)) + self.task(look.task)  # [B, 128]
        x = self.see(look)  # [B, T, h4, w4, C]
        for block in self.down_blocks:
            x = block(x, e, cache.frames)
        skip = x
        x = self.to_eighth(fold(x))  # [B, T, h8, w8, C / 4]
        x = x.unflatten(1, (-1, STRIDE)).permute(0, 1, 3, 4, 2, 5).flatten(4)  # [B, L, h8, w8, C]
        for block in self.eighth_down:
            x = block(x, e)
        skip8, grid = x, x.shape[2:4]
        x = self.to_sixteenth(fold(pad_even(x)))
        for index, layer in enumerate(self.layers):
            past = (cache.keys[index], cache.values[index]) if cache.keys else None
            x = layer(x, e, cache.index, past, self.config.window)
        x = unfold(self.from_sixteenth(x))[:, :, : grid[0], : grid[1]] + skip8
        for block in self.eighth_up:
            x = block(x, e)
        x = x.unflatten(4, (STRIDE, -1)).permute(0, 1, 4, 2, 3, 5).flatten(1, 2)  # [B, T, h8, w8, C / 4]
        x = unfold(self.from_eighth(x)) + skip
        for block in self.up_blocks:
            x = block(x, e, None)
        return self.gate(look, x)

    def gate(self, look: Look, x: Tensor) -> Tensor:
        """The base, corrected by what the features x [B, T, h4, w4, C] say, with the gates' share of hint and moved.

        Frame by frame, as its many full-size sums then stay in the processor's cache.
        """
        frames = []
        parts = [part.flatten(0, 1) for part in (x, look.base, look.hint, *look.moved.unbind(1))]
        for features, base, *sources in zip(*parts, strict=True):
            out = torch.addmm(self.out.bias[:, None], self.out.weight, features.flatten(0, 1).T)  # [C 4 4, h4 w4]
            out = F.pixel_shuffle(out.unflatten(1, features.shape[:2]), 4)
            frame = base + out[:3]
            for gate, source in zip(out[3:], sources, strict=True):
                frame = frame.addcmul(gate, source - base)
            frames.append(frame)
        return torch.stack(frames).view_as(look.base)

    def see(self, look: Look) -> Tensor:
        """Features at 1/4 resolution: the stem looks at base, at hint, noisy and moved, less the base, and at the mask.

        The differences are taken on the weights, not on the frames.
        """
        of_base, *of_others = self.stem.weight.unflatten(1, (3, 48)).unbind(1)
        of_others += self.moved_stem.weight.unflatten(1, (SOURCES, 48)).unbind(1)
        x = embed(look.base, of_base - sum(of_others), self.stem.bias)
        for part, weight in zip((look.hint, look.noisy, *look.moved.unbind(1)), of_others, strict=True):
            x.add_(embed(part, weight))
        x.add_(embed(look.mask, self.mask_stem.weight))
        x = F.leaky_relu(x, 0.1).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return channels_last(x, look.base.shape[1])

    def update_cache(self, z: Tensor, cache: TinyCache) -> TinyCache:
        return self.remember(z[None], cache)

    def remember(self, z: Tensor, cache: TinyCache) -> TinyCache:
        """The cache after clean latents z [B, L, 768, h, w]. Keeps the last `context` latents."""
        L = z.shape[1]
        tokens = self.context(fold(pad_even(z.permute(0, 1, 3, 4, 2))))
        tokens = tokens + self.context_mlp(tokens)
        kept = slice(-self.config.context, None)
        keys, values = [], []
        for index, layer in enumerate(self.layers):
            k, v = layer.keys_values(tokens, cache.index, self.config.window)  # [B, heads, n, L, tokens, d]
            if cache.keys:
                k, v = torch.cat([cache.keys[index], k], 3), torch.cat([cache.values[index], v], 3)
            keys.append(k[:, :, :, kept].contiguous())
            values.append(v[:, :, :, kept].contiguous())
        frames = embed(self.inverse(z[:, -1:]), self.memory_stem.weight, self.memory_stem.bias)
        return TinyCache(cache.index + L, tuple(keys), tuple(values), frames.permute(0, 1, 3, 4, 2).contiguous())


def blind(noisy: Tensor) -> Look:
    """The network's view where it has no condition: the noisy frames [B, 4L, 3, H, W] and nothing else."""
    B, _, _, H, W = noisy.shape
    moved = noisy[:, None].expand(B, SOURCES, *noisy.shape[1:])
    mask, task = noisy.new_zeros(B, 1, 1 + SOURCES, H, W), noisy.new_zeros(B, dtype=torch.long)
    return Look(noisy, noisy, noisy, moved, mask, task)


def surroundings(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """`Look.moved` and `Look.mask` of one stream's frames x [T, 3, H, W]; `mask` [1 or T, 1, H, W] tells the known."""
    moved, known = aligned(x, mask if mask.any() else None)
    mask = torch.cat([mask.expand(len(known), *mask.shape[1:]), known], 1)
    return torch.stack([slots(source) for source in moved]), slots(mask) if len(mask) > 1 else mask


def slots(x: Tensor) -> Tensor:
    """Frames as the network sees them: at a stream's start, where there are 1 + 4k, the first stands for four."""
    return still_start(x) if len(x) % STRIDE == 1 else x
