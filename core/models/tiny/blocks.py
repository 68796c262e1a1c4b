"""The blocks of the tiny denoiser: convolutions with a temporal shift, windowed attention, and reshapes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MEMORY = (8, 4, 4)
"""channels that each frame takes from the frames 1, 2 and 4 before it"""
FUTURE = (8, 4)
"""channels that each frame takes from the frames 1 and 2 after it, inside the chunk"""


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
    """[B, T, H, W, C] with MEMORY channels from earlier frames (`before` the chunk) and FUTURE from later ones.

    Without a gradient eight bytes move at a time: channels of half precision one by one take twice as long.
    """
    if torch.is_grad_enabled() or x.shape[-1] * x.element_size() % 8:
        return _shifted(x, before, 1)
    wide = before.view(torch.int64) if before is not None else None
    return _shifted(x.view(torch.int64), wide, 8 // x.element_size()).view(x.dtype)


def _shifted(x: Tensor, before: Tensor | None, channels: int) -> Tensor:
    """The same where each element holds so many `channels`."""
    T, start, out = x.shape[1], 0, x.clone()
    for width, back in zip(MEMORY, (1, 2, 4), strict=True):
        part = slice(start, start := start + width // channels)
        known = x[:, :1, ..., part] if before is None else before[:, 4 - back : 4 - back + min(back, T), ..., part]
        out[:, :back, ..., part] = known
        out[:, back:, ..., part] = x[:, : max(T - back, 0), ..., part]
    for width, ahead in zip(FUTURE, (1, 2), strict=True):
        part = slice(start, start := start + width // channels)
        out[:, : max(T - ahead, 0), ..., part] = x[:, ahead:, ..., part]
        out[:, max(T - ahead, 0) :, ..., part] = x[:, -1:, ..., part]
    return out


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
        x = x + self.proj(merged / count[:, None].to(x)).view_as(x)
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
