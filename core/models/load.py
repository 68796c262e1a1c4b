"""Loads a model of the table onto a device. Tests load small configurations of the same classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from core.contract import LATENTS
from core.errors import UsageError
from core.models.base import Denoiser, VideoCodec
from core.models.table import Weights, choose


@dataclass(frozen=True)
class Model:
    """A codec and a denoiser on one device, ready to run."""

    name: str
    codec: VideoCodec
    denoiser: Denoiser
    device: torch.device
    num_steps: int = 2
    """denoising steps per chunk, K, where a session asks for none"""
    latents: tuple[int, ...] = (3, 1)
    """how many latents its chunks may have"""


def load(
    name: str,
    weights: Weights = "pretrained",
    device: str = "auto",
    codec: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Model:
    """The model `name` on `device` ("auto" takes a GPU where there is one), with `settings` of its own by name.

    Raises UsageError for a name, codec, device or setting that is not there, or for weights that are missing.
    """
    spec, codec, config = choose(name, codec, settings)
    target = choose_device(device)
    loader: Callable[..., tuple[VideoCodec, Denoiser]] = import_module(spec.module).load
    video_codec, denoiser = loader(weights, target, codec, config)
    latents = tuple(LATENTS[latency] for latency in spec.latencies)
    return Model(name, video_codec, denoiser, target, spec.num_steps, latents)


def weight_files(
    name: str, weights: Weights = "pretrained", codec: str | None = None, settings: Mapping[str, Any] | None = None
) -> list[Path]:
    """The files that `load` reads for the same arguments; none of random weights."""
    spec, codec, config = choose(name, codec, settings)
    finder: Callable[..., list[Path]] = import_module(spec.module).files
    return finder(weights, codec, config)


def choose_device(device: str) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one. Raises UsageError for one that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"{device!r} is no device: expected auto, cpu, cuda or cuda:N") from error
    if chosen.type not in ("cpu", "cuda"):
        raise UsageError(f"models run on cpu and cuda, not on {device!r}")
    usable = torch.cuda.device_count()
    if chosen.type == "cuda" and (chosen.index or 0) >= usable:
        raise UsageError(f"device {device} was asked for, and this machine has {usable} usable NVIDIA GPUs")
    return chosen
