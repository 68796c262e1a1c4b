"""The tiny model's video codec: an orthonormal block transform of 4 x 8 x 8 pixels, half-whitened. Loses nothing.

A discrete cosine transform over time and space and an opponent transform over colour turn each block of 4 frames x
8 x 8 pixels into 768 coefficients; each is divided by the square root of its standard deviation in natural
video, so that noise of time t disturbs every frequency in proportion and not the fine ones alone. The first latent
of a stream holds one frame, as if it stood still for four.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

STRIDE, BLOCK, CHANNELS = 4, 8, 768


def dct(size: int) -> Tensor:
    """The orthonormal DCT-II as a matrix, frequency by position."""
    k, n = torch.arange(size)[:, None], torch.arange(size)[None]
    basis = torch.cos(math.pi * (n + 0.5) * k / size) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis


def opponent() -> Tensor:
    """Orthonormal grey, red-blue and green-magenta axes of RGB."""
    axes = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 2.0, -1.0]])
    return axes / axes.norm(dim=1, keepdim=True)


class TinyCodec(nn.Module):
    """Frames to latents [L, 768, H / 8, W / 8] and back, exactly."""

    scale: Tensor
    space: Tensor
    time: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(CHANNELS))
        self.register_buffer("space", torch.kron(dct(BLOCK), dct(BLOCK)).T.contiguous(), persistent=False)
        self.register_buffer("time", torch.kron(dct(STRIDE), opponent()).contiguous(), persistent=False)

    def encode(self, x: Tensor, memory: Any = None) -> tuple[Tensor, Any]:
        """[T, 3, H, W] in [-1, 1] to [L, 768, H / 8, W / 8]; T is 1 + 4k at the start of a stream, then 4k.

        Raises ValueError for another T or a size that is no multiple of 8.
        """
        T, _, H, W = x.shape
        if (1 if memory is None else 0) != (T % STRIDE) or H % BLOCK or W % BLOCK:
            first = "1 + 4k frames" if memory is None else "4k frames"
            raise ValueError(f"expected {first} of a size that is a multiple of 8, found {tuple(x.shape)}")
        return self.transform(x if memory is not None else still_start(x)), True

    def decode(self, z: Tensor, memory: Any = None) -> tuple[Tensor, Any]:
        """[L, 768, h, w] to [4L, 3, 8h, 8w], or 4L - 3 frames at the start of a stream."""
        x = self.inverse(z)
        return (x if memory is not None else moving_start(x)), True

    def transform(self, x: Tensor) -> Tensor:
        """[..., 4L, 3, H, W] to [..., L, 768, H / 8, W / 8]."""
        *batch, T, C, H, W = x.shape
        h, w = H // BLOCK, W // BLOCK
        blocks = x.reshape(-1, STRIDE * C, h, BLOCK, w, BLOCK).permute(0, 2, 4, 1, 3, 5)  # [L, h, w, 12, 8, 8]
        z = self.time @ (blocks.reshape(-1, h, w, STRIDE * C, BLOCK * BLOCK) @ self.space)
        return (z.flatten(3) / self.scale).permute(0, 3, 1, 2).unflatten(0, (*batch, T // STRIDE))

    def inverse(self, z: Tensor) -> Tensor:
        """[..., L, 768, h, w] to [..., 4L, 3, 8h, 8w]: the inverse of `transform`."""
        *batch, L, _, h, w = z.shape
        blocks = (z.flatten(0, -4).permute(0, 2, 3, 1) * self.scale).unflatten(3, (STRIDE * 3, BLOCK * BLOCK))
        x = (self.time.T @ (blocks @ self.space.T)).unflatten(4, (BLOCK, BLOCK))  # [L, h, w, 12, 8, 8]
        return x.permute(0, 3, 1, 4, 2, 5).reshape(*batch, L * STRIDE, 3, h * BLOCK, w * BLOCK)


def still_start(x: Tensor) -> Tensor:
    """Frames [1 + 4k, ...] with the first one standing still for four: [4 + 4k, ...]."""
    return torch.cat([x[:1].expand(STRIDE, *x.shape[1:]), x[1:]])


def moving_start(x: Tensor) -> Tensor:
    """The inverse of `still_start`: the first four frames become their mean."""
    return torch.cat([x[:STRIDE].mean(0, keepdim=True), x[STRIDE:]])
