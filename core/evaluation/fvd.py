"""FVD: the Frechet distance between I3D features of two sets of videos (Unterthiner et al. 2018)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from core.evaluation import metric_weights
from core.evaluation.metric_weights import tensor

Array = npt.NDArray[np.float64]

FRAMES = 16
"""frames of each video that are looked at, from a start that is drawn"""
SEED = 42
"""of those starts: both sets draw the same"""
FEW_VIDEOS = 100
"""below this many videos the covariances say little: the paper's tables use 100"""


class I3D:
    """Inception I3D for RGB (Carreira and Zisserman 2017), trained on Kinetics-400; FVD compares its 400 logits."""

    def __init__(self, arrays: dict[str, Any]):
        """`arrays`: `params` and `batch_stats` of the weight file."""
        self.params, self.statistics = arrays["params"], arrays["batch_stats"]

    @staticmethod
    def load(folder: Path) -> I3D:
        """Raises UsageError when `folder` does not hold the weights."""
        return I3D(metric_weights.read(metric_weights.I3D, folder))

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        """Videos [B, 3, T, 224, 224] in [-1, 1], T at least 16, to logits [B, 400]."""
        x = self._unit(x, "Conv3d_1a_7x7", stride=2)
        x = _pool(x, (1, 3, 3), (1, 2, 2))
        x = self._unit(self._unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3")
        x = _pool(x, (1, 3, 3), (1, 2, 2))
        for name in ("3b", "3c"):
            x = self._mixed(x, name)
        x = _pool(x, (3, 3, 3), (2, 2, 2))
        for name in ("4b", "4c", "4d", "4e", "4f"):
            x = self._mixed(x, name)
        x = _pool(x, (2, 2, 2), (2, 2, 2))
        for name in ("5b", "5c"):
            x = self._mixed(x, name)
        x = F.avg_pool3d(x, (2, 7, 7), stride=1)
        return self._unit(x, "Logits/Conv3d_0c_1x1").mean((2, 3, 4))

    def _mixed(self, x: Tensor, name: str) -> Tensor:
        """An Inception block: four branches side by side."""
        at = f"Mixed_{name}", "Branch_"

        def unit(x: Tensor, branch: str) -> Tensor:
            return self._unit(x, at[1] + branch, at[0])

        branches = (
            unit(x, "0/Conv3d_0a_1x1"),
            unit(unit(x, "1/Conv3d_0a_1x1"), "1/Conv3d_0b_3x3"),
            unit(unit(x, "2/Conv3d_0a_1x1"), "2/Conv3d_0b_3x3"),
            unit(_pool(x, (3, 3, 3), (1, 1, 1)), "3/Conv3d_0b_1x1"),
        )
        return torch.cat(branches, 1)

    def _unit(self, x: Tensor, name: str, block: str | None = None, stride: int = 1) -> Tensor:
        """Convolution, batch normalisation without a scale, ReLU; the logits' one has a bias instead."""
        params = (self.params if block is None else self.params[block])[name]
        weight = tensor(params["Conv_0"]["kernel"]).permute(4, 3, 0, 1, 2).contiguous().to(x)
        x = F.conv3d(_pad_same(x, weight.shape[2:], (stride,) * 3), weight, stride=stride)
        if "BatchNorm_0" not in params:
            return x + _channels(params["Conv_0"]["bias"], x)
        statistics = (self.statistics if block is None else self.statistics[block])[name]["BatchNorm_0"]
        mean, var = (_channels(statistics[key], x) for key in ("mean", "var"))
        return F.relu((x - mean) / (var + 1e-3).sqrt() + _channels(params["BatchNorm_0"]["bias"], x))


def _channels(array: Any, x: Tensor) -> Tensor:
    return tensor(array).view(1, -1, 1, 1, 1).to(x)


def _pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    return F.max_pool3d(_pad_same(x, kernel, stride, -torch.inf), kernel, stride)


def _pad_same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], value: float = 0.0) -> Tensor:
    """TensorFlow's SAME padding: the odd pixel goes to the end."""
    padding: list[int] = []
    for size, taps, step in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-size // step) - 1) * step + taps - size, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding, value=value)


def start_of(video: str, frames: int) -> int | None:
    """The frame from which `video` is looked at, drawn by its name; None where it has too few frames."""
    return random.Random(f"{SEED} {video}").randrange(frames - FRAMES + 1) if frames >= FRAMES else None


def prepared(x: Tensor) -> Tensor:
    """Frames [16, 3, H, W] in [-1, 1] to what I3D sees, [1, 3, 16, 224, 224]: the centre square."""
    height, width = x.shape[-2:]
    scale = 256 / min(height, width)
    size = (max(256, round(height * scale)), max(256, round(width * scale)))
    x = F.interpolate(x.float(), size=size, mode="bilinear", align_corners=False)
    top, left = (size[0] - 256) // 2, (size[1] - 256) // 2
    x = F.interpolate(x[..., top : top + 256, left : left + 256], size=(224, 224), mode="bilinear", align_corners=False)
    return x.transpose(0, 1)[None]


def frechet_distance(a: Array, b: Array) -> float:
    """Between Gaussians fitted to two sets of features [N, D]: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)).

    The root's trace is the sum of the square roots of the eigenvalues of R S2 R, where R = S1^(1/2): for symmetric
    matrices that is exact and needs no general matrix root. Raises ValueError for fewer than two videos.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"expected two videos at least for a Frechet distance, found {min(len(a), len(b))}")
    covariances = [np.cov(features, rowvar=False).reshape(features.shape[1], -1) for features in (a, b)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    between = np.sqrt(np.linalg.eigvalsh(root @ covariances[1] @ root).clip(0)).sum()
    means = np.square(a.mean(0) - b.mean(0)).sum()
    return float(means + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * between)
