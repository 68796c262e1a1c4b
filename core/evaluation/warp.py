"""How steady a restored video is, by the motion of the original: no weights. Frames are [T, 3, H, W] in [-1, 1]."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from core.evaluation.metrics import check_pair
from core.video import to_pixels

Grey = npt.NDArray[np.uint8]
Flow = npt.NDArray[np.float32]
Visible = npt.NDArray[np.bool_]


class Motion:
    """The optical flow of an original video, and which pixels two neighbouring frames both show."""

    def __init__(self, original: Tensor):
        greys = luminance(original)
        self.steps: list[tuple[Flow, Visible]] = []
        """of each frame after the first: flow to the frame before, and what is visible in both"""
        for before, frame in pairwise(greys):
            back = flow(frame, before)
            self.steps.append((back, ~occluded(back, flow(before, frame))))

    def warp_error(self, restored: Tensor) -> float:
        """Mean |x_i - W(x_{i-1})| over the pixels visible in both frames, RGB in [0, 1]; 0 for a single frame.

        W moves the frame before into place by the flow of the original. The original's own error is not 0: noise and
        changes of light count there too.
        """
        if len(restored) != len(self.steps) + 1:
            raise ValueError(f"expected {len(self.steps) + 1} frames, found {len(restored)}")
        errors = []
        for before, frame, (back, visible) in zip(restored, restored[1:], self.steps, strict=False):
            error = (frame - warp(before[None], back)[0]).abs().mean(0).cpu().numpy() / 2
            if visible.any():
                errors.append(float(error[visible].mean()))
        return float(np.mean(errors)) if errors else 0.0


def warp_error(restored: Tensor, original: Tensor) -> float:
    """`Motion.warp_error` of a restored video by the motion of its original."""
    check_pair(restored, original)
    return Motion(original).warp_error(restored)


def luminance(x: Tensor) -> list[Grey]:
    """Each frame of x in 8-bit grey [H, W], as optical flow takes it."""
    return [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.uint8) for frame in to_pixels(x)]


def flow(source: Grey, target: Grey) -> Flow:
    """Dense optical flow [H, W, 2] in pixels (DIS): where each pixel of `source` lies in `target`."""
    engine = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return np.asarray(engine.calc(source, target, np.zeros((*source.shape, 2), np.float32)), np.float32)


def warp(x: Tensor, motion: Flow) -> Tensor:
    """Frames x [T, C, H, W] looked up at each pixel plus `motion` [H, W, 2], bilinear; edges repeated."""
    height, width = x.shape[-2:]
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    centres = np.stack([columns + motion[..., 0], rows + motion[..., 1]], -1)
    scaled = (2 * centres + 1) / np.array([width, height]) - 1
    grid = torch.from_numpy(scaled.astype(np.float32)).to(x)[None].expand(len(x), -1, -1, -1)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def occluded(back: Flow, forth: Flow) -> Visible:
    """Where `back` and the `forth` that it meets do not cancel: |b + W(f)| > 0.01 (|b| + |W(f)|) + 0.5 pixels."""
    met = warp(torch.from_numpy(forth).permute(2, 0, 1)[None], back)[0].permute(1, 2, 0).numpy()
    size = np.linalg.norm(back, axis=-1) + np.linalg.norm(met, axis=-1)
    apart: Visible = np.linalg.norm(back + met, axis=-1) > 0.01 * size + 0.5
    return apart
