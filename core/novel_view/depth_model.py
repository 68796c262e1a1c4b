"""Depth of real frames from a depth-estimation checkpoint in a local folder. Needs the extra `wan` (transformers)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForDepthEstimation

from core.errors import UsageError

PATCH = 14
"""what the sides that a model sees are multiples of, where it says nothing"""
LONGEST = 518
"""pixels of the longer side that the model sees"""


@torch.inference_mode()
def estimate_disparity(folder: Path, frames: Tensor, device: torch.device) -> Tensor:
    """The relative disparity [T, H, W] of frames [T, 3, H, W] in [-1, 1], larger where nearer. Downloads nothing.

    Raises UsageError for a folder that holds no such model.
    """
    if not folder.is_dir():
        raise UsageError(f"expected a folder with a depth model, found none at {folder}")
    try:
        model = AutoModelForDepthEstimation.from_pretrained(folder, local_files_only=True).to(device).eval()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"expected a depth-estimation model of transformers in {folder}, found none: {error}"
        ) from error
    mean, std = _statistics(folder)
    size = size_for(model.config, *frames.shape[-2:])
    found = []
    for frame in frames.split(1):
        x = F.interpolate(frame.to(device) / 2 + 0.5, size=size, mode="bicubic", align_corners=False).clamp(0, 1)
        raw = model(pixel_values=(x - mean.to(x)) / std.to(x)).predicted_depth[:, None]
        found.append(F.interpolate(raw.float(), size=frames.shape[-2:], mode="bilinear", align_corners=False)[0, 0])
    return torch.stack(found).cpu()


def size_for(config: Any, height: int, width: int) -> tuple[int, int]:
    """The size that a model with this configuration sees frames at; a DPT knows squares only."""
    if config.model_type == "dpt":
        return config.image_size, config.image_size
    return seen_size(height, width, getattr(config, "patch_size", None) or PATCH)


def seen_size(height: int, width: int, step: int) -> tuple[int, int]:
    """The size that the model sees: LONGEST at most, each side a multiple of `step`."""
    scale = min(1.0, LONGEST / max(height, width))
    rows, columns = (max(step, round(side * scale / step) * step) for side in (height, width))
    return rows, columns


def _statistics(folder: Path) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of pixels that the model was trained with, as its folder says; ImageNet's else."""
    file = folder / "preprocessor_config.json"
    said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    mean, std = said.get("image_mean", [0.485, 0.456, 0.406]), said.get("image_std", [0.229, 0.224, 0.225])
    return torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)
