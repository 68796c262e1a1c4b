"""The table of models: a name, and how to load it. Tests load small configurations of the same classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

import torch

from core.errors import UsageError
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
    """where its `load(weights, device, codec)` is; imported when the model is asked for"""
    num_steps: int
    sizes: tuple[str, ...]
    """sizes it is at home in, WIDTHxHEIGHT, the first one warmed up"""
    codecs: tuple[str, ...]


MODELS: dict[str, ModelSpec] = {
    "tiny": ModelSpec(
        "the embedded model: real time on two CPU cores",
        "core.models.tiny_load",
        1,
        ("416x240", "256x144", "832x480"),
        ("dct",),
    ),
    "wan2.1-1.3b": ModelSpec(
        "Wan2.1-T2V-1.3B with Self-Forcing's weights: the paper's own, on a GPU",
        "core.models.wan",
        2,
        ("832x480",),
        ("taehv", "wan-vae"),
    ),
}


def load(name: str, weights: Weights = "pretrained", device: str = "auto", codec: str | None = None) -> Model:
    """The model `name` on `device` ("auto" takes a GPU where there is one).

    Raises UsageError for a name, codec or device that is not there, or for weights that are missing.
    """
    if name not in MODELS:
        raise UsageError(f"there is no model {name!r}; there are {', '.join(MODELS)}")
    spec = MODELS[name]
    codec = codec or spec.codecs[0]
    if codec not in spec.codecs:
        raise UsageError(f"model {name} has no codec {codec!r}; it has {', '.join(spec.codecs)}")
    target = choose_device(device)
    loader: Callable[[Weights, torch.device, str], tuple[VideoCodec, Denoiser]] = import_module(spec.module).load
    video_codec, denoiser = loader(weights, target, codec)
    return Model(name, video_codec, denoiser, target, spec.num_steps)


def choose_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"{device!r} is no device: expected auto, cpu, cuda or cuda:N") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {device} was asked for, and this machine has no usable NVIDIA GPU")
    return chosen
