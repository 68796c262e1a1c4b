"""The tiny model's denoiser: a U-shaped causal network that does its restoring at 1/4 resolution. Stateless.

Convolutions work at 1/4 resolution frame by frame (neighbouring frames reach it by shifting channels) and at 1/8
resolution latent by latent; at 1/16 resolution, windowed attention looks at the restored prefix through a KV cache. The
network sees the noisy latents and, when there is a condition, x_init, a second look at y, the mask of known pixels and
the task; it returns the clean estimate as a correction of x_init (or of the noisy latents, when it has no condition).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.config import Config
from core.models.base import Condition
from core.models.tiny_codec import CHANNELS, STRIDE, TinyCodec, still_start
from core.models.tiny_motion import SOURCES, aligned

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

MEMORY = (8, 4, 4)
"""channels that each frame takes from the frames 1, 2 and 4 before it"""
FUTURE = (8, 4)
"""channels that each frame takes from the frames 1 and 2 after it, inside the chunk"""


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
        task = torch.tensor([TASKS.index(op.kind)], device=z.device)  # type: ignore[attr-defined]
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


class ConvBlock(nn.Module):
    """Two 3 x 3 convolutions with a modulated middle, added to their input. Channels last: [B, T, H, W, C]."""

    def __init__(self, channels: int, embedding: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels)
        nn.init.normal_(self.second.weight, std=0.2 / math.sqrt(9 * channels))
        nn.init.zeros_(self.second.bias)
        nn.init.normal_(self.modulation.weight, std=0.01)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return x + self.update(x, e)

    def update(self, x: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.modulation(F.silu(e)).chunk(2, -1)  # [B, C]
        first, weight, bias = self.first, self.first.weight, self.first.bias
        if len(e) == 1:  # one stream: modulate the weights, not the features
            gain = 1 + scale[0]
            y = F.conv2d(channels_first(x), weight * gain[:, None, None, None], bias * gain + shift[0], padding=1)
        else:
            scale, shift = (part.repeat_interleave(x.shape[1], 0)[:, :, None, None] for part in (scale, shift))
            y = torch.addcmul(shift, first(channels_first(x)), 1 + scale)
        return channels_last(self.second(F.leaky_relu_(y, 0.1)), x.shape[1])


class ShiftBlock(ConvBlock):
    """A ConvBlock whose input channels come in part from the frames around (temporal shift)."""

    def forward(self, x: Tensor, e: Tensor, before: Tensor | None = None) -> Tensor:
        return x + self.update(shifted(x, before), e)


def shifted(x: Tensor, before: Tensor | None) -> Tensor:
    """[B, T, H, W, C] with MEMORY channels from earlier frames (`before` the chunk) and FUTURE from later ones."""
    B, T, H, W, _ = x.shape
    past = x[:, :1, ..., : sum(MEMORY)].expand(B, 4, H, W, sum(MEMORY)) if before is None else before
    past = torch.cat([past, x[..., : sum(MEMORY)]], 1)  # [B, 4 + T, ...]
    a, b, _ = MEMORY
    c = sum(MEMORY)
    d, f = c + FUTURE[0], c + sum(FUTURE)
    last = x[:, -1:, ..., c:f]
    ahead = torch.cat([x[..., c:f], last, last], 1)
    return torch.cat(
        [
            past[:, 3 : 3 + T, ..., :a],
            past[:, 2 : 2 + T, ..., a : a + b],
            past[:, :T, ..., a + b :],
            ahead[:, 1 : 1 + T, ..., : d - c],
            ahead[:, 2:, ..., d - c :],
            x[..., f:],
        ],
        -1,
    )


class MLP(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        nn.init.normal_(self.down.weight, std=0.02 / math.sqrt(2))
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(self.norm(x)), approximate="tanh"))


class AttentionLayer(nn.Module):
    """Attention in overlapping windows over the chunk and the cached prefix, then an MLP. Tokens [B, L, h, w, C]."""

    def __init__(self, width: int, heads: int, embedding: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.context_norm = nn.LayerNorm(width)
        self.modulation = nn.Linear(embedding, 2 * width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.context_kv = nn.Linear(width, 2 * width)
        self.mlp = MLP(width, 3 * width)
        nn.init.normal_(self.proj.weight, std=0.02 / math.sqrt(2))
        nn.init.zeros_(self.proj.bias)
        nn.init.normal_(self.modulation.weight, std=0.01)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, e: Tensor, start: int, past: tuple[Tensor, Tensor] | None, window: int) -> Tensor:
        L, h, w = x.shape[1:4]
        scale, shift = (part[:, None, None, None] for part in self.modulation(F.silu(e)).chunk(2, -1))
        index = windows(h, w, window, x.device)
        q, k, v = self.qkv(self.norm(x) * (1 + scale) + shift).chunk(3, -1)
        q, k, v = (self.split(part, index) for part in (q, k, v))  # [B, heads, n, L, tokens, d]
        q, k = rotate(q, start), rotate(k, start)
        if past is not None:
            k, v = torch.cat([past[0], k], 3), torch.cat([past[1], v], 3)
        q, k, v = (part.flatten(3, 4).flatten(1, 2) for part in (q, k, v))  # 4-D, for the fused kernel
        y = F.scaled_dot_product_attention(q, k, v).unflatten(1, (self.heads, -1))
        y = y.unflatten(3, (L, -1)).permute(0, 3, 2, 4, 1, 5).flatten(4)  # [B, L, n, tokens, C]
        merged = torch.zeros_like(x).flatten(2, 3).index_add(2, index.flatten(), y.flatten(2, 3))
        count = torch.zeros(h * w, device=x.device).index_add(
            0, index.flatten(), torch.ones(index.numel(), device=x.device)
        )
        x = x + self.proj(merged / count[:, None]).view_as(x)
        return x + self.mlp(x)

    def keys_values(self, tokens: Tensor, start: int, window: int) -> tuple[Tensor, Tensor]:
        """Of clean context tokens [B, L, h, w, C] whose first latent is number `start`: [B, heads, n, L, tokens, d]."""
        index = windows(tokens.shape[2], tokens.shape[3], window, tokens.device)
        k, v = self.context_kv(self.context_norm(tokens)).chunk(2, -1)
        return rotate(self.split(k, index), start), self.split(v, index)

    def split(self, x: Tensor, index: Tensor) -> Tensor:
        """[B, L, h, w, C] to [B, heads, windows, L, tokens, d]."""
        return x.flatten(2, 3)[:, :, index].unflatten(-1, (self.heads, -1)).permute(0, 4, 2, 1, 3, 5)


def windows(height: int, width: int, window: int, device: torch.device) -> Tensor:
    """Flat token indices of evenly spread, overlapping windows that cover the grid, [windows, tokens]."""

    def starts(size: int, side: int) -> Tensor:
        count = math.ceil(size / side)
        return torch.linspace(0, size - side, count).round().long()

    sides = min(window, height), min(window, width)
    tops, lefts = starts(height, sides[0]), starts(width, sides[1])
    rows = (tops[:, None] + torch.arange(sides[0])[None])[:, None, :, None]
    columns = (lefts[:, None] + torch.arange(sides[1])[None])[None, :, None, :]
    return (rows * width + columns).flatten(2).flatten(0, 1).to(device)


def rotate(x: Tensor, start: int) -> Tensor:
    """RoPE over time alone, for latents `start`, `start` + 1, ... [B, heads, n, L, tokens, d].

    Unbounded, with angles in float64. Place in the window is left to the convolutions around; attention matches by
    content and age.
    """
    L, half = x.shape[3], x.shape[-1] // 2
    speed = 64.0 ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
    angles = (start + torch.arange(L, dtype=torch.float64, device=x.device))[:, None] * speed
    cos, sin = angles.cos().to(x)[:, None], angles.sin().to(x)[:, None]  # [L, 1, half]
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def slots(x: Tensor) -> Tensor:
    """Frames as the network sees them: at a stream's start, where there are 1 + 4k, the first stands for four."""
    return still_start(x) if len(x) % STRIDE == 1 else x


def wave(t: Tensor) -> Tensor:
    """Sines and cosines of the time [B] in [0, 1], [B, 32]."""
    angles = t[:, None] * 100 * torch.exp(-math.log(200.0) * torch.arange(16, device=t.device) / 16)
    return torch.cat([angles.cos(), angles.sin()], -1)


def embed(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Patches of 4 x 4 pixels through a linear layer [D, C 4 4]: [B, T, C, H, W] to [B, T, D, H / 4, W / 4]."""
    kernel = weight.view(len(weight), x.shape[2], 4, 4)
    return F.conv2d(x.flatten(0, 1), kernel, bias, stride=4).unflatten(0, x.shape[:2])


def fold(x: Tensor) -> Tensor:
    """[B, T, H, W, C] to [B, T, H / 2, W / 2, 4 C]."""
    B, T, H, W, C = x.shape
    return x.reshape(B, T, H // 2, 2, W // 2, 2, C).permute(0, 1, 2, 4, 3, 5, 6).flatten(4)


def unfold(x: Tensor) -> Tensor:
    """The inverse of `fold`."""
    B, T, H, W, _ = x.shape
    return x.reshape(B, T, H, W, 2, 2, -1).permute(0, 1, 2, 4, 3, 5, 6).reshape(B, T, 2 * H, 2 * W, -1)


def pad_even(x: Tensor) -> Tensor:
    """[B, T, H, W, C] with the last row and column repeated where their number is odd."""
    if x.shape[2] % 2:
        x = torch.cat([x, x[:, :, -1:]], 2)
    if x.shape[3] % 2:
        x = torch.cat([x, x[:, :, :, -1:]], 3)
    return x


def channels_first(x: Tensor) -> Tensor:
    """[B, T, H, W, C] to [B T, C, H, W] without moving memory (the channels_last format)."""
    return x.flatten(0, 1).permute(0, 3, 1, 2)


def channels_last(x: Tensor, frames: int) -> Tensor:
    """The inverse of `channels_first`."""
    return x.permute(0, 2, 3, 1).unflatten(0, (-1, frames))
