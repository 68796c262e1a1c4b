"""The optional metrics of a run: which were asked for, and their figures for a clip. Loads weights, downloads none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.contract import Pixels
from core.errors import UsageError
from core.evaluation.evaluate import ROW_KEYS, grouped
from core.evaluation.fvd import FEW_VIDEOS, FRAMES, I3D, frechet_distance, prepared, start_of
from core.evaluation.lpips import LPIPS, paper_size
from core.evaluation.metric_weights import HOW_TO_GET
from core.evaluation.metrics import psnr
from core.evaluation.mp4 import through_mp4
from core.evaluation.quality import ssim
from core.evaluation.warp import Motion
from core.video import from_pixels

NAMES = ("lpips", "fvd", "fid")

NO_FID = (
    "FID is left out: its Inception network is in no package with a known hash, and random weights would give a "
    "number that means nothing"
)

FEATURES = "i3d_features"
"""key of a row with the logits of the restored and of the original video, which only FVD needs"""

BATCH = 8
"""frames that LPIPS looks at together"""


@dataclass
class Extras:
    """The metrics beyond PSNR and SSIM that a run computes."""

    lpips_vgg: LPIPS | None = None
    lpips_alex: LPIPS | None = None
    i3d: I3D | None = None
    mp4: bool = False
    """also compare both videos after H.264 files, as the paper's evaluation does"""
    every: int = 1
    """LPIPS looks at each n-th frame"""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @staticmethod
    def load(names: Sequence[str], folder: Path | None, mp4: bool, every: int, device: torch.device) -> Extras:
        """Raises UsageError for weights that are not in `folder`."""
        if {"lpips", "fvd"} & set(names) and folder is None:
            raise UsageError(f"expected --metric-weights FOLDER with --metrics {','.join(names)}: {HOW_TO_GET}")
        found = Extras(mp4=mp4, every=every, device=device)
        if folder is not None and "lpips" in names:
            found.lpips_vgg, found.lpips_alex = LPIPS.load("vgg", folder), LPIPS.load("alex", folder)
        if folder is not None and "fvd" in names:
            found.i3d = I3D.load(folder)
        return found

    def of_clip(self, name: str, pixels: Pixels) -> ClipExtras:
        """What is computed once for the original `pixels` [T, H, W, 3] of the clip `name`."""
        return ClipExtras(self, name, from_pixels(pixels))


class ClipExtras:
    """The extra metrics of one clip; what depends on the original alone is computed once."""

    def __init__(self, extras: Extras, name: str, original: Tensor):
        self.extras, self.name, self.original = extras, name, original
        self.motion = Motion(original)
        self.start = start_of(name, len(original)) if extras.i3d else None
        self.features = self._features(original)
        self.saved = through_mp4(original) if extras.mp4 else None

    def row(self, restored: Pixels) -> dict[str, Any]:
        """The figures of the restored `pixels` [T, H, W, 3]."""
        x = from_pixels(restored)
        found: dict[str, Any] = {"warp_error": self.motion.warp_error(x)}
        if self.extras.lpips_vgg:
            found["lpips_vgg"] = self._lpips(self.extras.lpips_vgg, paper_size(x), paper_size(self.original))
        if self.extras.lpips_alex:
            found["lpips_alex"] = self._lpips(self.extras.lpips_alex, x, self.original)
        if self.features is not None:
            found[FEATURES] = (self._features(x), self.features)
        if self.saved is not None:
            saved = through_mp4(x)
            found |= {"psnr_mp4": psnr(saved, self.saved), "ssim_mp4": ssim(saved, self.saved)}
        return found

    def _lpips(self, net: LPIPS, x: Tensor, original: Tensor) -> float:
        every, device = self.extras.every, self.extras.device
        pairs = zip(x[::every].split(BATCH), original[::every].split(BATCH), strict=True)
        return fmean(value for a, b in pairs for value in net(a.to(device), b.to(device)))

    def _features(self, x: Tensor) -> list[float] | None:
        """The logits of the 16 frames that FVD looks at; None where there are fewer."""
        if self.extras.i3d is None or self.start is None:
            return None
        shown = x[self.start : self.start + FRAMES].to(self.extras.device)
        values: list[float] = self.extras.i3d(prepared(shown))[0].tolist()
        return values


def fvd_rows(rows: Sequence[dict[str, Any]], keys: Sequence[str] = ROW_KEYS) -> list[dict[str, Any]]:
    """FVD of each group of rows that agree in `keys`, over their clips; groups of one clip are left out."""
    found = []
    held = [row for row in rows if row.get(FEATURES)]
    for key, group in grouped(held, lambda row: tuple(row.get(name) for name in keys)).items():
        if len(group) > 1:
            restored, original = (np.array([row[FEATURES][side] for row in group]) for side in (0, 1))
            figures = {"fvd": frechet_distance(restored, original), "videos": len(group)}
            found.append({**dict(zip(keys, key, strict=True)), **figures, "few": len(group) < FEW_VIDEOS})
    return found


def without_features(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows as a report tells them."""
    return [{key: value for key, value in row.items() if key != FEATURES} for row in rows]
