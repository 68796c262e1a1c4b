"""What the clients of a load test send: a synthetic scene or a clip. The same number is the same picture."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from av import VideoFrame
from av.error import FFmpegError

from core.clip import decoded
from core.errors import UsageError

Yuv = npt.NDArray[np.uint8]
"""A picture in yuv420p, planes stacked [H * 3 / 2, W]."""

CLIP_FRAMES = 160
"""most frames of a clip that are kept"""


class Footage(Protocol):
    def __call__(self, number: int) -> Yuv:
        """The picture of that number, for the caller to draw on."""
        ...


class SyntheticScene:
    """A textured ground that drifts, and discs that cross it: detail to restore, and motion that is known."""

    def __init__(self, width: int, height: int, seed: int = 0):
        self._rng = np.random.default_rng(seed)
        self.width, self.height = width, height
        self._ground = self._texture(2 * height, 2 * width)
        self._tint = self._rng.integers(96, 160, (4, 2))
        self._speed = self._rng.uniform(0.5, 1.5, (4, 2)) * (width / 128, height / 128)
        self._start = self._rng.uniform(0, 1, (4, 2)) * (width, height)

    def __call__(self, number: int) -> Yuv:
        width, height = self.width, self.height
        luma = self._window(number)
        chroma = np.full((2, height // 2, width // 2), 128, np.uint8)
        rows, columns = np.ogrid[:height, :width]
        for (dx, dy), (x, y), tint in zip(self._speed, self._start, self._tint, strict=True):
            at_x, at_y = _bounce(x + dx * number, width), _bounce(y + dy * number, height)
            disc = (columns - at_x) ** 2 + (rows - at_y) ** 2 < (height / 8) ** 2
            luma[disc] = 255 - luma[disc]
            chroma[:, disc[::2, ::2]] = tint[:, None]
        return np.concatenate([luma, chroma.reshape(height // 2, width)])

    def _window(self, number: int) -> Yuv:
        """The part of the ground that is seen: it moves by a pixel a frame and turns at the edges."""
        top, left = round(_bounce(number * 0.5, self.height)), round(_bounce(number, self.width))
        window: Yuv = self._ground[top : top + self.height, left : left + self.width].copy()
        return window

    def _texture(self, height: int, width: int) -> Yuv:
        """Noise of all scales, luma in 32..224."""
        total = np.zeros((height, width))
        for scale in (64, 16, 8, 4, 2):
            coarse = self._rng.normal(size=(height // scale + 2, width // scale + 2))
            total += scale**0.5 * _enlarge(coarse, scale)[:height, :width]
        low, high = np.percentile(total, [1, 99])
        scaled: Yuv = (32 + 192 * np.clip((total - low) / (high - low), 0, 1)).astype(np.uint8)
        return scaled


class Clip:
    """The first frames of a video file, forwards and backwards for ever, so that there is no cut."""

    def __init__(self, path: Path, width: int, height: int):
        try:
            frames = islice(decoded(path), CLIP_FRAMES)
            self._frames = [picture_of(frame, width, height) for frame in frames]
        except (FFmpegError, OSError, ValueError) as error:
            raise UsageError(f"cannot read the clip {path}: {error}") from error

    def __call__(self, number: int) -> Yuv:
        return self._frames[round(_bounce(number, len(self._frames) - 1))].copy()


def picture_of(frame: VideoFrame, width: int, height: int) -> Yuv:
    return frame.reformat(width, height, "yuv420p", interpolation="AREA").to_ndarray().astype(np.uint8, copy=False)


def _bounce(position: float, length: float) -> float:
    """A position that runs up to `length` and back, for ever."""
    if length <= 0:
        return 0.0
    position %= 2 * length
    return min(position, 2 * length - position)


def _enlarge(coarse: npt.NDArray[np.float64], scale: int) -> npt.NDArray[np.float64]:
    """Linear interpolation by `scale` each way; one row and column of the coarse grid are lost."""
    weight = (np.arange(scale) / scale)[None, :, None]
    rows = (coarse[:-1, None] * (1 - weight) + coarse[1:, None] * weight).reshape(-1, coarse.shape[1])
    columns = (rows.T[:-1, None] * (1 - weight) + rows.T[1:, None] * weight).reshape(-1, rows.shape[0])
    return columns.T
