"""The tiny model's denoiser: a U-shaped causal network that does its restoring at 1/4 resolution. Stateless.

    resolution  channels   what happens there
    1           3 a frame  base, hint, noisy, moved neighbours, masks in; correction and gates out
    1/4         48         stem -> shift block ------------------(skip)-> backward sweep -> forward sweep -> out
                           |                                                             or sharp sweep -> sharp out
    1/8         160 / 4    |       to_eighth -> conv block ------(skip)-> conv block -> from_eighth |
    1/16        192 / 4    |                    to_sixteenth -> 2 attention layers -> from_sixteenth

Convolutions at 1/4 resolution work frame by frame, those at 1/8 on the four frames of a latent together; at 1/16,
windowed attention looks at the restored prefix through a KV cache. In the sweeps features travel from frame to frame
along the motion: backward inside the chunk, then forward from the last frame of the chunk before. The forward sweep and
what follows are there twice, once for each tier: trained for the smallest error, and for a perceptual distance, too.

The network sees the noisy latents and, when there is a condition, x_init, a second look at y, the mask of known pixels,
the task and the noise level; it returns the clean estimate as a correction of x_init (or of the noisy latents, when it
has no condition).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from core.config import Config
from core.contract import Tier
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
from core.models.tiny.motion import SOURCES, motion
from core.models.tiny.sweeps import Sweep, plans

TASKS = (
    "none",
    "super_resolution",
    "inpainting",
    "gaussian_blur",
    "temporal_average",
    "spatio_temporal_average",
    "mask",
    "denoise",
)
"""What a denoiser can be told about the operator; `none` is the paper's zero-shot form. The order is in the weights."""

USUAL_NOISE = 0.01
"""the noise level that most measurements have"""

FLOAT32 = ("stem", "moved_stem", "mask_stem", "memory_stem", "out", "sharp_out", "time", "task", "level")
"""Layers that touch pixels, or are small: they stay in float32 where the others compute in bfloat16."""

LATENTS = 3
"""latents a chunk"""


class TinyConfig(Config):
    quarter: int = Field(48, ge=1, le=4096)
    """channels at 1/4 resolution"""
    eighth: int = Field(160, ge=1, le=4096)
    """channels at 1/8 resolution, for the four frames of a latent together"""
    width: int = Field(192, ge=1, le=4096)
    """channels at 1/16 resolution"""
    heads: int = Field(3, ge=1, le=64)
    layers: int = Field(2, ge=0, le=64)
    """attention layers at 1/16 resolution"""
    window: int = Field(8, ge=1, le=64)
    """side of an attention window, in tokens of 16 pixels"""
    context: int = Field(3, ge=0, le=64)
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
    hidden: Tensor | None = None
    """what the forward sweep of the tier carries: features of the last frame at 1/4 resolution, [B, H / 4, W / 4, C]"""
    last: Tensor | None = None
    """x_init of the last frame and its mask, [B, 4, H, W]"""
    tier: Tier = "faithful"
    """whose features `hidden` are"""


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
    flows: Tensor | None
    """where the frames before and after show each pixel, at 1/4 resolution, [B, SOURCES, 4L, H / 4, W / 4, 2]"""
    linked: Tensor
    """whether they show the same scene, [B, SOURCES, 4L], bool, on the CPU"""
    level: Tensor
    """standard deviation of the measurement noise, [B]"""


class TinyDenoiser(nn.Module):
    def __init__(self, codec: TinyCodec, config: TinyConfig | None = None):
        super().__init__()
        self.config = config = config or TinyConfig()
        self.transform, self.inverse = codec.transform, codec.inverse
        q, e, w = config.quarter, config.eighth, config.width
        self.time = nn.Linear(32, 128)
        self.task = nn.Embedding(len(TASKS), 128)
        self.level = nn.Linear(2, 128)
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
        self.backward_sweep, self.forward_sweep = Sweep(q, 128, 1), Sweep(q, 128, 2)
        self.out = nn.Linear(q, 16 * (3 + 1 + SOURCES))
        self.sharp_sweep, self.sharp_out = Sweep(q, 128, 2), nn.Linear(q, 16 * (3 + 1 + SOURCES))
        for out in (self.out, self.sharp_out):
            nn.init.normal_(out.weight, std=0.003)
            nn.init.zeros_(out.bias)
        nn.init.normal_(self.task.weight, std=0.3)
        nn.init.zeros_(self.level.weight)
        nn.init.zeros_(self.level.bias)

    @torch.no_grad()
    def drop_sharp_tier(self) -> None:
        """Makes the sharp tier's own layers copies of the faithful ones."""
        self.sharp_sweep.load_state_dict(self.forward_sweep.state_dict())
        self.sharp_out.load_state_dict(self.out.state_dict())

    @property
    def chunks_to_settle(self) -> int:
        return -(-self.config.context // LATENTS)

    @property
    def backend(self) -> str:
        return str(self.to_eighth.weight.dtype).removeprefix("torch.")

    def new_cache(self, height: int, width: int) -> TinyCache:
        return TinyCache(0)

    def __call__(self, z: Tensor, t: float, cache: TinyCache, condition: Condition | None) -> tuple[Tensor, TinyCache]:
        """The clean estimate of z [L, 768, h, w] at time `t` in [0, 1), and the cache with the features that go on."""
        look = self.look(z, t, cache, condition)
        tier = "faithful" if condition is None else condition.tier
        x, hidden = self.restore(look, torch.tensor([t]), cache, tier)
        last = None if condition is None else torch.cat([look.base[:, -1], look.mask[:, -1, :1]], 1)
        return self.transform(x)[0], replace(cache, hidden=hidden[:, -1], last=last, tier=tier)

    def look(self, z: Tensor, t: float, cache: TinyCache, condition: Condition | None) -> Look:
        noisy = self.inverse(z[None]) / (1 - t)
        if condition is None:
            return blind(noisy)
        op, x = condition.operator, condition.x_init
        mask = op.reliability(len(x), *x.shape[-2:]).to(z)
        base, hint = slots(x)[None], slots(op.hint(condition.y))[None]
        around = surroundings(x, mask, None if cache.last is None else cache.last[0])
        task = torch.tensor([task_of(op.task)], device=z.device)
        level = torch.tensor([op.noise], device=z.device)
        moved, mask, flows, linked = (p[None] for p in (around.moved, around.mask, around.flows, around.linked))
        return Look(base, hint, noisy, moved, mask, task, flows, linked, level)

    def restore(self, look: Look, t: Tensor, cache: TinyCache, tier: Tier = "faithful") -> tuple[Tensor, Tensor]:
        """The restored slots [B, 4L, 3, H, W], and their features [B, 4L, H / 4, W / 4, C]; `t` [B] or [1]."""
        e = self.time(wave(t).to(look.base)) + self.task(look.task) + self.level(strength(look.level))  # [B, 128]
        sweep, out = (self.sharp_sweep, self.sharp_out) if tier == "sharp" else (self.forward_sweep, self.out)
        if cache.tier != tier:  # the stream has changed its tier: its features mean nothing to the other sweep
            cache = replace(cache, hidden=None)
        x = self.body(self.see(look), e, look, cache, sweep)
        return self.gate(look, x.float(), out), x

    def body(self, x: Tensor, e: Tensor, look: Look, cache: TinyCache, sweep: Sweep) -> Tensor:
        """The features x [B, T, H / 4, W / 4, C], restored; in the dtype of the layers between the stem and `out`."""
        dtype = self.to_eighth.weight.dtype
        x, e = x.to(dtype), e.to(dtype)
        for block in self.down_blocks:
            x = block(x, e, cache.frames)
        skip = x
        x = unfold(self.from_eighth(self.coarse(x, e, cache))) + skip
        before, after = plans(look.flows, look.linked)
        x = self.backward_sweep(x, e, after, None, range(x.shape[1] - 1, -1, -1))
        return sweep(x, e, before, cache.hidden, range(x.shape[1]))

    def coarse(self, x: Tensor, e: Tensor, cache: TinyCache) -> Tensor:
        """What 1/8 and 1/16 resolution say of x [B, T, h4, w4, C]: [B, T, h8, w8, C / 4]."""
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
        return x.unflatten(4, (STRIDE, -1)).permute(0, 1, 4, 2, 3, 5).flatten(1, 2)  # [B, T, h8, w8, C / 4]

    def gate(self, look: Look, x: Tensor, layer: nn.Linear) -> Tensor:
        """The base, corrected by what `layer` reads in x [B, T, h4, w4, C], with the gates' share of hint and moved.

        Frame by frame, as its many full-size sums then stay in the processor's cache.
        """
        frames = []
        parts = [part.flatten(0, 1) for part in (x, look.base, look.hint, *look.moved.unbind(1))]
        for features, base, *sources in zip(*parts, strict=True):
            out = torch.addmm(layer.bias[:, None], layer.weight, features.flatten(0, 1).T)  # [C 4 4, h4 w4]
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
        tokens = self.context(fold(pad_even(z.permute(0, 1, 3, 4, 2))).to(self.context.weight.dtype))
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
        frames = frames.permute(0, 1, 3, 4, 2).contiguous().to(tokens.dtype)
        return replace(cache, index=cache.index + L, keys=tuple(keys), values=tuple(values), frames=frames)


def blind(noisy: Tensor) -> Look:
    """The network's view where it has no condition: the noisy frames [B, 4L, 3, H, W] and nothing else."""
    B, T, _, H, W = noisy.shape
    moved = noisy[:, None].expand(B, SOURCES, *noisy.shape[1:])
    mask, task = noisy.new_zeros(B, 1, 1 + SOURCES, H, W), noisy.new_zeros(B, dtype=torch.long)
    linked = torch.zeros(B, SOURCES, T, dtype=torch.bool)
    return Look(noisy, noisy, noisy, moved, mask, task, None, linked, noisy.new_full((B,), USUAL_NOISE))


def task_of(kind: str) -> int:
    """Index into TASKS. An operator that the network was not trained on is none of them."""
    return TASKS.index(kind) if kind in TASKS else 0


@dataclass(frozen=True)
class Around:
    """What is around each slot of one stream: parts of `Look`, without the batch."""

    moved: Tensor
    mask: Tensor
    flows: Tensor
    linked: Tensor


def surroundings(x: Tensor, mask: Tensor, before: Tensor | None = None) -> Around:
    """Of one stream's frames x [T, 3, H, W]; `mask` [1 or T, 1, H, W] tells the known, `before` [4, H, W] the last."""
    m = motion(x, mask if mask.any() else None, before)
    mask = torch.cat([mask.expand(len(m.known), *mask.shape[1:]), m.known], 1)
    mask = slots(mask) if len(mask) > 1 else mask
    flows, linked = (torch.stack([slots(part) for part in parts]) for parts in (m.flows, m.linked))
    if (extra := flows.shape[1] - len(x)) > 0:  # the first frame stands still
        flows[0, 1 : 1 + extra], linked[0, 1 : 1 + extra] = 0, True
        flows[1, :extra], linked[1, :extra] = 0, True
    return Around(torch.stack([slots(source) for source in m.moved]), mask, flows, linked)


def strength(level: Tensor) -> Tensor:
    """The noise level [B] as the network sees it, [B, 2]: 0 at the usual level."""
    return torch.stack([(level - USUAL_NOISE) * 20, ((level + 0.003) / (USUAL_NOISE + 0.003)).log()], -1)


def slots(x: Tensor) -> Tensor:
    """Frames as the network sees them: at a stream's start, where there are 1 + 4k, the first stands for four."""
    return still_start(x) if len(x) % STRIDE == 1 else x
