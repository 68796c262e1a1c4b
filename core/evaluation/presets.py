"""The studies of the paper as data: which methods, in which form, on which tasks, and what the paper claims of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from core.contract import SolverConfig
from core.evaluation.evaluate import grouped, variant_config
from core.evaluation.paper_figures import TABLE_1, TABLE_3, Figures
from core.evaluation.significance import Paired

FORMS: dict[str, dict[str, Any]] = {"zero_shot": {"condition": False, "output_gamma": 0.0}, "default": {}}
"""The paper's form, where the denoiser knows nothing of the measurement, and ours. Changes of the solver's settings."""

NOISES = (5e-4, 0.01)
"""Of the measurement: what the paper's rounding to bfloat16 amounts to, and our usual noise"""

ALL = ("super_resolution", "inpainting", "gaussian_blur", "temporal_average", "spatio_temporal_average")


@dataclass(frozen=True)
class Line:
    """One line of a preset's table."""

    label: str
    method: str = "flash"
    """a name of core.evaluation.evaluate.METHODS"""
    changes: dict[str, Any] = field(default_factory=dict)
    """of the solver's settings, after those of the method and of the form"""
    as_published: bool = False
    """restore with the operator as the published code has it"""

    def config(self, config: SolverConfig, form: str) -> SolverConfig:
        """`config` as this line has it in `form`."""
        own = variant_config(self.method, config, output_consistency=True)
        return SolverConfig(**{**own.model_dump(), **FORMS[form], **self.changes})


@dataclass(frozen=True)
class Claim:
    """What the paper's table says: `better` has the higher PSNR of the two lines."""

    better: str
    worse: str
    operators: tuple[str, ...] = ALL


@dataclass(frozen=True)
class Preset:
    title: str
    operators: tuple[str, ...]
    lines: tuple[Line, ...]
    claims: tuple[Claim, ...] = ()
    forms: tuple[str, ...] = tuple(FORMS)
    noises: tuple[float, ...] = NOISES
    frames: int = 81
    """frames of each clip: those of the paper"""
    to_and_fro: bool = False
    """read a clip that is shorter to and fro; false: take the frames it has"""

    def paper(self, operator: str, label: str) -> Figures | None:
        """The paper's figures beside a line, where it has any."""
        if self.operators == ("inpainting",) and label in TABLE_3:
            return TABLE_3[label]
        return TABLE_1.get(operator, {}).get(label)


START = Line("x_init", "x_init")
"""What the solver starts from stands in every table: a line below it lost something on the way"""

PRESETS: dict[str, Preset] = {
    "paper-table1": Preset(
        "Table 1: restoration, five tasks",
        ALL,
        (
            START,
            Line("x_init as published", "x_init", as_published=True),
            Line("flash", "flash"),
            Line("flash as published", "flash", as_published=True),
            Line("avis", "avis"),
            Line("holistic", "holistic"),
            Line("lvtino_v", "lvtino_v"),
            Line("lvtino_ar", "lvtino_ar"),
            Line("vision_xl_style", "vision_xl_style"),
            Line("flow_warp_style", "flow_warp_style"),
        ),
        (
            Claim("avis", "flash"),
            Claim("avis", "lvtino_v"),
            Claim("lvtino_v", "flash", ("super_resolution", "gaussian_blur", "temporal_average")),
            Claim("flash", "lvtino_v", ("inpainting",)),
            Claim("avis", "vision_xl_style", tuple(kind for kind in ALL if kind != "gaussian_blur")),
            Claim("vision_xl_style", "avis", ("gaussian_blur",)),
        ),
    ),
    "ablation-ar": Preset(
        "Table 3 (a): Flash with and without the restored past",
        ("inpainting",),
        (START, Line("cache"), Line("no cache", changes={"use_cache": False})),
        (Claim("cache", "no cache", ("inpainting",)),),
    ),
    "ablation-t0": Preset(
        "Table 3 (b): Flash from other start times",
        ("inpainting",),
        (START, *(Line(f"t0 = {t0}", changes={"t0": t0}) for t0 in (0.1, 0.2, 0.5))),
        (Claim("t0 = 0.1", "t0 = 0.2", ("inpainting",)), Claim("t0 = 0.2", "t0 = 0.5", ("inpainting",))),
    ),
    "ablation-steps": Preset(
        "Table 3 (c): Flash with other numbers of steps",
        ("inpainting",),
        (START, *(Line(f"K = {steps}", changes={"num_steps": steps}) for steps in (1, 2, 4))),
        (Claim("K = 1", "K = 2", ("inpainting",)), Claim("K = 2", "K = 4", ("inpainting",))),
    ),
    "start": Preset(
        "Figure 3: from x_init or from noise",
        ("super_resolution", "inpainting"),
        (START, Line("from x_init"), Line("from noise", changes={"t0": 0.98})),
        (Claim("from x_init", "from noise", ("super_resolution", "inpainting")),),
    ),
    "long-video": Preset(
        "Figure 4: 80 chunks, with and without re-injection",
        ("super_resolution",),
        (START, Line("flash", "flash"), Line("reinject", "reinject"), Line("avis", "avis")),
        (Claim("reinject", "flash", ("super_resolution",)),),
        forms=("zero_shot", "default"),
        noises=NOISES[:1],
        frames=957,
        to_and_fro=True,
    ),
}

TABLE_KEYS = ("noise", "form", "operator", "variant")
"""what a preset's rows are means over clips of"""


def orderings(preset: Preset, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each of the paper's claims on our clips: mean PSNR of both, paired differences and their sign test."""
    found = []
    for (noise, form, operator), group in grouped(rows, lambda r: (r["noise"], r["form"], r["operator"])).items():
        values = {label: by_clip(group, label) for label in {row["variant"] for row in group}}
        for claim in preset.claims:
            if operator not in claim.operators or claim.better not in values or claim.worse not in values:
                continue
            pair = Paired.of(values[claim.better], values[claim.worse])
            if pair.differences:
                keys = {"noise": noise, "form": form, "operator": operator}
                found.append({**keys, **ordering(claim, pair, values)})
    return found


def ordering(claim: Claim, pair: Paired, values: dict[str, dict[str, float]]) -> dict[str, Any]:
    """A claim as the report has it."""
    figures = {name: fmean(values[name].values()) for name in (claim.better, claim.worse)}
    return {
        "claim": f"{claim.better} > {claim.worse} (PSNR)",
        "holds": pair.mean > 0,
        "figures": {
            **figures,
            "difference": pair.mean,
            "clips": len(pair.differences),
            "wins": pair.wins,
            "losses": pair.losses,
            "sign_test_p": pair.p,
        },
    }


def by_clip(rows: Sequence[dict[str, Any]], label: str, key: str = "psnr") -> dict[str, float]:
    """A line's figure on each clip."""
    return {row["clip"]: row[key] for row in rows if row["variant"] == label}


def differences(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each line against x_init of the same task, form and noise, clip by clip."""
    found = []
    for (noise, form, operator), group in grouped(rows, lambda r: (r["noise"], r["form"], r["operator"])).items():
        start = by_clip(group, START.label)
        for label in dict.fromkeys(row["variant"] for row in group):
            pair = Paired.of(by_clip(group, label), start)
            if label != START.label and pair.differences:
                row = {"noise": noise, "form": form, "operator": operator, "variant": label, "mean": pair.mean}
                found.append({**row, "wins": pair.wins, "losses": pair.losses, "sign_test_p": pair.p})
    return found
