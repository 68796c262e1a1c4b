"""The quality of a video that comes chunk by chunk, with SSIM. Frames are [T, 3, H, W] in [-1, 1]."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean

import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from core.evaluation.metrics import change_per_step, check_pair, flicker_per_step, psnr_per_frame

WANG = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
"""scikit-image's settings for SSIM as Wang et al. define it, for values in [0, 1]"""


def ssim_per_frame(a: Tensor, b: Tensor) -> list[float]:
    """SSIM of each frame by scikit-image: Gaussian window, sigma 1.5, mean over R, G and B."""
    check_pair(a, b)
    if min(a.shape[-2:]) < 11:
        raise ValueError(f"SSIM needs frames of at least 11x11 pixels, found {a.shape[-1]}x{a.shape[-2]}")
    pairs = zip(*((x.float() / 2 + 0.5).cpu().numpy() for x in (a, b)), strict=True)
    return [float(structural_similarity(p, q, channel_axis=0, **WANG)) for p, q in pairs]


def ssim(a: Tensor, b: Tensor) -> float:
    """The mean over frames of `ssim_per_frame`."""
    return fmean(ssim_per_frame(a, b))


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
            restored, original = (torch.cat(pair) for pair in zip(self._last, (restored, original), strict=True))
        self.flickers += flicker_per_step(restored, original)
        self.changes += zip(change_per_step(restored), change_per_step(original), strict=True)
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
