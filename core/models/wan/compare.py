"""Our Wan2.1 against the same weights in other hands: what `avis bench --compare` prints. Knows no clock of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from core.errors import UsageError
from core.flow import add_noise, chunk_rng, timesteps
from core.models.wan.dit import CausalDiT, DiTConfig
from core.models.wan.model import WanDenoiser, randomise
from core.models.wan.plain import PlainLoop
from core.models.wan.vae import WanVAE, WanVAEConfig
from core.models.wan.weights import TO_DIFFUSERS

Clock = Callable[[], float]
"""Seconds; on a GPU one that waits for the device first"""

REPEATS = 3


@dataclass(frozen=True)
class Comparison:
    """A few alternating runs, in seconds."""

    what: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    difference: float
    """largest difference of the results, relative to the largest result"""

    @property
    def ratio(self) -> float:
        """Our best run against their best."""
        return min(self.ours) / min(self.theirs)


def compare_vae(
    clock: Clock,
    height: int = 64,
    width: int = 64,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    config: WanVAEConfig | None = None,
) -> Comparison:
    """Encoding and decoding 21 frames: ours as chunks of 9 and 12, AutoencoderKLWan of diffusers as one clip."""
    config = config or WanVAEConfig()
    ours = randomise(WanVAE, config, torch.device(device), dtype)
    theirs = diffusers_vae(ours)
    ours.pack()
    x = torch.rand(21, 3, height, width, generator=torch.Generator().manual_seed(0)).to(device) * 2 - 1

    def run_ours() -> Tensor:
        memory, back, frames = None, None, []
        for part in (x[:9], x[9:]):
            z, memory = ours.encode(part, memory)
            decoded, back = ours.decode(z, back)
            frames.append(decoded)
        return torch.cat(frames).clamp(-1, 1)

    def run_theirs() -> Tensor:
        z = theirs.encode(x.to(dtype).transpose(0, 1)[None]).latent_dist.mode()
        clip: Tensor = theirs.decode(z, return_dict=False)[0]
        return clip[0].transpose(0, 1).float()

    return _alternate(f"Wan-VAE, encode and decode of 21 frames {width}x{height}", clock, run_ours, run_theirs)


def compare_step(
    clock: Clock,
    height: int = 64,
    width: int = 64,
    num_steps: int = 2,
    chunks: int = 5,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    config: DiTConfig | None = None,
    prompt_rows: int = 1,
    window: int = 9,
) -> Comparison:
    """Denoising `chunks` chunks, clean passes included: ours, and Self-Forcing's loop in its plain form."""
    config = config or DiTConfig(layers=2)
    dit = randomise(CausalDiT, config, torch.device(device), dtype)
    rows = torch.randn(prompt_rows, config.text_dim, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    text = torch.cat([rows, rows.new_zeros(config.text_len - prompt_rows, config.text_dim)])
    with torch.inference_mode():
        denoiser = WanDenoiser(dit, dit.context(rows), window)
    rng = torch.Generator().manual_seed(1)
    clips = [torch.randn(3, config.channels, height // 8, width // 8, generator=rng).to(device) for _ in range(chunks)]

    def run_ours() -> Tensor:
        cache = denoiser.new_cache(height, width)
        for index, z in enumerate(clips):
            noise = chunk_rng(0, index, z.device)
            for t in timesteps(0.1, num_steps):
                z, _ = denoiser(add_noise(z, t, noise), t, cache)
            cache = denoiser.update_cache(z, cache)
        return z

    def run_theirs() -> Tensor:
        loop = PlainLoop(dit, height // 16, width // 16, text, window)
        for index, z in enumerate(clips):
            noise = chunk_rng(0, index, z.device)
            for t in timesteps(0.1, num_steps):
                z = add_noise(z, t, noise)
                z = z - t * loop.velocity(z.to(dtype), t, index).float()
            loop.velocity(z.to(dtype), 0.0, index)
        return z

    what = f"transformer, {config.layers} layers, {chunks} chunks {width}x{height}, K={num_steps}, window {window}"
    return _alternate(what, clock, run_ours, run_theirs)


def diffusers_vae(ours: WanVAE) -> Any:
    """The same autoencoder, with the same weights, as diffusers builds it."""
    try:
        diffusers = import_module("diffusers")
    except ImportError as error:
        raise UsageError("comparing needs the package diffusers: pip install diffusers") from error
    config, weight = ours.config, ours.conv1.weight
    theirs = diffusers.AutoencoderKLWan(
        base_dim=config.base, z_dim=config.channels, dim_mult=list(config.multipliers), num_res_blocks=config.blocks
    )
    state = {TO_DIFFUSERS["wan-vae"](name): value for name, value in ours.state_dict().items()}
    theirs.load_state_dict(state, strict=True)
    return theirs.to(weight.device, weight.dtype).eval()


def chunk_flops(
    height: int, width: int, codec: torch.nn.Module, dit: DiTConfig, window: int = 9, num_steps: int = 2
) -> dict[str, int]:
    """Floating-point operations of a steady, unguided chunk by stage, counted on tensors without data.

    `codec` is a module on the meta device, or any other: only its type and config are used.
    """
    with torch.device("meta"), torch.inference_mode():
        empty = type(codec)(codec.config).eval()
        net = CausalDiT(dit).eval()
        denoiser = WanDenoiser(net, net.context(torch.zeros(1, dit.text_dim)), window)
        x = torch.zeros(12, 3, height, width)
        z, encoder = empty.encode(x[:9], None)
        _, decoder = empty.decode(z, None)
        cache = denoiser.new_cache(height, width)
        for _ in range(window // 3):
            cache = denoiser.update_cache(z, cache)
        stages: dict[str, Callable[[], Any]] = {
            "encode": lambda: empty.encode(x, encoder),
            "denoise": lambda: [denoiser(z, 0.1, cache) for _ in range(num_steps)],
            "decode": lambda: empty.decode(z, decoder),
            "cache": lambda: denoiser.update_cache(z, cache),
        }
        return {name: _count(stage) for name, stage in stages.items()}


def _count(work: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def _alternate(what: str, clock: Clock, ours: Callable[[], Tensor], theirs: Callable[[], Tensor]) -> Comparison:
    """Runs both in turn, so that a busy machine is as busy for either."""
    seconds: tuple[list[float], list[float]] = ([], [])
    results: list[Tensor] = [torch.empty(0), torch.empty(0)]
    with torch.inference_mode():
        for _ in range(REPEATS):
            for index, work in enumerate((ours, theirs)):
                start = clock()
                results[index] = work()
                seconds[index].append(clock() - start)
    found, expected = results
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
    return Comparison(what, tuple(seconds[0]), tuple(seconds[1]), difference)
