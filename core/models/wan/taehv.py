"""A tiny autoencoder for the latents of Wan2.1 (taew2_1), streaming and stateless: the fast codec.

Parameter names and shapes are those of the published file. A chunk's frames go through every layer at once; only the
memory blocks look back, one step of their own input, and that step is the state.
Source: https://github.com/madebyollin/taehv (MIT).
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from core.config import Config

Memory = tuple[Tensor, ...]
"""The last input [1, C, H, W] of each memory block, in order"""

LEAD = 3
"""Frames by which a stream's first latent is short of four: it is of one frame, as the denoiser wants it"""


Width = Annotated[int, Field(ge=1, le=4096)]


class TAEHVConfig(Config):
    """The defaults are taew2_1: 11,315,539 parameters."""

    channels: int = Field(16, ge=1, le=4096)
    """latent channels"""
    encoder_width: int = Field(64, ge=1, le=4096)
    decoder_widths: tuple[Width, Width, Width, Width] = (256, 128, 64, 64)


class MemoryBlock(nn.Module):
    """A residual block that sees each frame beside the one before it."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width)
        )

    def forward(self, x: Tensor, last: Tensor | None) -> Tensor:
        """Frames x [T, C, H, W] after the frame `last` [1, C, H, W]; None is a zero frame."""
        before = torch.cat([torch.zeros_like(x[:1]) if last is None else last, x[:-1]])
        return F.relu(self.conv(torch.cat([x, before], dim=1)).add_(x), inplace=True)


class Pool(nn.Module):
    """`stride` frames to one."""

    def __init__(self, width: int, stride: int):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width * stride, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.unflatten(0, (-1, self.stride)).flatten(1, 2))


class Grow(nn.Module):
    """One frame to `stride`."""

    def __init__(self, width: int, stride: int):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width, width * stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).unflatten(1, (self.stride, -1)).flatten(0, 1)


class SoftClamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x / 3)


class TAEHV(nn.Module):
    """A `VideoCodec` with the same frame counts as `WanVAE`: 1 + 4n frames first, 4n later. Frames are not clamped.

    The encoder's own grouping is four frames a latent from the start; the first frame is repeated three times before a
    stream, so that its groups fall on the denoiser's latents. The decoder's first three frames are dropped for the same
    reason.
    """

    def __init__(self, config: TAEHVConfig):
        super().__init__()
        self.config = config
        width = config.encoder_width
        stages = [
            layer
            for stride in (2, 2, 1)
            for layer in (
                Pool(width, stride),
                nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False),
                *(MemoryBlock(width) for _ in range(3)),
            )
        ]
        self.encoder = nn.Sequential(_conv(3, width), nn.ReLU(), *stages, _conv(width, config.channels))
        widths = config.decoder_widths
        grown = [
            layer
            for inputs, outputs, stride in zip(widths, widths[1:], (1, 2, 2), strict=False)
            for layer in (
                *(MemoryBlock(inputs) for _ in range(3)),
                nn.Upsample(scale_factor=2),
                Grow(inputs, stride),
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            )
        ]
        self.decoder = nn.Sequential(
            SoftClamp(), _conv(config.channels, widths[0]), nn.ReLU(), *grown, nn.ReLU(), _conv(widths[-1], 3)
        )

    @torch.inference_mode()
    def encode(self, x: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Frames [T, 3, H, W] in [-1, 1] to the denoiser's latents [L, C, H/8, W/8] in float32, and the next memory."""
        extra = 0 if memory else 1
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[-1] % 8 or x.shape[-2] % 8:
            raise ValueError(f"expected frames [T, 3, H, W] with H and W multiples of 8, found {tuple(x.shape)}")
        if len(x) <= 0 or len(x) % 4 != extra:
            raise ValueError(f"expected {extra} + 4n frames {'later' if memory else 'first'}, found {len(x)}")
        if memory is None:
            x = torch.cat([x[:1].expand(LEAD, -1, -1, -1), x])
        z, memory = run(self.encoder, self._enter(x / 2 + 0.5), memory)
        return z.float().contiguous(), memory

    @torch.inference_mode()
    def decode(self, z: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Latents [L, C, h, w] to frames [T, 3, 8h, 8w] in float32, about [-1, 1], and the next memory."""
        if z.ndim != 4 or z.shape[1] != self.config.channels or not len(z):
            raise ValueError(f"expected latents [L, {self.config.channels}, h, w], found {tuple(z.shape)}")
        starting = memory is None
        x, memory = run(self.decoder, self._enter(z), memory)
        return (x[LEAD if starting else 0 :].float() * 2 - 1).contiguous(), memory

    def _enter(self, x: Tensor) -> Tensor:
        weight = self.encoder[0].weight
        return x.to(weight.dtype).contiguous(memory_format=torch.channels_last)


def run(layers: nn.Sequential, x: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
    """Applies the layers in turn; each memory block starts from what it left, and leaves its last input."""
    kept = iter(memory or ())
    leave: list[Tensor] = []
    for layer in layers:
        if isinstance(layer, MemoryBlock):
            leave.append(x[-1:].clone(memory_format=torch.channels_last))
            x = layer(x, None if memory is None else next(kept))
        else:
            x = layer(x)
    return x, tuple(leave)


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)
