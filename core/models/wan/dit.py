"""The causal diffusion transformer of Wan2.1, one chunk at a time: noisy latents in, velocity out.

Parameter names and shapes are those of the published checkpoints. Knows no schedule, no stream and no codec; what came
before reaches it through `Keys`, what the prompt says through `Context`.
Source: Wan2.1 (arXiv 2503.20314) as made causal by Self-Forcing (arXiv 2506.08009).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from core.config import Config
from core.models.wan.cache import Keys, rotate


class DiTConfig(Config):
    """The defaults are Wan2.1-T2V-1.3B: 1,418,996,800 parameters."""

    dim: int = Field(1536, ge=1, le=65536)
    ffn_dim: int = Field(8960, ge=1, le=65536)
    layers: int = Field(30, ge=1, le=1000)
    heads: int = Field(12, ge=1, le=1000)
    channels: int = Field(16, ge=1, le=4096)
    """latent channels"""
    text_dim: int = Field(4096, ge=1, le=65536)
    """width of a prompt embedding's row"""
    text_len: int = Field(512, ge=1, le=65536)
    """rows of a prompt embedding, zero rows included: the model attends to all of them"""
    freq_dim: int = Field(256, ge=2, le=65536)
    eps: float = Field(1e-6, ge=0, le=1)

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


@dataclass(frozen=True)
class Context:
    """What every chunk of a stream hears of the prompt: per layer, keys and values, or their constant effect."""

    keys: Tensor
    """[layers, heads, rows, head_dim]"""
    values: Tensor
    bias: Tensor
    """[rows]: what is added to a row's logits"""
    constant: Tensor | None = None
    """[layers, dim], when all rows are alike: then attention has nothing to choose"""


class SelfAttention(nn.Module):
    def __init__(self, config: DiTConfig):
        super().__init__()
        dim = config.dim
        self.heads, self.head_dim = config.heads, config.head_dim
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q = nn.RMSNorm(dim, eps=config.eps)
        self.norm_k = nn.RMSNorm(dim, eps=config.eps)

    def write(self, x: Tensor, cos: Tensor, sin: Tensor, kv: Tensor, slot: Tensor) -> None:
        """Stores the keys and values of tokens x [n, dim] in slot `slot` of kv [2, slots, n, heads, head_dim].

        In one write to `kv` itself: for one to a view of it torch.compile copies the whole window, there and back.
        """
        k = rotate(self._split(self.norm_k(self.k(x))), cos, sin)
        kv.index_copy_(1, slot, torch.stack((k, self._split(self.v(x))))[:, None])

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, kv: Tensor, slot: Tensor) -> Tensor:
        """Tokens x [n, dim] after attention to every slot of `kv`, their own, written first, included."""
        self.write(x, cos, sin, kv, slot)
        q = rotate(self._split(self.norm_q(self.q(x))), cos, sin)
        k, v = kv.flatten(1, 2).transpose(1, 2)[:, None]  # each [1, heads, slots * n, head_dim]
        y = F.scaled_dot_product_attention(q.transpose(0, 1)[None], k, v)  # [1, heads, n, head_dim]
        return self.o(y[0].transpose(0, 1).flatten(1))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.head_dim))  # [n, heads, head_dim]


class CrossAttention(nn.Module):
    def __init__(self, config: DiTConfig):
        super().__init__()
        dim = config.dim
        self.heads, self.head_dim = config.heads, config.head_dim
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q = nn.RMSNorm(dim, eps=config.eps)
        self.norm_k = nn.RMSNorm(dim, eps=config.eps)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Tokens x [n, dim] after attention to the prompt's keys and values [heads, rows, head_dim]."""
        q = self.norm_q(self.q(x)).unflatten(-1, (self.heads, self.head_dim)).transpose(0, 1)
        mask = bias.expand(1, 1, q.shape[1], -1)
        y = F.scaled_dot_product_attention(q[None], keys[None], values[None], mask)  # [1, heads, n, head_dim]
        return self.o(y[0].transpose(0, 1).flatten(1))


class Block(nn.Module):
    def __init__(self, config: DiTConfig):
        super().__init__()
        dim, self.eps = config.dim, config.eps
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)
        self.self_attn = SelfAttention(config)
        self.norm3 = nn.LayerNorm(dim, eps=config.eps)
        self.cross_attn = CrossAttention(config)
        self.ffn = nn.Sequential(
            nn.Linear(dim, config.ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(config.ffn_dim, dim)
        )

    def write(self, x: Tensor, time: Tensor, cos: Tensor, sin: Tensor, kv: Tensor, slot: Tensor) -> None:
        """Stores this layer's keys and values and does nothing else: all that the last layer owes the cache."""
        shift, scale = (self.modulation[0] + time)[:2]
        self.self_attn.write(modulate(x, shift, scale, self.eps), cos, sin, kv, slot)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        cos: Tensor,
        sin: Tensor,
        kv: Tensor,
        slot: Tensor,
        prompt: tuple[Tensor, Tensor, Tensor] | Tensor,
    ) -> Tensor:
        """Tokens x [n, dim] at the time of embedding `time` [6, dim]; `prompt` is keys, values, bias or a constant."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation[0] + time
        y = self.self_attn(modulate(x, shift1, scale1, self.eps), cos, sin, kv, slot)
        x = torch.addcmul(x, y, gate1)
        x = x + (prompt if isinstance(prompt, Tensor) else self.cross_attn(self.norm3(x), *prompt))
        return torch.addcmul(x, self.ffn(modulate(x, shift2, scale2, self.eps)), gate2)


class Head(nn.Module):
    def __init__(self, config: DiTConfig):
        super().__init__()
        self.eps = config.eps
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)
        self.head = nn.Linear(config.dim, 4 * config.channels)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Tokens [n, dim] to patches [n, 4 * channels]; `time` [dim]."""
        shift, scale = self.modulation[0] + time
        return self.head(modulate(x, shift, scale, self.eps))


class CausalDiT(nn.Module):
    """Predicts the velocity (noise minus clean) of one chunk of latents, given the chunks before it."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.config = config
        dim = config.dim
        self.patch_embedding = nn.Conv3d(config.channels, dim, (1, 2, 2), stride=(1, 2, 2))
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = Head(config)

    def forward(self, z: Tensor, t: float, keys: Keys, context: Context) -> Tensor:
        """The velocity of latents z [L, C, h, w] at time `t` in [0, 1], in z's shape. Writes its keys to its slot."""
        x, time, six = self._embed(z, t)
        for layer, block in enumerate(self.blocks):
            x = block(x, six, keys.cos, keys.sin, keys.kv[layer], keys.slot, _prompt(context, layer))
        return self._unpatch(self.head(x, time), z.shape)

    def write(self, z: Tensor, t: float, keys: Keys, context: Context) -> None:
        """Only writes the chunk's keys and values: no head, and nothing in the last layer beyond them."""
        x, _, six = self._embed(z, t)
        *most, last = self.blocks
        for layer, block in enumerate(most):
            x = block(x, six, keys.cos, keys.sin, keys.kv[layer], keys.slot, _prompt(context, layer))
        last.write(x, six, keys.cos, keys.sin, keys.kv[len(most)], keys.slot)

    def context(self, rows: Tensor) -> Context:
        """The prompt's part of every forward pass, from the embedding's rows [n, text_dim] that are not padding.

        The model attends to `text_len` rows, zero rows included. Those give equal keys and values, so they merge into
        one whose logit is raised by the log of their number: the same sum, far fewer keys.
        """
        parameter = self.text_embedding[0].weight
        rows = rows.to(parameter)
        count, limit = rows.shape[0], self.config.text_len
        if rows.ndim != 2 or rows.shape[1] != self.config.text_dim or count > limit:
            raise ValueError(
                f"a prompt embedding has up to {limit} rows of {self.config.text_dim}, not {tuple(rows.shape)}"
            )
        parts = split_log(limit - count, parameter.dtype)
        text = self.text_embedding(torch.cat([rows, rows.new_zeros(min(len(parts), 1), rows.shape[1])]))
        text = torch.cat([text, text[-1:].expand(max(len(parts) - 1, 0), -1)])  # [rows, dim]
        keys = torch.stack([_heads(block.cross_attn.norm_k(block.cross_attn.k(text)), block) for block in self.blocks])
        values = torch.stack([_heads(block.cross_attn.v(text), block) for block in self.blocks])
        bias = torch.tensor([0.0] * count + parts, dtype=parameter.dtype, device=parameter.device)
        constant = None
        if count == 0:
            constant = torch.stack([block.cross_attn.o(block.cross_attn.v(text[0])) for block in self.blocks])
        return Context(keys, values, bias, constant)

    def _embed(self, z: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [n, dim], the time embedding [dim] and its six modulations [6, dim]."""
        patches = z.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).permute(0, 2, 4, 1, 3, 5)  # [L, h/2, w/2, C, 2, 2]
        weight = self.patch_embedding.weight.flatten(1)
        x = F.linear(patches.reshape(-1, weight.shape[1]), weight, self.patch_embedding.bias)
        wave = sinusoid(1000 * t, self.config.freq_dim, z.device).to(x.dtype)
        time = self.time_embedding(wave)
        return x, time, self.time_projection(time).unflatten(0, (6, -1))

    @staticmethod
    def _unpatch(patches: Tensor, shape: torch.Size) -> Tensor:
        """Patches [n, 2 * 2 * C], channels fastest, to latents of `shape` [L, C, h, w]."""
        latents, channels, height, width = shape
        grid = patches.view(latents, height // 2, width // 2, 2, 2, channels)
        return grid.permute(0, 5, 1, 3, 2, 4).reshape(shape)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LayerNorm, then (1 + scale) and shift: one kernel, since a whole chunk has one time."""
    return F.layer_norm(x, x.shape[-1:], 1 + scale, shift, eps)


def sinusoid(t: float, dim: int, device: torch.device) -> Tensor:
    """The embedding [dim] of a time on the network's 0..1000 axis: cosines, then sines, float64."""
    half = dim // 2
    turn = t * 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=device) / half)
    return torch.cat([turn.cos(), turn.sin()])


def split_log(count: int, dtype: torch.dtype) -> list[float]:
    """Numbers that `dtype` holds exactly and whose exponentials add up to `count`, to 1e-5; [] for 0.

    log(511) in bfloat16 is off by 1.4 %; a second, small part makes up for what the first leaves.
    """
    parts: list[float] = []
    rest = float(count)
    while rest > 1e-5 * count:
        part = _floor(math.log(rest), dtype)
        parts.append(part)
        rest -= math.exp(part)
    return parts


def _floor(value: float, dtype: torch.dtype) -> float:
    """The largest number of `dtype` that is not above `value`."""
    near = torch.tensor(value, dtype=dtype, device="cpu")
    if near.item() > value:
        near = torch.nextafter(near, torch.full_like(near, -math.inf))
    return near.item()


def _heads(x: Tensor, block: nn.Module) -> Tensor:
    attention: CrossAttention = block.cross_attn  # type: ignore[assignment]
    return x.unflatten(-1, (attention.heads, attention.head_dim)).transpose(0, 1)  # [heads, rows, head_dim]


def _prompt(context: Context, layer: int) -> tuple[Tensor, Tensor, Tensor] | Tensor:
    if context.constant is not None:
        return context.constant[layer]
    return context.keys[layer], context.values[layer], context.bias
