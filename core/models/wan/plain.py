"""The transformer in its plain form: slow, obvious, and what the fast one is held against in tests and benchmarks.

It reads the parameters of a `CausalDiT` and shares none of its code: complex rotations in float64, every context row,
whole passes, and a cache that rolls by copying, as in the code that was published with the model.
Source: Self-Forcing (arXiv 2506.08009), section 3.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from core.models.wan.dit import Block, CausalDiT

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q, k, v), each [n, heads, head_dim] before rotation, to the attended values in q's shape"""


def plain_velocity(dit: CausalDiT, z: Tensor, t: float, text: Tensor, attend: Attend) -> Tensor:
    """The velocity of latents z [L, C, h, w] at time `t`, with the prompt's rows `text` [text_len, text_dim]."""
    latents, _, height, width = z.shape
    config = dit.config
    x = dit.patch_embedding(z.transpose(0, 1)[None])[0].flatten(1).T  # [n, dim]
    half = config.freq_dim // 2
    turn = 1000 * t / 10000 ** (torch.arange(half, dtype=torch.float64, device=z.device) / half)
    time = dit.time_embedding(torch.cat([turn.cos(), turn.sin()]).to(z.dtype))
    six = dit.time_projection(time).view(6, config.dim)
    context = dit.text_embedding(text.to(z.dtype))
    for layer, block in enumerate(dit.blocks):
        assert isinstance(block, Block)
        x = _block(block, layer, x, six, context, attend)
    shift, scale = (dit.head.modulation + time).view(2, config.dim)
    patches = dit.head.head(F.layer_norm(x, (config.dim,), eps=config.eps) * (1 + scale) + shift)
    grid = patches.view(latents, height // 2, width // 2, 2, 2, config.channels)
    return torch.einsum("fhwpqc->fchpwq", grid).reshape(z.shape)


def _block(block: Block, layer: int, x: Tensor, six: Tensor, context: Tensor, attend: Attend) -> Tensor:
    shift1, scale1, gate1, shift2, scale2, gate2 = (block.modulation[0] + six).unbind(0)
    dim = (x.shape[1],)
    own, cross = block.self_attn, block.cross_attn
    heads = (own.heads, own.head_dim)
    y = F.layer_norm(x, dim, eps=block.eps) * (1 + scale1) + shift1
    q, k = own.norm_q(own.q(y)).unflatten(1, heads), own.norm_k(own.k(y)).unflatten(1, heads)
    x = x + own.o(attend(layer, q, k, own.v(y).unflatten(1, heads)).flatten(1)) * gate1
    q = cross.norm_q(cross.q(block.norm3(x))).unflatten(1, heads)
    k, v = cross.norm_k(cross.k(context)).unflatten(1, heads), cross.v(context).unflatten(1, heads)
    x = x + cross.o(attention(q, k, v).flatten(1))
    y = F.layer_norm(x, dim, eps=block.eps) * (1 + scale2) + shift2
    return x + block.ffn(y) * gate2


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """q [n, heads, d], k and v [m, heads, d], mask [n, m] of what may be seen."""
    q, k, v = (each.transpose(0, 1)[None] for each in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, mask)[0].transpose(0, 1)


def plain_rotate(x: Tensor, frames: Tensor, height: int, width: int) -> Tensor:
    """x [n, heads, d] of the frames numbered `frames` [L], each `height` x `width` tokens, rotated to its position."""
    pairs = x.shape[-1] // 2
    side = x.shape[-1] // 6

    def axis(positions: Tensor, count: int) -> Tensor:
        rate = 10000.0 ** (-torch.arange(count, dtype=torch.float64, device=x.device) / count)
        turn = positions.to(rate)[:, None] * rate
        return torch.polar(torch.ones_like(turn), turn)

    grid = (len(frames), height, width)
    turn = torch.cat(
        [
            axis(frames, pairs - 2 * side)[:, None, None].expand(*grid, -1),
            axis(torch.arange(height, device=x.device), side)[None, :, None].expand(*grid, -1),
            axis(torch.arange(width, device=x.device), side)[None, None].expand(*grid, -1),
        ],
        dim=-1,
    ).reshape(-1, 1, pairs)
    spun = torch.view_as_complex(x.double().unflatten(-1, (-1, 2))) * turn
    return torch.view_as_real(spun).flatten(-2).to(x.dtype)


class PlainLoop:
    """One stream with a rolling window, chunk by chunk, in the plain way."""

    def __init__(self, dit: CausalDiT, height: int, width: int, text: Tensor, window: int = 9):
        """`height` x `width` in tokens; `window` in latent frames."""
        self.dit, self.text = dit, text
        self.height, self.width = height, width
        config, parameter = dit.config, dit.patch_embedding.weight
        shape = (window * height * width, config.heads, config.head_dim)
        self._keys = [parameter.new_zeros(shape) for _ in range(config.layers)]
        self._values = [parameter.new_zeros(shape) for _ in range(config.layers)]
        self._end = [0] * config.layers
        """tokens in each layer's buffer"""
        self._seen = [0] * config.layers
        """tokens of the stream each layer has seen"""

    def velocity(self, z: Tensor, t: float, chunk: int) -> Tensor:
        """The velocity of chunk number `chunk`; a pass at t = 0 over clean latents leaves its keys behind."""
        frames = torch.arange(len(z), device=z.device) + chunk * len(z)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q = plain_rotate(q, frames, self.height, self.width)
            k = plain_rotate(k, frames, self.height, self.width)
            self._store(layer, k, v, (chunk + 1) * len(k))
            return attention(q, self._keys[layer][: self._end[layer]], self._values[layer][: self._end[layer]])

        return plain_velocity(self.dit, z, t, self.text, attend)

    def _store(self, layer: int, k: Tensor, v: Tensor, seen: int) -> None:
        """Appends a new chunk, rolling the buffer by a copy when it is full; overwrites a chunk that is in it."""
        keys, values = self._keys[layer], self._values[layer]
        new = seen - self._seen[layer]
        over = self._end[layer] + new - len(keys)
        if over > 0:
            keys[:-over] = keys[over:].clone()
            values[:-over] = values[over:].clone()
            self._end[layer] -= over
        self._end[layer] += new
        self._seen[layer] = seen
        keys[self._end[layer] - len(k) : self._end[layer]] = k
        values[self._end[layer] - len(k) : self._end[layer]] = v
