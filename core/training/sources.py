"""Endless moving pictures to train on: a crop of footage read to and fro, a camera that wanders over a photograph."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

Clip = npt.NDArray[np.uint8]
"""Frames [T, H, W, 3]."""
Photograph = npt.NDArray[np.uint8]
"""Pixels [H, W, 3]."""


class Source(Protocol):
    def read(self, frames: int) -> Tensor:
        """The next frames [T, 3, S, S] in [-1, 1]."""
        ...


@dataclass(frozen=True)
class Augmentation:
    """How the frames of one stream are changed. Fixed for the stream's whole life, so that it stays one scene."""

    mirrored: bool
    upside_down: bool
    channels: tuple[int, ...]
    gain: float
    offset: float

    @staticmethod
    def draw(rng: random.Random) -> Augmentation:
        channels = tuple(rng.sample(range(3), 3)) if rng.random() < 0.3 else (0, 1, 2)
        gain, offset = (rng.uniform(0.7, 1.15), rng.uniform(-0.12, 0.12)) if rng.random() < 0.5 else (1.0, 0.0)
        return Augmentation(rng.random() < 0.5, rng.random() < 0.15, channels, gain, offset)

    def __call__(self, x: Tensor) -> Tensor:
        dims = [dim for dim, on in ((3, self.mirrored), (2, self.upside_down)) if on]
        x = x.flip(dims) if dims else x
        return (x[:, list(self.channels)] * self.gain + self.offset).clamp(-1, 1).contiguous()


class Footage:
    """A crop at a fixed place of a clip, read to and fro without end; one in twenty stands still."""

    def __init__(self, clip: Clip, size: int, rng: random.Random):
        self.clip, self.size = clip, size
        self.stride = 2 if rng.random() < 0.15 and len(clip) >= 48 else 1
        self.index, self.direction = rng.randrange(len(clip)), rng.choice([-1, 1])
        self.top, self.left = (rng.randint(0, side - size) for side in clip.shape[1:3])
        self.still = rng.random() < 0.05

    def read(self, frames: int) -> Tensor:
        rows, columns = slice(self.top, self.top + self.size), slice(self.left, self.left + self.size)
        crop = np.stack([self.clip[self._advance(), rows, columns] for _ in range(frames)])
        return torch.from_numpy(crop).permute(0, 3, 1, 2).float() / 127.5 - 1

    def _advance(self) -> int:
        here = self.index
        if not self.still:
            step = self.direction * self.stride
            if not 0 <= here + step < len(self.clip):
                self.direction, step = -self.direction, -step
            self.index = min(max(here + step, 0), len(self.clip) - 1)
        return here


@dataclass(frozen=True)
class Swing:
    """A sine over time, in frames."""

    amplitude: float
    phase: float
    speed: float

    @staticmethod
    def draw(rng: random.Random, amplitude: float, slowest: float, fastest: float) -> Swing:
        """`slowest` and `fastest` are periods in frames."""
        return Swing(amplitude, rng.uniform(0, math.tau), rng.uniform(math.tau / slowest, math.tau / fastest))

    def at(self, t: int) -> float:
        return self.amplitude * math.sin(self.phase + self.speed * t)


class Wander:
    """A camera that pans, turns and zooms over a photograph [H, W, 3]. It samples twice as densely as it shows."""

    def __init__(self, photo: Photograph, size: int, rng: random.Random):
        self.pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None]
        self.size, self.t = size, 0
        height, width = photo.shape[:2]
        self.zoom = min(rng.uniform(1.0, 2.4), min(height, width) / (size * 1.25))
        pace = rng.choice([0.0, 0.3, 1.0, 2.5])
        pans = [Swing.draw(rng, rng.uniform(-12, 12) * pace, 80, 24) for _ in range(4)]
        self.pans = pans[:2], pans[2:]
        self.turn = Swing.draw(rng, rng.uniform(0, 0.06) * pace, 90, 40)
        self.breath = Swing.draw(rng, rng.uniform(0, 0.08) * pace, 90, 40)
        self.room = tuple(max(0.0, side / 2 - self.zoom * size * 0.55) for side in (width, height))
        self.centre = tuple(rng.uniform(-room, room) for room in self.room)

    def read(self, frames: int) -> Tensor:
        theta = torch.tensor([self._place(t) for t in range(self.t, self.t + frames)])
        self.t += frames
        part, theta = self._window(theta)
        fine = 2 * self.size
        grid = F.affine_grid(theta, [frames, 3, fine, fine], align_corners=False)
        x = F.grid_sample(part.expand(frames, -1, -1, -1), grid, padding_mode="reflection", align_corners=False)
        return F.avg_pool2d(x, 2) / 127.5 - 1

    def _place(self, t: int) -> list[list[float]]:
        """Where the crop lies in the photograph in frame `t`, as an affine map of [-1, 1] squares."""
        height, width = self.pixels.shape[2:]
        zoom, angle = self.zoom * (1 + self.breath.at(t)), self.turn.at(t)
        x, y = (
            min(max(centre + zoom * sum(swing.at(t) for swing in swings), -room), room)
            for centre, swings, room in zip(self.centre, self.pans, self.room, strict=True)
        )
        c, s = (f(angle) * zoom * self.size for f in (math.cos, math.sin))
        return [[c / width, -s / width, 2 * x / width], [s / height, c / height, 2 * y / height]]

    def _window(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The part of the photograph that the crops `theta` show, and the same crops in that part."""
        sizes = torch.tensor([self.pixels.shape[3], self.pixels.shape[2]])  # width, height
        reach = theta[:, :, :2].abs().sum(2)
        low = ((theta[:, :, 2] - reach).amin(0) + 1) / 2 * sizes - 3
        high = ((theta[:, :, 2] + reach).amax(0) + 1) / 2 * sizes + 4
        low, high = low.long().clamp_min(0), torch.minimum(high.long(), sizes)
        inside = high - low
        theta = theta * (sizes / inside)[:, None]
        theta[:, :, 2] += (sizes - 2 * low - inside) / inside
        return self.pixels[:, :, low[1] : high[1], low[0] : high[0]].float(), theta
