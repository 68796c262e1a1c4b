"""The video autoencoder of Wan2.1, streaming: frames to latents and back, chunk by chunk, exactly as the whole clip.

Parameter names and shapes are those of the published checkpoint. Stateless: what a chunk leaves behind goes out as a
tuple of tensors and comes back in, so a decode or an encode can be tried and discarded.

Frames lie as [T, C, H, W] in channels_last: the norm is over neighbours in memory, frames are the batch of every
spatial operation, and in float32 a causal convolution over time is three convolutions over space, one a tap: frames
are neither padded nor copied together.
Source: Wan2.1 (arXiv 2503.20314), section 4.1.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from core.config import Config
from core.constants import constant

Memory = tuple[Tensor, ...]
"""What the layers keep of the frames so far, in the order they are called"""

MEAN = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)  # fmt: skip
STD = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
       3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)  # fmt: skip
"""the latents' statistics, by which they are normalised for the denoiser"""

PIXELS_AT_ONCE = {"cpu": 2**16, "cuda": 2**21}
"""How many pixels of a chunk are worked on at a time, by kind of device. It bounds the activations and changes no
result. On a CPU it keeps them below the 32 MiB above which the C library asks the system for fresh pages each time.
"""


Multiplier = Annotated[int, Field(ge=1, le=64)]
Statistic = Annotated[float, Field(ge=-1000, le=1000)]


class WanVAEConfig(Config):
    """The defaults are the published model: 126,892,531 parameters."""

    base: int = Field(96, ge=1, le=4096)
    multipliers: tuple[Multiplier, Multiplier, Multiplier, Multiplier] = (1, 2, 4, 4)
    channels: int = Field(16, ge=1, le=4096)
    """latent channels"""
    blocks: int = Field(2, ge=1, le=64)
    """residual blocks a level in the encoder; the decoder has one more"""
    mean: tuple[Statistic, ...] = MEAN
    std: tuple[Statistic, ...] = STD


class Past:
    """Hands every causal layer what it kept of the last chunk, in order of call, and collects what it keeps of this."""

    def __init__(self, memory: Memory | None):
        self.starting = memory is None
        self._old = iter(memory or ())
        self._new: list[Tensor] = []

    def take(self) -> Tensor | None:
        """What the layer kept; None at the start of a stream, when all before was zero."""
        return None if self.starting else next(self._old)

    def keep(self, frames: Tensor) -> None:
        self._new.append(frames)

    def memory(self) -> Memory:
        return tuple(self._new)


class CausalConv(nn.Conv3d):
    """A convolution over three frames that looks at none to come: the frames before a stream are zero."""

    def __init__(self, inputs: int, outputs: int, side: int = 3, stride: int = 1):
        super().__init__(inputs, outputs, (3, side, side), stride=(stride, 1, 1))
        self.space = side // 2

    def forward(self, x: Tensor, past: Past) -> Tensor:  # type: ignore[override]
        """Frames [T, C, H, W] to [T, C', H, W]."""
        old = past.take()
        past.keep(last_frames(old, x, 2))
        return self.over(old, x)

    def over(self, old: Tensor | None, x: Tensor) -> Tensor:
        """The frames x after those of `old` [2, C, H, W]; None is two zero frames."""
        if x.dtype != torch.float32:
            before = x.new_zeros(2, *x.shape[1:]) if old is None else old
            return self._at_once(torch.cat([before, x]))
        taps = self.weight.unbind(2)  # each [C', C, side, side]
        y = F.conv2d(x, taps[2], self.bias, padding=self.space)
        for lag in (1, 2):
            tap = taps[2 - lag]
            if len(x) > lag:
                y[lag:] += F.conv2d(x[:-lag], tap, padding=self.space)
            if old is not None:
                y[:lag] += F.conv2d(old[2 - lag :][: len(x)], tap, padding=self.space)
        return y

    def every_second(self, x: Tensor) -> Tensor:
        """Frames [2n + 1, C, H, W] to [n, C', H, W]: stride 2 in time, no padding."""
        if x.dtype != torch.float32:
            return self._at_once(x)
        first, middle, last = self.weight.unbind(2)
        y = F.conv2d(x[1:-1:2], middle, self.bias)
        y += F.conv2d(x[:-2:2], first)
        y += F.conv2d(x[2::2], last)
        return y

    def _at_once(self, x: Tensor) -> Tensor:
        """One convolution over time and space: in half precision a sum of three would be rounded three times."""
        volume = x.transpose(0, 1)[None]  # [1, C, T, H, W], channels_last_3d without a copy
        y = F.conv3d(volume, self.weight, self.bias, self.stride, (0, self.space, self.space))
        return y[0].transpose(0, 1)


class ChannelNorm(nn.Module):
    """x / |x| * sqrt(C) * gamma, over the channels of each pixel."""

    def __init__(self, channels: int, dims: int = 3):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * dims))

    def forward(self, x: Tensor) -> Tensor:
        """[T, C, H, W], channels_last in and out."""
        pixels, gamma = x.permute(0, 2, 3, 1), self.gamma.flatten()  # [T, H, W, C]
        if x.dtype != torch.float32:  # one kernel on a GPU, and one rounding
            return F.rms_norm(pixels, gamma.shape, gamma, eps=1e-12).permute(0, 3, 1, 2)
        length = torch.linalg.vector_norm(pixels, dim=-1, keepdim=True).clamp_min_(1e-12)
        return (pixels * (len(gamma) ** 0.5 / length)).mul_(gamma).permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.residual = nn.Sequential(
            ChannelNorm(inputs),
            nn.SiLU(),
            CausalConv(inputs, outputs),
            ChannelNorm(outputs),
            nn.SiLU(),
            nn.Identity(),  # the published model has a dropout here
            CausalConv(outputs, outputs),
        )
        self.shortcut = nn.Conv3d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor, past: Past) -> Tensor:
        y = x
        for layer in self.residual:
            y = layer(y, past) if isinstance(layer, CausalConv) else activate(layer, y)
        return y.add_(x if self.shortcut is None else pointwise(self.shortcut, x))


class Attention(nn.Module):
    """Self-attention with one head over the pixels of each frame."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = ChannelNorm(channels, dims=2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.to_qkv(self.norm(x)).permute(0, 2, 3, 1).flatten(1, 2)  # [T, H * W, 3 * C]
        q, k, v = pixels.unsqueeze(1).chunk(3, dim=-1)  # [T, 1, H * W, C]
        y = F.scaled_dot_product_attention(q, k, v)[:, 0]
        return x + self.proj(y.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2))


class Resample(nn.Module):
    """Halves or doubles space, and with "3d" time too, except for the first frame of a stream."""

    def __init__(self, channels: int, mode: Literal["down2d", "down3d", "up2d", "up3d"]):
        super().__init__()
        self.mode = mode
        if mode.startswith("down"):
            self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))
        else:
            self.resample = nn.Sequential(nn.Identity(), nn.Conv2d(channels, channels // 2, 3, padding=1))
        if mode == "down3d":
            self.time_conv = CausalConv(channels, channels, side=1, stride=2)
        if mode == "up3d":
            self.time_conv = CausalConv(channels, 2 * channels, side=1)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        if self.mode.startswith("down"):
            x = self.resample(x)
            return self._halve(x, past) if self.mode == "down3d" else x
        return upsample(self.resample[1], self._double(x, past) if self.mode == "up3d" else x)

    def _halve(self, x: Tensor, past: Past) -> Tensor:
        """[1 + 2n] frames at the start of a stream to 1 + n, later 2n to n."""
        old = past.take()
        past.keep(x[-1:].clone())
        if old is None:
            return torch.cat([x[:1], self.time_conv.every_second(x)]) if len(x) > 1 else x
        return self.time_conv.every_second(torch.cat([old, x]))

    def _double(self, x: Tensor, past: Past) -> Tensor:
        """[1 + n] frames at the start of a stream to 1 + 2n, later n to 2n. The first frame is not looked back at."""
        old, first = past.take(), x[:0]
        if past.starting:
            first, x = x[:1], x[1:]
            old = torch.zeros_like(first).expand(2, -1, -1, -1)
        past.keep(last_frames(old, x, 2))
        pair = self.time_conv.over(None if past.starting else old, x) if len(x) else x.repeat(1, 2, 1, 1)
        return torch.cat([first, pair.unflatten(1, (2, -1)).flatten(0, 1)])


class Encoder(nn.Module):
    def __init__(self, config: WanVAEConfig):
        super().__init__()
        widths = [config.base * m for m in config.multipliers]
        self.conv1 = CausalConv(3, widths[0])
        layers: list[nn.Module] = []
        channels = widths[0]
        for level, width in enumerate(widths):
            for _ in range(config.blocks):
                layers.append(ResidualBlock(channels, width))
                channels = width
            if level < 3:
                layers.append(Resample(width, "down2d" if level == 0 else "down3d"))
        self.downsamples = nn.Sequential(*layers)
        self.middle = nn.Sequential(
            ResidualBlock(channels, channels), Attention(channels), ResidualBlock(channels, channels)
        )
        self.head = nn.Sequential(ChannelNorm(channels), nn.SiLU(), CausalConv(channels, 2 * config.channels))

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """Frames [T, 3, H, W] to the posterior's parameters [L, 2 * channels, H/8, W/8]."""
        x = self.conv1(x, past)
        return run((*self.downsamples, *self.middle, *self.head), x, past)


class Decoder(nn.Module):
    def __init__(self, config: WanVAEConfig):
        super().__init__()
        widths = [config.base * m for m in reversed(config.multipliers)]
        channels = widths[0]
        self.conv1 = CausalConv(config.channels, channels)
        self.middle = nn.Sequential(
            ResidualBlock(channels, channels), Attention(channels), ResidualBlock(channels, channels)
        )
        layers: list[nn.Module] = []
        for level, width in enumerate(widths):
            for _ in range(config.blocks + 1):
                layers.append(ResidualBlock(channels, width))
                channels = width
            if level < 3:
                layers.append(Resample(width, "up2d" if level == 2 else "up3d"))
                channels = width // 2
        self.upsamples = nn.Sequential(*layers)
        self.head = nn.Sequential(ChannelNorm(channels), nn.SiLU(), CausalConv(channels, 3))

    def forward(self, z: Tensor, past: Past) -> Tensor:
        """Latents [L, channels, h, w] to frames [T, 3, 8h, 8w]."""
        x = self.conv1(z, past)
        return run((*self.middle, *self.upsamples, *self.head), x, past)


class WanVAE(nn.Module):
    """A `VideoCodec`: 1 + 4n frames are 1 + n latents at the start of a stream, later 4n frames are n latents.

    Latents are normalised, as the denoiser wants them; decoded frames are not clamped.
    """

    def __init__(self, config: WanVAEConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.conv1 = nn.Conv3d(2 * config.channels, 2 * config.channels, 1)
        self.conv2 = nn.Conv3d(config.channels, config.channels, 1)

    @torch.inference_mode()
    def encode(self, x: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Frames [T, 3, H, W] in [-1, 1] to normalised latents [L, C, H/8, W/8] in float32, and the next memory."""
        self._check_frames(x, memory)
        parts = []
        for part in pieces(len(x), 0 if memory else 1, 4, budget(x) // (x.shape[-2] * x.shape[-1])):
            past = Past(memory)
            parts.append(self.encoder(self._enter(x[part]), past))
            memory = past.memory()
        mean = pointwise(self.conv1, torch.cat(parts))[:, : self.config.channels]
        assert memory is not None
        return (mean.float() - channelwise(self.config.mean, x.device)) / channelwise(self.config.std, x.device), memory

    @torch.inference_mode()
    def decode(self, z: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Normalised latents [L, C, h, w] to frames [T, 3, 8h, 8w] in float32, about [-1, 1], and the next memory."""
        if z.ndim != 4 or z.shape[1] != self.config.channels or not len(z):
            raise ValueError(f"expected latents [L, {self.config.channels}, h, w], found {tuple(z.shape)}")
        z = z.float() * channelwise(self.config.std, z.device) + channelwise(self.config.mean, z.device)
        z = pointwise(self.conv2, self._enter(z))
        parts = []
        for part in pieces(len(z), 0, 1, budget(z) // (4 * 64 * z.shape[-2] * z.shape[-1])):
            past = Past(memory)
            parts.append(self.decoder(z[part], past).float())
            memory = past.memory()
        assert memory is not None
        return torch.cat(parts).contiguous(), memory

    def pack(self) -> WanVAE:
        """Lays every weight, in float32 every tap of it, out in channels_last, so that a step copies none."""
        time = (0, 2) if self.conv1.weight.dtype != torch.float32 else (2, 0)
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.Conv2d):
                weight = module.weight.data
                order = (*time, 3, 4, 1) if weight.ndim == 5 else (0, 2, 3, 1)
                stored = weight.permute(order).contiguous()
                module.weight.data = stored.permute([order.index(axis) for axis in range(weight.ndim)])
        return self

    def _enter(self, x: Tensor) -> Tensor:
        return x.to(self.conv1.weight.dtype).contiguous(memory_format=torch.channels_last)

    @staticmethod
    def _check_frames(x: Tensor, memory: Memory | None) -> None:
        extra = 0 if memory else 1
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[-1] % 8 or x.shape[-2] % 8:
            raise ValueError(f"expected frames [T, 3, H, W] with H and W multiples of 8, found {tuple(x.shape)}")
        if len(x) <= 0 or len(x) % 4 != extra:
            raise ValueError(f"expected {extra} + 4n frames {'later' if memory else 'first'}, found {len(x)}")


@constant(8)
def channelwise(values: tuple[float, ...], device: torch.device) -> Tensor:
    """One number a channel, [C, 1, 1], kept on its device: making it there anew each time would wait for it."""
    return torch.tensor(values, device=device)[:, None, None]


def budget(x: Tensor) -> int:
    """How many pixels to work on at a time."""
    return PIXELS_AT_ONCE.get(x.device.type, 2**21)


def pieces(length: int, first: int, step: int, at_once: int) -> list[slice]:
    """Cuts `length` frames, after `first` odd ones, into slices of whole `step`s of about `at_once` frames."""
    size = step * max(1, at_once // step)
    edges = [0, *range(first + size, length, size), length]
    return [slice(a, b) for a, b in pairwise(edges)]


def run(layers: tuple[nn.Module, ...], x: Tensor, past: Past) -> Tensor:
    """Applies the layers in turn, with the past where one looks back."""
    for layer in layers:
        looks_back = isinstance(layer, CausalConv | ResidualBlock | Resample)
        x = layer(x, past) if looks_back else activate(layer, x)
    return x


def activate(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer without a past; SiLU in place, since a norm always made its input."""
    return F.silu(x, inplace=True) if isinstance(layer, nn.SiLU) else layer(x)


def last_frames(old: Tensor | None, x: Tensor, count: int) -> Tensor:
    """The last `count` frames of the stream so far; None is zero frames. A copy, which keeps nothing else alive."""
    if len(x) >= count:
        return x[-count:].clone(memory_format=torch.channels_last)
    if old is None:
        old = torch.zeros_like(x[:1]).expand(count, -1, -1, -1)
    return torch.cat([old, x])[-count:].contiguous(memory_format=torch.channels_last)


def pointwise(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """A 1x1x1 convolution of frames [T, C, H, W]."""
    return F.conv2d(x, conv.weight[:, :, 0], conv.bias)


def upsample(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Nearest 2x, then `conv` (3x3): [T, C, H, W] to [T, C', 2H, 2W].

    A 3x3 kernel over doubled pixels sees each twice or once: for every corner of the doubled pixel it is a 2x2 kernel
    over the pixels themselves, with 16 products where 36 were.
    """
    rows = fold(conv.weight, 2)  # [C', C, 2 corners, 2, 3]
    corners = fold(rows, 4)  # [C', C, 2, 2, 2, 2]: corner row, kernel row, corner column, kernel column
    outputs, inputs = conv.weight.shape[:2]
    kernel = corners.permute(2, 4, 0, 3, 5, 1).reshape(4 * outputs, 2, 2, inputs).permute(0, 3, 1, 2)
    bias = None if conv.bias is None else conv.bias.repeat(4)
    y = F.conv2d(x, kernel, bias, padding=1)  # [T, 4 * C', H + 1, W + 1]
    height, width = x.shape[-2:]
    out = y.new_empty((len(x), height, 2, width, 2, outputs))
    for corner, part in enumerate(y.chunk(4, dim=1)):
        row, column = divmod(corner, 2)
        out[:, :, row, :, column] = part[:, :, row : row + height, column : column + width].permute(0, 2, 3, 1)
    return out.view(len(x), 2 * height, 2 * width, outputs).permute(0, 3, 1, 2)


def fold(weight: Tensor, axis: int) -> Tensor:
    """Kernels of length 3 along `axis` to pairs (corner 0, 1) of length 2: [.., 3, ..] to [.., 2, 2, ..]."""
    a, b, c = weight.float().unbind(axis)
    near = torch.stack([a, b + c], dim=axis)  # the first of two equal pixels looks back
    far = torch.stack([a + b, c], dim=axis)
    return torch.stack([near, far], dim=axis).to(weight.dtype)
