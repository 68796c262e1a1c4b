"""What is compared: the methods by name, their settings, and the means over clips. Knows no files and no clock."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, TypeVar

from core.chunks import CHUNKS, ChunkSpec
from core.contract import Rung, SolverConfig
from core.evaluation.clip_solvers import AvisClip, ClipSolver, PlainClip
from core.evaluation.ffmpeg_filters import FILTERS, FilteredClip
from core.evaluation.rivals import RIVALS
from core.solver import Solver

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Variant:
    """One way to restore, as a change of the solver's settings."""

    changes: dict[str, Any] = field(default_factory=dict)
    rung: Rung = "full"


VARIANTS: dict[str, Variant] = {
    "x_init": Variant(rung="x_init"),
    "decoder_only": Variant({"reinject_every": 0, "reinject_residual": 0.0, "denoise": False}),
    "no_cache": Variant({"reinject_every": 0, "reinject_residual": 0.0, "use_cache": False}),
    "flash": Variant({"reinject_every": 0, "reinject_residual": 0.0}),
    "reinject": Variant({"reinject_every": 7, "reinject_residual": 0.0}),
    "adaptive": Variant({"reinject_every": 0, "reinject_residual": 1.1}),
    "avis": Variant({"reinject_every": 1, "reinject_residual": 0.0}),
    "blind": Variant({"reinject_every": 0, "reinject_residual": 0.0, "condition": False}),
    "k2": Variant({"reinject_every": 0, "reinject_residual": 0.0, "num_steps": 2}),
}
"""The variants of our own solver, by name"""

PLAIN = ("degraded", "baseline")

METHODS = (*PLAIN, *VARIANTS, *RIVALS, *FILTERS)
"""everything that `clip_solver` knows"""

ROW_KEYS = ("operator", "variant", "output_consistency", "coded", "latents")
"""what a row is a mean over clips of"""


def clip_solver(method: str, solver: Solver, spec: ChunkSpec = CHUNKS) -> ClipSolver:
    """The method of that name on `solver`'s codec and denoiser. The rivals have their own idea of chunks."""
    if method in PLAIN:
        return PlainClip(method, spec)
    if method in RIVALS:
        return RIVALS[method](solver)
    if method in FILTERS:
        return FilteredClip(FILTERS[method])
    return AvisClip(solver, VARIANTS[method].rung, spec)


def variant_config(name: str, config: SolverConfig, output_consistency: bool) -> SolverConfig:
    """The settings of a method: `config` with the variant's changes, with or without output consistency."""
    changes = dict(VARIANTS[name].changes) if name in VARIANTS else {}
    if not output_consistency:
        changes["output_gamma"] = 0.0
    return SolverConfig(**{**config.model_dump(), **changes})


AVERAGED = (
    *("psnr", "ssim", "flicker", "change_ratio", "residual", "seam", "vmaf", "warp_error", "lpips_vgg", "lpips_alex"),
    *("psnr_mp4", "ssim_mp4", "guided_chunks", "latency", "seconds"),
)
"""figures of a row whose mean over clips is told"""


def means(rows: Sequence[dict[str, Any]], keys: Sequence[str] = ROW_KEYS) -> list[dict[str, Any]]:
    """The mean over clips of each group of rows that agree in `keys`, in the order of `rows`."""
    groups = grouped(rows, lambda row: tuple(row.get(key) for key in keys))
    return [{**dict(zip(keys, key, strict=True)), **_mean(group)} for key, group in groups.items()]


def gains(rows: Sequence[dict[str, Any]], variant: str = "flash", over: str = "x_init") -> list[dict[str, Any]]:
    """What `variant` gains on `over` under equal conditions, both with output consistency: mean and worst clip."""
    conditions = ("operator", "coded", "latents")
    found = paired(rows, conditions, "variant", variant, over)
    return [{**row, "variant": variant, "over": over} for row in found]


def prices(rows: Sequence[dict[str, Any]], variant: str = "flash") -> list[dict[str, Any]]:
    """What chunks of one latent cost `variant` in quality, both with output consistency: mean and worst clip."""
    own = [row for row in rows if row["variant"] == variant]
    return paired(own, ("operator", "coded"), "latents", 1, 3)


def paired(
    rows: Sequence[dict[str, Any]], conditions: Sequence[str], key: str, of: Any, over: Any
) -> list[dict[str, Any]]:
    """Rows whose `key` is `of` less those where it is `over`, clip by clip, where `conditions` agree."""
    consistent = [row for row in rows if row["output_consistency"]]
    found = []
    for held, group in grouped(consistent, lambda row: tuple(row.get(name) for name in conditions)).items():
        table = {(row["clip"], row[key]): row for row in group}
        clips = [clip for clip, value in table if value == of and (clip, over) in table]
        pairs = [(table[clip, of], table[clip, over]) for clip in clips]
        if not pairs:
            continue
        difference: dict[str, Any] = {**dict(zip(conditions, held, strict=True)), "clips": len(pairs)}
        for figure in ("psnr", "ssim", "vmaf"):
            steps = [a[figure] - b[figure] for a, b in pairs if figure in a and figure in b]
            if steps:
                difference[figure] = {"mean": fmean(steps), "min": min(steps)}
        found.append(difference)
    return found


def grouped(rows: Sequence[dict[str, Any]], key: Callable[[dict[str, Any]], K]) -> dict[K, list[dict[str, Any]]]:
    """The rows by `key`, groups and rows in the order they came."""
    groups: dict[K, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _mean(group: list[dict[str, Any]]) -> dict[str, Any]:
    shared = [name for name in AVERAGED if all(row.get(name) is not None for row in group)]
    return {"clips": len(group), **{name: fmean(row[name] for row in group) for name in shared}}
