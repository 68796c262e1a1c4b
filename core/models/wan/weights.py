"""The published weights: which files, under which licence, and how their tensors reach our modules.

Reads and converts files; fetches nothing. Two layouts of each model load: the authors' own, whose names are ours, and
that of Diffusers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from core.errors import UsageError
from core.model_settings import FOLDER
from core.written import written

Kind = Literal["dit", "wan-vae", "taehv", "text"]

PROMPT = "prompt.safetensors"
"""the prompt embedding in that folder that is used when no other is named"""


@dataclass(frozen=True)
class PublishedFile:
    """One file of the authors', at one revision."""

    path: str
    """where it lies below the weights folder"""
    url: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Published:
    """A set of files that are fetched together and become one thing."""

    kind: Kind
    what: str
    licence: str
    source: str
    files: tuple[PublishedFile, ...]
    converted: str | None = None
    """the bfloat16 safetensors file made of them, below the weights folder"""


def _hub(repository: str, revision: str, name: str, size: int, sha256: str) -> PublishedFile:
    url = f"https://huggingface.co/{repository}/resolve/{revision}/{name}"
    return PublishedFile(f"{repository}/{name}", url, size, sha256)


_WAN = ("Wan-AI/Wan2.1-T2V-1.3B", "37ec512624d61f7aa208f7ea8140a131f93afc9a")
_SELF_FORCING = ("gdhe17/Self-Forcing", "2f8b779212da279d212c22a509b66ad6552f350e")
_TAEHV = "https://raw.githubusercontent.com/madebyollin/taehv/093b918971d59001a0bad6dfd6e0409b5e1752cf"

PUBLISHED: dict[str, Published] = {
    "self-forcing": Published(
        "dit",
        "the causal 1.3B transformer, distilled by Self-Forcing (DMD): the paper's denoiser",
        "CC BY-NC-SA 4.0 according to its model card (no commercial use); the authors' code is Apache-2.0",
        "https://huggingface.co/gdhe17/Self-Forcing",
        (
            _hub(
                *_SELF_FORCING,
                "checkpoints/self_forcing_dmd.pt",
                5_676_252_553,
                "a0413986d9734e02c09504e1520f5697ba6df731bb2f0f35577485e9cc8f56a3",
            ),
        ),
        "self-forcing.safetensors",
    ),
    "wan2.1-base": Published(
        "dit",
        "the 1.3B transformer before Self-Forcing: not causal, for comparison only",
        "Apache-2.0",
        "https://huggingface.co/Wan-AI/Wan2.1-T2V-1.3B",
        (
            _hub(
                *_WAN,
                "diffusion_pytorch_model.safetensors",
                5_676_070_424,
                "96b6b242ca1c2f24e9d02cd6596066fab6d310e2d7538f33ae267cb18d957e8f",
            ),
        ),
        "wan2.1-base.safetensors",
    ),
    "wan-vae": Published(
        "wan-vae",
        "the video autoencoder of Wan2.1: the reference codec",
        "Apache-2.0",
        "https://huggingface.co/Wan-AI/Wan2.1-T2V-1.3B",
        (
            _hub(
                *_WAN,
                "Wan2.1_VAE.pth",
                507_609_880,
                "38071ab59bd94681c686fa51d75a1968f64e470262043be31f7a094e442fd981",
            ),
        ),
        "wan-vae.safetensors",
    ),
    "taehv": Published(
        "taehv",
        "taew2_1, a tiny autoencoder for the same latents: the fast codec",
        "MIT",
        "https://github.com/madebyollin/taehv",
        (
            PublishedFile(
                "madebyollin/taehv/taew2_1.pth",
                f"{_TAEHV}/taew2_1.pth",
                22_678_901,
                "d26151e76cdc2c9424bef988de874b33d9a53f30ef3060cd556c429c469c797e",
            ),
        ),
        "taehv.safetensors",
    ),
    "umt5-xxl": Published(
        "text",
        "the text encoder and its tokenizer: needed once a prompt, by `avis weights prompt`, never to serve",
        "Apache-2.0",
        "https://huggingface.co/Wan-AI/Wan2.1-T2V-1.3B",
        (
            _hub(
                *_WAN,
                "models_t5_umt5-xxl-enc-bf16.pth",
                11_361_920_418,
                "7cace0da2b446bbbbc57d031ab6cf163a3d59b366da94e5afe36745b746fd81d",
            ),
            _hub(
                *_WAN,
                "google/umt5-xxl/spiece.model",
                4_548_313,
                "e3909a67b780650b35cf529ac782ad2b6b26e6d1f849d3fbb6a872905f452458",
            ),
            _hub(
                *_WAN,
                "google/umt5-xxl/tokenizer.json",
                16_837_417,
                "6e197b4d3dbd71da14b4eb255f4fa91c9c1f2068b20a2de2472967ca3d22602b",
            ),
            _hub(
                *_WAN,
                "google/umt5-xxl/tokenizer_config.json",
                61_728,
                "ed9a3a8b0faa71a70a32847e0435fe036e6e112d4df4edb7bb48a921e344dc05",
            ),
            _hub(
                *_WAN,
                "google/umt5-xxl/special_tokens_map.json",
                6_623,
                "7b8a9f5040adb67b5805abdfd42c1f8d0f3d0e711f10726580eb3789cd0ad61d",
            ),
        ),
    ),
}

FOR_SERVING = ("self-forcing", "wan-vae", "taehv")
"""what `wan2.1-1.3b` needs with either codec"""


def sha256(path: Path) -> str:
    """The hash of a file, read a little at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find(name: str, folder: Path = FOLDER) -> Path:
    """The file to load for the published set `name`: converted if it is there, else as published.

    Raises UsageError, naming the command to run, when there is neither.
    """
    published = PUBLISHED[name]
    candidates = [published.converted] if published.converted else []
    candidates.append(published.files[0].path)
    for candidate in candidates:
        if (folder / candidate).is_file():
            return folder / candidate
    raise UsageError(
        f"the weights `{name}` are not in {folder}: fetch them with `avis weights fetch {name}`, "
        "or run without them with `--weights random`"
    )


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or a pickled checkpoint, without executing anything that is in it.

    A pickle may hold them flat or below one of the names under which checkpoints keep a generator.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        content = _unpickled(path)
    except (SafetensorError, UnpicklingError, EOFError, LookupError, RuntimeError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise UsageError(f"expected a checkpoint or a safetensors file, found {path}: {why}") from error
    for name in ("generator_ema", "generator", "model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UsageError(f"{path} holds no flat table of tensors")
    return dict(content)


def _unpickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, ValueError):  # an old-style pickle cannot be mapped
        return torch.load(path, map_location="cpu", weights_only=True)


def to_ours(state: Mapping[str, Tensor], kind: Kind, names: list[str]) -> dict[str, Tensor]:
    """The tensors under our `names`, whether they came in the authors' layout or in that of Diffusers.

    Raises UsageError, with examples, when a name is missing or left over.
    """
    state = {_bare(key): value for key, value in state.items()}
    diffusers = {TO_DIFFUSERS[kind](name): name for name in names} if kind in TO_DIFFUSERS else {}
    if len(set(diffusers) & set(state)) > len(set(names) & set(state)):
        state = {diffusers.get(key, key): value for key, value in state.items()}
    missing, left = sorted(set(names) - set(state)), sorted(set(state) - set(names))
    if missing or left:
        raise UsageError(
            f"these are not weights of a {kind} of this size: {len(missing)} tensors are missing {missing[:3]}, "
            f"{len(left)} are unknown {left[:3]}"
        )
    return dict(state)


def load_into(model: nn.Module, path: Path, kind: Kind) -> None:
    """Fills `model` with the weights in `path`; a model on the meta device takes the tensors as they are.

    Raises UsageError when names or shapes do not fit.
    """
    ours = to_ours(read(path), kind, list(model.state_dict()))
    for name, parameter in model.state_dict().items():
        if ours[name].shape != parameter.shape:
            raise UsageError(f"{path}: {name} has shape {tuple(ours[name].shape)}, expected {tuple(parameter.shape)}")
    model.load_state_dict(ours, strict=True, assign=any(p.is_meta for p in model.parameters()))


def convert(source: Path, target: Path, kind: Kind, names: list[str]) -> int:
    """Writes `source`, in either layout, as bfloat16 safetensors under our names; returns the number of tensors."""
    ours = to_ours(read(source), kind, names)
    small = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in ours.items()}
    with written(target) as part:
        save_file(small, part, metadata={"kind": kind, "source": source.name})
    return len(small)


def _bare(key: str) -> str:
    """A checkpoint's key without what training wrappers put before it."""
    return key.replace("_fsdp_wrapped_module.", "").removeprefix("module.").removeprefix("model.")


def _rename(rules: list[tuple[str, str]]) -> Callable[[str], str]:
    compiled = [(re.compile(pattern), target) for pattern, target in rules]

    def rename(name: str) -> str:
        for pattern, target in compiled:
            name = pattern.sub(target, name)
        return name

    return rename


def _decoder_block(name: str) -> str:
    """decoder.upsamples is flat, three residual blocks and a resampling a level; Diffusers nests them."""
    match = re.match(r"decoder\.upsamples\.(\d+)\.(.*)", name)
    if match is None:
        return name
    level, place = divmod(int(match[1]), 4)
    inner = "upsamplers.0" if place == 3 else f"resnets.{place}"
    return f"decoder.up_blocks.{level}.{inner}.{match[2]}"


_DIT_RULES = _rename(
    [
        (r"^time_embedding\.0\.", "condition_embedder.time_embedder.linear_1."),
        (r"^time_embedding\.2\.", "condition_embedder.time_embedder.linear_2."),
        (r"^text_embedding\.0\.", "condition_embedder.text_embedder.linear_1."),
        (r"^text_embedding\.2\.", "condition_embedder.text_embedder.linear_2."),
        (r"^time_projection\.1\.", "condition_embedder.time_proj."),
        (r"^head\.modulation$", "scale_shift_table"),
        (r"^head\.head\.", "proj_out."),
        (r"\.modulation$", ".scale_shift_table"),
        (r"\.norm3\.", ".norm2."),
        (r"\.self_attn\.", ".attn1."),
        (r"\.cross_attn\.", ".attn2."),
        (r"\.(attn[12])\.([qkv])\.", r".\1.to_\2."),
        (r"\.(attn[12])\.o\.", r".\1.to_out.0."),
        (r"\.ffn\.0\.", ".ffn.net.0.proj."),
        (r"\.ffn\.2\.", ".ffn.net.2."),
    ]
)
_VAE_RULES = _rename(
    [
        (r"^conv1\.", "quant_conv."),
        (r"^conv2\.", "post_quant_conv."),
        (r"^(encoder|decoder)\.conv1\.", r"\1.conv_in."),
        (r"^encoder\.downsamples\.", "encoder.down_blocks."),
        (r"\.middle\.1\.", ".mid_block.attentions.0."),
        (r"\.middle\.0\.", ".mid_block.resnets.0."),
        (r"\.middle\.2\.", ".mid_block.resnets.1."),
        (r"\.residual\.0\.", ".norm1."),
        (r"\.residual\.2\.", ".conv1."),
        (r"\.residual\.3\.", ".norm2."),
        (r"\.residual\.6\.", ".conv2."),
        (r"\.shortcut\.", ".conv_shortcut."),
        (r"\.head\.0\.", ".norm_out."),
        (r"\.head\.2\.", ".conv_out."),
    ]
)

TO_DIFFUSERS: dict[Kind, Callable[[str], str]] = {
    "dit": _DIT_RULES,
    "wan-vae": lambda name: _decoder_block(_VAE_RULES(name)),
}
"""Our name of a tensor to its name in Diffusers"""
