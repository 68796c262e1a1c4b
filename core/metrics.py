"""How near a restored video is to the original. Frames are [T, 3, H, W] in [-1, 1] throughout."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean

import torch
from pytorch_msssim import ssim as windowed_ssim  # type: ignore[import-untyped]
from torch import Tensor

_FLOOR = 1e-10
"""mean square error of a perfect frame, so that its PSNR is 100 dB and not infinite"""


def psnr_per_frame(a: Tensor, b: Tensor) -> list[float]:
    """PSNR of each frame in dB, over RGB in [0, 1] with peak 1; 100 for equal frames."""
    _check(a, b)
    error = ((a.float() - b.float()) / 2).square().mean(dim=(1, 2, 3))
    values: list[float] = (-10 * error.clamp_min(_FLOOR).log10()).tolist()
    return values


def psnr(a: Tensor, b: Tensor) -> float:
    """The mean over frames of `psnr_per_frame`, dB."""
    return fmean(psnr_per_frame(a, b))


def ssim_per_frame(a: Tensor, b: Tensor) -> list[float]:
    """SSIM of each frame by pytorch-msssim: Gaussian window of 11 px, sigma 1.5, mean over R, G, B."""
    _check(a, b)
    if min(a.shape[-2:]) < 11:
        raise ValueError(f"SSIM needs frames of at least 11x11 pixels, found {a.shape[-1]}x{a.shape[-2]}")
    unit_a, unit_b = ((x.float() + 1).div(2).contiguous() for x in (a, b))
    values: list[float] = windowed_ssim(unit_a, unit_b, data_range=1.0, size_average=False).tolist()
    return values


def ssim(a: Tensor, b: Tensor) -> float:
    """The mean over frames of `ssim_per_frame`."""
    return fmean(ssim_per_frame(a, b))


def flicker_per_step(restored: Tensor, original: Tensor) -> list[float]:
    """|Δ restored - Δ original| of each pair of neighbouring frames, mean over RGB in [0, 1]: T - 1 values.

    0 when the restored video changes from frame to frame exactly as the original does.
    """
    _check(restored, original)
    error = (restored.float() - original.float()) / 2
    values: list[float] = error.diff(dim=0).abs().mean(dim=(1, 2, 3)).tolist()
    return values


def flicker(restored: Tensor, original: Tensor) -> float:
    """The mean of `flicker_per_step`; 0 for a single frame."""
    values = flicker_per_step(restored, original)
    return fmean(values) if values else 0.0


@dataclass
class Quality:
    """The metrics of a video that comes chunk by chunk: the same as of all its frames together."""

    psnrs: list[float] = field(default_factory=list)
    """of each frame, dB"""
    ssims: list[float] = field(default_factory=list)
    flickers: list[float] = field(default_factory=list)
    changes: list[tuple[float, float]] = field(default_factory=list)
    """|Δ restored| and |Δ original| of neighbouring frames, mean over RGB in [0, 1]"""
    _last: tuple[Tensor, Tensor] | None = None

    def add(self, restored: Tensor, original: Tensor) -> None:
        """Counts the next frames, [T, 3, H, W] in [-1, 1]."""
        self.psnrs += psnr_per_frame(restored, original)
        self.ssims += ssim_per_frame(restored, original)
        if self._last is not None:
            restored, original = (
                torch.cat(pair) for pair in zip(self._last, (restored, original), strict=True)
            )
        self.flickers += flicker_per_step(restored, original)
        self.changes += zip(_change(restored), _change(original), strict=True)
        self._last = restored[-1:].clone(), original[-1:].clone()

    @property
    def psnr(self) -> float:
        return fmean(self.psnrs)

    @property
    def ssim(self) -> float:
        return fmean(self.ssims)

    @property
    def flicker(self) -> float:
        return fmean(self.flickers) if self.flickers else 0.0

    @property
    def change_ratio(self) -> float:
        """How much the restored video changes from frame to frame where the original changes by 1."""
        restored = sum(change for change, _ in self.changes)
        original = sum(change for _, change in self.changes)
        return restored / original if original else 1.0


def _change(x: Tensor) -> list[float]:
    values: list[float] = (x.float() / 2).diff(dim=0).abs().mean(dim=(1, 2, 3)).tolist()
    return values


def _check(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim != 4 or not len(a):
        found = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ValueError(f"expected two equal shapes [T, 3, H, W], found {found}")
