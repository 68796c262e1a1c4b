"""Training clips: real footage and photographs where they are given, procedural scenes where they are not."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

Clip = npt.NDArray[np.uint8]
"""Frames [T, H, W, 3]."""

VIDEOS = (".mp4", ".mkv", ".webm", ".mov")
PHOTOS = (".jpg", ".jpeg", ".png")


def read_clip(path: Path) -> Clip:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def halve(clip: Clip) -> Clip:
    """The clip at half its size, by area; it may lie in a file, and a few frames of it are read at a time."""
    parts = (torch.tensor(clip[start : start + 16]).permute(0, 3, 1, 2) for start in range(0, len(clip), 16))
    halved = torch.cat([F.avg_pool2d(part.float(), 2).round().byte() for part in parts])
    return halved.permute(0, 2, 3, 1).contiguous().numpy()


def pan(photo: Clip, frames: int, height: int, width: int, rng: random.Random) -> Clip:
    """A slow pan and zoom over a photograph [1, H, W, 3]."""
    x = torch.from_numpy(photo).permute(0, 3, 1, 2).float()
    scale = max(height, width * photo.shape[1] / photo.shape[2]) * rng.uniform(1.3, 2.2) / photo.shape[1]
    x = F.interpolate(x, scale_factor=scale, mode="area")
    spans = [(rng.uniform(0.05, 0.95), rng.uniform(0.05, 0.95)) for _ in range(2)]
    zoom = sorted((1.0, rng.uniform(0.85, 1.0)), key=lambda _: rng.random())
    out = []
    for i in range(frames):
        u = i / (frames - 1)
        z = zoom[0] + (zoom[1] - zoom[0]) * u
        h, w = min(height / z, x.shape[2]), min(width / z, x.shape[3])
        top, left = (
            (size - part) * (a + (b - a) * u) for size, part, (a, b) in zip(x.shape[2:], (h, w), spans, strict=True)
        )
        theta = torch.tensor(
            [
                [w / x.shape[3], 0, (2 * left + w) / x.shape[3] - 1],
                [0, h / x.shape[2], (2 * top + h) / x.shape[2] - 1],
            ]
        )
        grid = F.affine_grid(theta[None], [1, 3, height, width], align_corners=False)
        out.append(F.grid_sample(x, grid, align_corners=False, padding_mode="border"))
    return torch.cat(out).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def panned(path: Path, rng: random.Random) -> Clip:
    return pan(read_clip(path), 64, 240, 416, rng)


def procedural(frames: int, height: int, width: int, rng: random.Random) -> Clip:
    """A synthetic scene: 1/f texture in motion under moving discs and bars with hard edges."""
    g = torch.Generator().manual_seed(rng.randrange(1 << 30))
    size = (height + 128, width + 128)
    fy, fx = torch.fft.fftfreq(size[0])[:, None], torch.fft.rfftfreq(size[1])[None]
    falloff = (fy**2 + fx**2).sqrt().clamp_min(1 / 512) ** rng.uniform(1.0, 1.6)
    texture = torch.fft.irfft2(torch.fft.rfft2(torch.randn(3, *size, generator=g)) / falloff, s=size)
    texture = texture.mean(0, keepdim=True) * 0.8 + texture * 0.5
    texture = torch.sigmoid(texture / texture.std() * 1.2)
    yy, xx = torch.arange(height)[:, None].float(), torch.arange(width)[None].float()
    shapes = [
        (
            [rng.uniform(0, height), rng.uniform(0, width)],
            [rng.uniform(-4, 4), rng.uniform(-6, 6)],
            rng.uniform(6, height / 5),
            torch.rand(3, 1, 1, generator=g),
            rng.random() < 0.5,
        )
        for _ in range(8)
    ]
    dy, dx = rng.uniform(-2, 2), rng.uniform(-3, 3)
    out = []
    for i in range(frames):
        top, left = int(64 + dy * i) % 128, int(64 + dx * i) % 128
        frame = texture[:, top : top + height, left : left + width].clone()
        for (cy, cx), (vy, vx), radius, colour, round_ in shapes:
            y, x = (cy + vy * i) % height, (cx + vx * i) % width
            distance = (
                ((yy - y) ** 2 + (xx - x) ** 2).sqrt()
                if round_
                else torch.maximum((yy - y).abs() * 2, (xx - x).abs() / 2)
            )
            inside = (radius - distance).clamp(0, 1)
            frame = frame * (1 - inside) + colour * inside
        out.append(frame)
    return (torch.stack(out) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def cached(path: Path, make: Callable[[], Clip]) -> Clip:
    """The clip kept at `path`, made and kept there first if need be; mapped, not loaded."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, make())
    clip: Clip = np.load(path, mmap_mode="r")
    return clip


def load_groups(videos: Path | None, photos: Path | None, cache: Path, seed: int = 0) -> list[tuple[float, list[Clip]]]:
    """Weighted groups of clips: footage at half size, footage as it is, panned photographs, procedural scenes."""
    rng = random.Random(seed)
    groups: list[tuple[float, list[Clip]]] = []
    if videos is not None:
        paths = [path for path in sorted(videos.iterdir()) if path.suffix in VIDEOS]
        full = [cached(cache / f"{path.stem}_full.npy", partial(read_clip, path)) for path in paths]
        half = [
            cached(cache / f"{path.stem}_half.npy", partial(halve, clip))
            for path, clip in zip(paths, full, strict=True)
        ]
        groups += [(0.66, half), (0.18, full)]
    if photos is not None:
        paths = [path for path in sorted(photos.iterdir()) if path.suffix in PHOTOS]
        pans = [
            cached(cache / f"{path.stem}_pan{i}.npy", partial(panned, path, rng)) for path in paths for i in range(2)
        ]
        groups.append((0.12, pans))
    count = 8 if groups else 40
    scenes = [cached(cache / f"scene{i}.npy", lambda: procedural(64, 240, 416, rng)) for i in range(count)]
    groups.append((0.04, scenes))
    return groups


class Clips:
    """Draws random crops in time and space, augmented. Deterministic for its seed."""

    def __init__(self, groups: list[tuple[float, list[Clip]]], seed: int = 0):
        self.rng = random.Random(seed)
        self.groups = [clips for _, clips in groups]
        self.weights = [weight for weight, _ in groups]

    def draw(self, frames: int, height: int, width: int) -> Tensor:
        """[frames, 3, height, width] in [-1, 1]."""
        rng = self.rng
        while True:
            clip = rng.choice(rng.choices(self.groups, self.weights)[0])
            step = 2 if rng.random() < 0.15 and len(clip) >= 2 * frames else 1
            if len(clip) >= frames * step:
                break
        start = rng.randint(0, len(clip) - frames * step)
        top, left = rng.randint(0, clip.shape[1] - height), rng.randint(0, clip.shape[2] - width)
        crop = clip[start : start + frames * step : step, top : top + height, left : left + width]
        x = torch.tensor(crop).permute(0, 3, 1, 2).float() / 127.5 - 1
        if rng.random() < 0.5:
            x = x.flip(3)
        if rng.random() < 0.15:
            x = x.flip(2)
        if rng.random() < 0.3:
            x = x.flip(0)
        if rng.random() < 0.3:
            x = x[:, rng.sample(range(3), 3)]
        if rng.random() < 0.5:
            x = (x * rng.uniform(0.7, 1.15) + rng.uniform(-0.12, 0.12)).clamp(-1, 1)
        return x.contiguous()
