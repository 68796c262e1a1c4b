"""Wan2.1-T2V-1.3B as a model of the solver: the denoiser around the transformer, and how the parts are loaded."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from core.config import Config
from core.errors import UsageError
from core.model_settings import WanConfig
from core.models.base import Condition, VideoCodec
from core.models.table import Weights
from core.models.wan.cache import CacheSpec, KVCache
from core.models.wan.dit import CausalDiT, Context, DiTConfig
from core.models.wan.graphs import Pass, Record, record_on_gpu, replayed
from core.models.wan.taehv import TAEHV, TAEHVConfig
from core.models.wan.vae import WanVAE, WanVAEConfig
from core.models.wan.weights import PROMPT, find, load_into, read

M = TypeVar("M", bound=nn.Module)

DISTINCT = 1_000_003
"""random numbers after which a random tensor repeats itself; no row length divides it"""


GRAPHS = 64
"""compiled forms of a block: nine sizes at window 21"""


class WanDenoiser:
    """A `Denoiser`: the clean estimate of a chunk from the transformer's velocity.

    It looks at no `Condition`: the measurement reaches it through the latents alone, which is the paper's form.
    """

    def __init__(self, dit: CausalDiT, context: Context, window: int = 9, sink: int = 0, record: Record | None = None):
        """`record` replays steady passes from what it records; None computes every pass anew."""
        self.dit = dit
        self.context = context
        self.record = record
        self.spec = CacheSpec(dit.config.layers, dit.config.heads, dit.config.head_dim, window, sink)
        parameter = dit.patch_embedding.weight
        self.device, self.dtype = parameter.device, parameter.dtype

    @property
    def chunks_to_settle(self) -> int:
        return self.spec.slots

    @property
    def backend(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def new_cache(self, height: int, width: int) -> KVCache:
        """The empty cache of a stream of `height` x `width` pixels, both multiples of 16."""
        return self._empty(self.spec, height, width)

    def cache_of(self, latents: int, height: int, width: int) -> KVCache:
        """The empty cache for one pass over `latents` latents at once, which then all see each other.

        For solvers of whole clips (all latents) and of single frames (one). Self-Forcing was trained on neither.
        """
        return self._empty(replace(self.spec, window=latents, sink=0, latents=latents), height, width)

    @torch.inference_mode()
    def _empty(self, spec: CacheSpec, height: int, width: int) -> KVCache:
        if height % 16 or width % 16:
            raise ValueError(f"expected multiples of 16 pixels each way, found {width}x{height}")
        return KVCache.empty(spec, height // 16, width // 16, self.device, self.dtype)

    @torch.inference_mode()
    def __call__(
        self, z: Tensor, t: float, cache: KVCache, condition: Condition | None = None
    ) -> tuple[Tensor, KVCache]:
        """The clean estimate z - t v of noisy latents z [L, C, h, w] at time `t` in [0, 1], in float32 (Eq. 4).

        Beside it the cache as it was: the transformer carries nothing on but keys and values.
        """
        self._check(z, cache)
        velocity = self._pass(f"velocity at {t}", lambda z, keys: self.dit(z, t, keys, self.context), z, cache)
        return z.float() - t * velocity.float(), cache

    @torch.inference_mode()
    def update_cache(self, z: Tensor, cache: KVCache) -> KVCache:
        """The cache with the clean latents z appended: one pass at t = 0, of which only keys and values are kept."""
        self._check(z, cache)
        self._pass("write", lambda z, keys: self.dit.write(z, 0.0, keys, self.context), z, cache)
        return cache.advance()

    def _pass(self, name: str, work: Pass, z: Tensor, cache: KVCache) -> Tensor:
        """A pass over the next chunk, replayed where it is steady and recordings are wanted."""
        z, keys = z.to(self.dtype), cache.begin()
        if self.record is None or not cache.steady:
            result = work(z, keys)
            return z if result is None else result
        return replayed(cache.ring.recordings, name, work, z, keys, self.record)

    def _check(self, z: Tensor, cache: KVCache) -> None:
        expected = (cache.spec.latents, self.dit.config.channels, 2 * cache.height, 2 * cache.width)
        if z.shape != expected:
            raise ValueError(f"expected latents {expected}, found {tuple(z.shape)}")


def load(
    weights: Weights, device: torch.device, codec: str = "taehv", config: WanConfig | None = None
) -> tuple[VideoCodec, WanDenoiser]:
    """The published model's codec and denoiser on `device`, with published or random weights.

    Raises UsageError, naming the command to run, when weights are missing.
    """
    config = config or WanConfig()
    if weights == "pretrained" and config.layers != DiTConfig().layers:
        raise UsageError(f"the published weights have {DiTConfig().layers} layers: {config.layers} need random weights")
    if config.graphs and device.type != "cuda":
        raise UsageError(f"graphs are CUDA's and need a GPU, not {device}")
    dtype = choose_dtype(config.dtype, device)
    chosen = build_codec(codec, weights, device, dtype, config)
    dit = fill(CausalDiT, DiTConfig(layers=config.layers), weights, "self-forcing", device, dtype, config)
    if config.compile:
        compile_blocks(dit)
    with torch.inference_mode():
        context = dit.context(prompt_rows(find_prompt(config, weights), dit.config))
    record = record_on_gpu if config.graphs else None
    return chosen, WanDenoiser(dit, context, config.window, config.sink, record)


def files(weights: Weights, codec: str = "taehv", config: WanConfig | None = None) -> list[Path]:
    """The files that `load` reads."""
    config = config or WanConfig()
    published = [find(name, config.folder) for name in ("self-forcing", codec)] if weights == "pretrained" else []
    prompt = find_prompt(config, weights)
    return published + ([prompt] if prompt else [])


def build_codec(
    name: str, weights: Weights, device: torch.device, dtype: torch.dtype, config: WanConfig
) -> WanVAE | TAEHV:
    """The codec `name`, laid out for its device."""
    if name == "wan-vae":
        return fill(WanVAE, WanVAEConfig(), weights, name, device, dtype, config).pack()
    if name == "taehv":
        tiny = fill(TAEHV, TAEHVConfig(), weights, name, device, dtype, config)
        return tiny.to(memory_format=torch.channels_last)
    raise UsageError(f"there is no codec {name!r} for Wan2.1; there are taehv and wan-vae")


def fill(
    module: type[M],
    shape: Config,
    weights: Weights,
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    config: WanConfig,
) -> M:
    """A module of `shape` on `device`, with random weights or those published as `name`; nothing is stored twice."""
    if weights == "random":
        return randomise(module, shape, device, dtype, config.seed)
    path = find(name, config.folder)
    with torch.device("meta"):
        model = module(shape)
    load_into(model, path, {"self-forcing": "dit"}.get(name, name))
    return model.to(device=device, dtype=dtype).eval().requires_grad_(False)


def randomise(module: type[M], shape: Config, device: torch.device, dtype: torch.dtype, seed: int = 0) -> M:
    """A module of `shape` with random weights, the same for the same seed, made in place on its device."""
    with torch.device("meta"):
        model = module(shape).to(dtype)
    model.to_empty(device=device)
    rng = torch.Generator(device).manual_seed(seed)
    for name, parameter in model.named_parameters():
        values = parameter.data
        if name.endswith("gamma") or (".norm" in name and name.endswith("weight")):
            values.fill_(1)
        elif values.ndim > 1 and "modulation" not in name:
            _fill_normal(values, rng).mul_(values[0].numel() ** -0.5)
        else:
            values.normal_(0, 0.02, generator=rng)
    return model.eval().requires_grad_(False)


def _fill_normal(values: Tensor, rng: torch.Generator) -> Tensor:
    """Fills `values` with normal numbers; a large tensor repeats its first few million, which a CPU makes in time."""
    flat = values.view(-1)
    flat[:DISTINCT].normal_(generator=rng)
    for start in range(DISTINCT, len(flat), DISTINCT):
        flat[start : start + DISTINCT] = flat[: min(DISTINCT, len(flat) - start)]
    return values


def compile_blocks(dit: CausalDiT, backend: str = "inductor", graphs: int = GRAPHS) -> None:
    """Compiles the blocks in place: one graph serves all layers, and a graph more per size and filling of the window.

    What would be one graph too many runs as it is written: slower, with the same result.
    """
    compiler: Any = import_module("torch._dynamo.config")
    compiler.recompile_limit = graphs
    for block in dit.blocks:
        block.compile(backend=backend, dynamic=False)


def find_prompt(config: WanConfig, weights: Weights) -> Path | None:
    """The prompt embedding to use, if any: the one asked for, else the one `avis weights prompt` makes by default."""
    usual = config.folder / PROMPT
    return config.prompt or (usual if weights == "pretrained" and usual.is_file() else None)


def prompt_rows(path: Path | None, config: DiTConfig) -> Tensor:
    """The rows [n, text_dim] of a prompt embedding that are not padding; none without a file."""
    if path is None:
        return torch.zeros(0, config.text_dim)
    if not path.is_file():
        raise UsageError(f'there is no prompt embedding {path}: make one with `avis weights prompt "..." --out {path}`')
    state = read(path)
    if set(state) != {"rows"} or state["rows"].ndim != 2 or state["rows"].shape[1] != config.text_dim:
        found = {name: tuple(value.shape) for name, value in state.items()}
        raise UsageError(f"{path} is no prompt embedding: expected rows [n, {config.text_dim}], found {found}")
    return state["rows"]


def choose_dtype(name: Literal["auto", "float32", "bfloat16"], device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32
