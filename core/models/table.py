"""The table of models: a name, and how to load it. Tests load small configurations of the same classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import torch

from core.config import Config
from core.errors import UsageError
from core.model_settings import NoSettings, WanConfig, configure
from core.models.base import Denoiser, VideoCodec

Weights = Literal["pretrained", "random"]


@dataclass(frozen=True)
class Model:
    """A codec and a denoiser on one device, ready to run."""

    name: str
    codec: VideoCodec
    denoiser: Denoiser
    device: torch.device
    num_steps: int = 2
    """denoising steps per chunk, K, where a session asks for none"""


@dataclass(frozen=True)
class ModelSpec:
    """A row of MODELS."""

    summary: str
    module: str
    """where its `load(weights, device, codec, config)` is; imported when the model is asked for"""
    num_steps: int
    size: tuple[int, int]
    """(width, height) of restored frames that it is warmed up at on a GPU, unless told otherwise"""
    cpu_size: tuple[int, int]
    """and on a CPU, where a large model must be warm within minutes too"""
    codecs: tuple[str, ...]
    """the first one where none is asked for"""
    config: type[Config]
    """what a user may set of it"""


MODELS: dict[str, ModelSpec] = {
    "tiny": ModelSpec(
        "the embedded model: real time on two CPU cores",
        "core.models.tiny.load",
        1,
        (416, 240),
        (416, 240),
        ("dct",),
        NoSettings,
    ),
    "wan2.1-1.3b": ModelSpec(
        "Wan2.1-T2V-1.3B with Self-Forcing's weights: the paper's own, on a GPU",
        "core.models.wan.model",
        2,
        (832, 480),
        (96, 64),
        ("taehv", "wan-vae"),
        WanConfig,
    ),
}


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
    return Model(name, video_codec, denoiser, target, spec.num_steps)


def choose(name: str, codec: str | None, settings: Mapping[str, Any] | None) -> tuple[ModelSpec, str, Config]:
    """The model's row, its codec and its settings. Raises UsageError for what is not there; loads nothing."""
    if name not in MODELS:
        raise UsageError(f"there is no model {name!r}; there are {', '.join(MODELS)}")
    spec = MODELS[name]
    codec = codec or spec.codecs[0]
    if codec not in spec.codecs:
        raise UsageError(f"model {name} has no codec {codec!r}; it has {', '.join(spec.codecs)}")
    return spec, codec, configure(name, spec.config, settings or {})


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
