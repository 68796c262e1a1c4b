"""Loading and saving the tiny model: one .npz of half-precision arrays inside the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from core.model_settings import TinySettings
from core.models.table import Weights
from core.models.tiny.backend import choose, convert
from core.models.tiny.codec import TinyCodec
from core.models.tiny.denoiser import TinyConfig, TinyDenoiser

WEIGHTS = Path(__file__).parents[2] / "weights" / "tiny.npz"


def build(config: TinyConfig | None = None, seed: int = 0) -> tuple[TinyCodec, TinyDenoiser]:
    """A codec and a denoiser with random weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec = TinyCodec()
        return codec.eval(), TinyDenoiser(codec, config).eval()


def load(
    weights: Weights, device: torch.device, codec: str = "dct", config: TinySettings | None = None
) -> tuple[TinyCodec, TinyDenoiser]:
    video_codec, denoiser = build()
    if weights == "pretrained":
        with np.load(WEIGHTS, allow_pickle=False) as arrays:
            state = {name: torch.from_numpy(arrays[name].astype(np.float32)) for name in arrays.files}
        video_codec.load_state_dict({"scale": state.pop("codec.scale")})
        denoiser.load_state_dict(state)
    denoiser = denoiser.to(device).requires_grad_(False).to(memory_format=torch.channels_last)
    return video_codec.to(device), convert(denoiser, choose((config or TinySettings()).backend, device))


def files(weights: Weights, codec: str = "dct", config: TinySettings | None = None) -> list[Path]:
    """The files that `load` reads."""
    return [WEIGHTS] if weights == "pretrained" else []


def save(codec: TinyCodec, denoiser: TinyDenoiser, path: Path = WEIGHTS) -> None:
    """Writes the weights as half precision, the codec's scale with them."""
    state = {"codec.scale": codec.scale, **denoiser.state_dict()}
    arrays = {name: tensor.detach().cpu().numpy().astype(np.float16) for name, tensor in state.items()}
    np.savez_compressed(path, **arrays)
