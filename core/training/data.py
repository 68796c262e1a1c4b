"""Pictures to train on: footage and photographs where they are given, procedural scenes where they are not."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial
from itertools import takewhile
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from core.clip import decoded
from core.errors import UsageError
from core.training.sources import Clip, Footage, Photograph, Source, Wander

VIDEOS = (".mp4", ".mkv", ".webm", ".mov")
PHOTOS = (".jpg", ".jpeg", ".png")
SHORT_SIDE = 240
"""pixels of the short side to which footage is shrunk: cameras are sharp at a fraction of their size only"""
NATIVE_FRAMES = 48
"""frames of a clip that are also kept at their own size"""
SCENES = 40
"""procedural scenes where there is nothing else; a fifth of them beside footage"""
SHORTEST = 24
"""frames of the shortest clip that is used"""


def read_clip(path: Path) -> Clip:
    """The frames of a video, to where their size changes. Raises UsageError for a file of which none decodes."""
    frames = (frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False) for frame in decoded(path))
    first = next(frames)
    return np.stack([first, *takewhile(lambda pixels: pixels.shape == first.shape, frames)])


def halve(clip: Clip) -> Clip:
    """The clip at half its size, by area; it may lie in a file, and a few frames of it are read at a time."""
    parts = (torch.tensor(clip[start : start + 16]).permute(0, 3, 1, 2) for start in range(0, len(clip), 16))
    halved = torch.cat([F.avg_pool2d(part.float(), 2).round().byte() for part in parts])
    return halved.permute(0, 2, 3, 1).contiguous().numpy()


def shrink(clip: Clip) -> Clip:
    """The clip with a short side of SHORT_SIDE pixels, by area."""
    height, width = clip.shape[1:3]
    scale = SHORT_SIDE / min(height, width)
    size = (round(width * scale / 2) * 2, round(height * scale / 2) * 2)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in clip])


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


class Library:
    """Draws sources from weighted groups of clips and photographs. Deterministic for the generator it is given."""

    def __init__(self, groups: list[tuple[float, list[Clip] | list[Photograph]]]):
        self.groups = [(weight, items) for weight, items in groups if items]

    def draw(self, size: int, rng: random.Random) -> Source:
        """A source of frames of `size` x `size` pixels.

        Raises ValueError when no picture is large enough.
        """
        weights = [weight for weight, _ in self.groups]
        for _ in range(1000):
            item = rng.choice(rng.choices(self.groups, weights)[0][1])
            if item.ndim == 3 and min(item.shape[:2]) >= 1.3 * size:
                return Wander(item, size, rng)
            if item.ndim == 4 and min(item.shape[1:3]) >= size and len(item) >= SHORTEST:
                return Footage(item, size, rng)
        raise ValueError(f"expected pictures of at least {size} x {size} pixels and clips of {SHORTEST} frames")


def load_library(
    videos: Iterable[Path], photos: Iterable[Path], cache: Path, seed: int = 0, say: Callable[[str], None] = print
) -> Library:
    """Footage shrunk, some of it at its own size, photographs, and procedural scenes (those alone, where nothing is
    given). What is decoded is kept in the folder `cache`. What cannot be read is left out, and `say` hears why.
    """
    rng = random.Random(seed)
    clips = [path for folder in videos for path in listed(folder, VIDEOS)]
    pictures = [path for folder in photos for path in listed(folder, PHOTOS)]
    small = readable(clips, lambda path: cached(kept_at(path, cache), partial(read_small, path)), say)
    kept = [path for path in clips if kept_at(path, cache).exists()]
    native = [cached(kept_at(path, cache, "_native"), partial(read_native, path)) for path in kept]
    photographs = readable(pictures, lambda path: cached(kept_at(path, cache), partial(read_photo, path)), say)
    count = SCENES if not small and not photographs else SCENES // 5
    scenes = [cached(cache / f"scene{i}.npy", lambda: procedural(64, 240, 416, rng)) for i in range(count)]
    return Library([(0.50, small), (0.10, native), (0.36, photographs), (0.04, scenes)])


def readable(
    paths: Iterable[Path], read: Callable[[Path], npt.NDArray[np.uint8]], say: Callable[[str], None]
) -> list[npt.NDArray[np.uint8]]:
    """What `read` makes of the files that it can read."""
    found = []
    for path in paths:
        try:
            found.append(read(path))
        except UsageError as error:
            say(f"left out: {error}")
    return found


def kept_at(path: Path, cache: Path, ending: str = "") -> Path:
    return cache / f"{path.parent.name}_{path.stem}{ending}.npy"


def read_small(path: Path) -> Clip:
    return shrink(read_clip(path))


def read_native(path: Path) -> Clip:
    return read_clip(path)[:NATIVE_FRAMES]


def listed(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.suffix.lower() in endings]


def read_photo(path: Path) -> Photograph:
    """Raises UsageError for a file that is not a picture."""
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise UsageError(f"expected a picture in {path}, found none that decodes")
    return np.ascontiguousarray(pixels, np.uint8)


def cached(path: Path, make: Callable[[], npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """What is kept at `path`, made and kept there first if need be; mapped, not loaded."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, make())
    kept: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return kept
