"""The table of models: what there is under each name, and what may be set of it. Loads no model and no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from core.chunks import ChunkSpec
from core.config import Config
from core.contract import LATENTS, Latency, Tier
from core.errors import UsageError
from core.model_settings import TinySettings, WanConfig, configure

Weights = Literal["pretrained", "random"]


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
    tiers: tuple[Tier, ...] = ("faithful",)
    latencies: tuple[Latency, ...] = ("normal",)
    """how long its chunks may be, the usual one first: what its weights were trained on"""
    reinject_every: int = 7
    """how often its chunks are guided where nobody says so; 7 is the paper's long-video setting"""


MODELS: dict[str, ModelSpec] = {
    "tiny": ModelSpec(
        "the embedded model: real time on two CPU cores",
        "core.models.tiny.load",
        1,
        (416, 240),
        (416, 240),
        ("dct",),
        TinySettings,
        ("faithful", "sharp"),
        ("normal", "low"),
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


def choose(name: str, codec: str | None, settings: Mapping[str, Any] | None) -> tuple[ModelSpec, str, Config]:
    """The model's row, its codec and its settings. Raises UsageError for what is not there; loads nothing."""
    if name not in MODELS:
        raise UsageError(f"there is no model {name!r}; there are {', '.join(MODELS)}")
    spec = MODELS[name]
    codec = codec or spec.codecs[0]
    if codec not in spec.codecs:
        raise UsageError(f"model {name} has no codec {codec!r}; it has {', '.join(spec.codecs)}")
    return spec, codec, configure(name, spec.config, settings or {})


def tiers(name: str) -> tuple[Tier, ...]:
    """What the model `name` was trained for; all that there are, for a model that is not in the table."""
    return MODELS[name].tiers if name in MODELS else get_args(Tier)


def check_tier(name: str, tier: Tier) -> None:
    """Raises UsageError when the model `name` has no such tier."""
    if tier not in tiers(name):
        raise UsageError(f"model {name} has no tier {tier!r}; it has {', '.join(tiers(name))}")


def solver_defaults(name: str) -> dict[str, Any]:
    """The solver's settings that the model `name` knows better than the solver; none for one not in the table."""
    if name not in MODELS:
        return {}
    return {"num_steps": MODELS[name].num_steps, "reinject_every": MODELS[name].reinject_every}


def latencies(name: str) -> tuple[Latency, ...]:
    """How long the chunks of the model `name` may be; of any length, for a model that is not in the table."""
    return MODELS[name].latencies if name in MODELS else get_args(Latency)


def check_latency(name: str, latency: Latency) -> None:
    """Raises UsageError when the model `name` takes no chunks of that length."""
    known = latencies(name)
    if latency not in known:
        usual, found = (ChunkSpec(LATENTS[which]).frames(1) for which in (known[0], latency))
        raise UsageError(f"model {name} was trained on chunks of {usual} frames, and takes none of {found}")
