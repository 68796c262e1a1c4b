"""LPIPS v0.1 (Zhang et al. 2018) with AlexNet or VGG16, from published weights. Frames are [T, 3, H, W] in [-1, 1]."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from core.evaluation import metric_weights
from core.evaluation.metric_weights import ALEX, VGG, tensor
from core.evaluation.metrics import check_pair

Net = Literal["alex", "vgg"]

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""mean and standard deviation of ImageNet's pixels, on [-1, 1]"""

VGG_LAYERS = (2, 2, 3, 3, 3)
"""convolutions of VGG16 before each of the five compared features"""

PAPER_SIDE = 224
"""pixels: the paper's evaluation compares frames that are resized to 224 x 224"""


class LPIPS:
    """A distance between pictures: 0 for equal ones, about 0.7 for unrelated ones."""

    def __init__(self, net: Net, arrays: dict[str, Any], dtype: torch.dtype = torch.float32):
        """`arrays`: the content of the weight file of `net`; the features are computed in `dtype`."""
        self.net, self.dtype = net, dtype
        trunk = arrays["AlexNet_0" if net == "alex" else "VGG16_0"]
        layers = [trunk[f"Conv_{index}"] for index in range(len(trunk))]
        self.convs = [
            (tensor(c["kernel"]).permute(3, 2, 0, 1).to(dtype).contiguous(), tensor(c["bias"]).to(dtype))
            for c in layers
        ]
        self.heads = [tensor(arrays[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]).reshape(1, -1, 1, 1) for i in range(5)]

    @staticmethod
    def load(net: Net, folder: Path, dtype: torch.dtype = torch.float32) -> LPIPS:
        """Raises UsageError when `folder` does not hold the weights."""
        return LPIPS(net, metric_weights.read(ALEX if net == "alex" else VGG, folder), dtype)

    @torch.inference_mode()
    def __call__(self, a: Tensor, b: Tensor) -> list[float]:
        """The distance of each pair of frames, at their own size."""
        check_pair(a, b)
        values: list[float] = self.distances(a, b).tolist()
        return values

    def distances(self, a: Tensor, b: Tensor) -> Tensor:
        """The same as a tensor [T] with a gradient, to train with."""
        pairs = zip(self._features(a), self._features(b), self.heads, strict=True)
        return torch.stack([((p - q).square() * head.to(p)).sum(1).mean((1, 2)) for p, q, head in pairs]).sum(0)

    def _features(self, x: Tensor) -> list[Tensor]:
        shift, scale = (torch.tensor(values).view(1, 3, 1, 1).to(x) for values in (SHIFT, SCALE))
        found = (self._alex if self.net == "alex" else self._vgg)(((x.float() - shift) / scale).to(self.dtype))
        features = [f.float() for f in found]
        return [f / (f.square().sum(1, keepdim=True) + 1e-20).sqrt() for f in features]

    def _alex(self, x: Tensor) -> list[Tensor]:
        found = [self._conv(x, 0, stride=4, padding=2)]
        found.append(self._conv(F.max_pool2d(found[-1], 3, 2), 1, padding=2))
        x = F.max_pool2d(found[-1], 3, 2)
        for index in (2, 3, 4):
            x = self._conv(x, index)
            found.append(x)
        return found

    def _vgg(self, x: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        index = 0
        for layers in VGG_LAYERS:
            x = F.max_pool2d(x, 2, 2) if found else x
            for _ in range(layers):
                x, index = self._conv(x, index), index + 1
            found.append(x)
        return found

    def _conv(self, x: Tensor, index: int, stride: int = 1, padding: int = 1) -> Tensor:
        weight, bias = (part.to(x) for part in self.convs[index])
        return F.relu(F.conv2d(x, weight, bias, stride, padding))


def paper_size(x: Tensor) -> Tensor:
    """Frames as the paper's evaluation shows them to LPIPS: 224 x 224, bilinear, without antialiasing."""
    return F.interpolate(x, size=(PAPER_SIDE, PAPER_SIDE), mode="bilinear", align_corners=False)
