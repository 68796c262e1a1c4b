"""A preset's results as Markdown, with the paper's figures beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.evaluation.evaluate import grouped
from core.evaluation.paper_figures import METRICS
from core.evaluation.presets import FORMS, Preset

COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("psnr", "PSNR", ".2f"),
    ("ssim", "SSIM", ".3f"),
    ("lpips_vgg", "LPIPS", ".3f"),
    ("fvd", "FVD", ".1f"),
    ("psnr_mp4", "PSNR through mp4", ".2f"),
    ("vmaf", "VMAF", ".1f"),
    ("warp_error", "warp error", ".4f"),
    ("seam", "seam", "+.2f"),
    ("guided_chunks", "guided", ".1f"),
    ("latency", "first chunk, s", ".2f"),
    ("seconds", "clip, s", ".2f"),
)
"""key, heading and format of our figures; a column that no row has is left out"""

FORM_WORDS = {
    "zero_shot": "the paper's zero-shot form (`condition=false`, `output_gamma=0`)",
    "default": "our default form",
}
assert set(FORM_WORDS) == set(FORMS)

EVEN = 0.005
"""dB of PSNR"""


def report(
    preset: Preset,
    means: Sequence[dict[str, Any]],
    orderings: Sequence[dict[str, Any]],
    differences: Sequence[dict[str, Any]],
    settings: dict[str, Any],
) -> str:
    """The whole document."""
    parts = [f"# {preset.title}", about(settings)]
    for (noise, form), group in grouped(means, lambda row: (row["noise"], row["form"])).items():
        parts.append(f"## Noise {noise:g}, {FORM_WORDS[form]}")
        parts.append(table(preset, group))
    parts += ["## The paper's orderings on these clips", ordering_table(orderings)] if orderings else []
    parts += ["## Against x_init, clip by clip", difference_table(differences)] if differences else []
    return "\n\n".join(parts) + "\n"


def about(settings: dict[str, Any]) -> str:
    clips = ", ".join(settings["clips"])
    return (
        f"Model `{settings['model']}` ({settings['weights']} weights), {settings['size']}, at most "
        f"{settings['frames']} frames a clip, seed {settings['seed']}; clips: {clips}. "
        "Means over clips. The paper's columns come from another model (Wan2.1-1.3B) on other clips; its rivals are "
        "the originals, ours are those of the same name on our own prior. PSNR and SSIM on RGB in [0, 1]; LPIPS with "
        "VGG at 224 x 224; seam: PSNR of a later chunk's first frame less that of the chunk; times are of the machine "
        "that ran this, whatever else it did."
    )


def table(preset: Preset, rows: Sequence[dict[str, Any]]) -> str:
    """One line a task and method; the paper's five figures in the last columns."""
    columns = [column for column in COLUMNS if any(row.get(column[0]) is not None for row in rows)]
    paper = any(preset.paper(row["operator"], row["variant"]) for row in rows)
    heading = ["task", "method", *(words for _, words, _ in columns)]
    heading += [f"paper: {name.removesuffix('_vgg').upper()}" for name in METRICS] if paper else []
    lines = []
    for row in rows:
        cells = [row["operator"], row["variant"]]
        cells += [written(row.get(key), digits) for key, _, digits in columns]
        if paper:
            figures = preset.paper(row["operator"], row["variant"])
            cells += [f"{figure:g}" for figure in figures] if figures else [""] * len(METRICS)
        lines.append(cells)
    return grid(heading, lines, left=2)


def ordering_table(orderings: Sequence[dict[str, Any]]) -> str:
    lines = []
    for row in orderings:
        figures = row["figures"]
        lines.append(
            [
                *(f"{row['noise']:g}", row["form"], row["operator"], row["claim"]),
                verdict(row),
                f"{figures['difference']:+.3f} dB",
                f"{figures['wins']} : {figures['losses']}",
                f"{figures['sign_test_p']:.2f}",
            ]
        )
    return grid(
        ["noise", "form", "task", "claim", "holds", "difference", "clips for : against", "sign test p"], lines, 4
    )


def verdict(ordering: dict[str, Any]) -> str:
    """Whether a claim holds, in a word: below EVEN neither method is the better one."""
    if abs(ordering["figures"]["difference"]) < EVEN:
        return "even"
    return "yes" if ordering["holds"] else "no"


def difference_table(differences: Sequence[dict[str, Any]]) -> str:
    lines = [
        [
            *(f"{row['noise']:g}", row["form"], row["operator"], row["variant"]),
            f"{row['mean']:+.3f} dB",
            f"{row['wins']} : {row['losses']}",
            f"{row['sign_test_p']:.2f}",
        ]
        for row in differences
    ]
    return grid(["noise", "form", "task", "method", "PSNR over x_init", "clips for : against", "sign test p"], lines, 4)


def grid(heading: Sequence[str], lines: Sequence[Sequence[str]], left: int) -> str:
    """A Markdown table whose first `left` columns are words."""
    rule = ["---" if index < left else "--:" for index in range(len(heading))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heading, rule, *lines))


def written(value: float | None, digits: str) -> str:
    return "" if value is None else format(value, digits)
