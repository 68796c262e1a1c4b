"""The tables that `avis eval` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("psnr", "PSNR", ".2f"),
    ("ssim", "SSIM", ".4f"),
    ("vmaf", "VMAF", ".1f"),
    ("lpips_vgg", "LPIPS vgg", ".3f"),
    ("lpips_alex", "alex", ".3f"),
    ("fvd", "FVD", ".1f"),
    ("psnr_mp4", "mp4", ".2f"),
    ("flicker", "flicker", ".4f"),
    ("warp_error", "warp", ".4f"),
    ("change_ratio", "change", ".2f"),
    ("seam", "seam", "+.2f"),
    ("residual", "residual", ".4f"),
    ("guided_chunks", "guided", ".1f"),
    ("seconds", "s", ".1f"),
)
"""key, heading and format; a column that no row has is left out"""

USUAL = {"coded": None, "latents": 3}
"""conditions of a row; each is a column where a row has another one"""


def mean_table(rows: Sequence[dict[str, Any]]) -> Table:
    """One line an operator, coding, chunk length and variant."""
    columns = [column for column in COLUMNS if any(row.get(column[0]) is not None for row in rows)]
    conditions = [name for name, usual in USUAL.items() if any(row[name] != usual for row in rows)]
    table = Table(title="means over clips")
    for name in ("operator", *conditions, "variant", "oc"):
        table.add_column(name)
    for _, heading, _ in columns:
        table.add_column(heading, justify="right")
    last = None
    for row in rows:
        held = [row["operator"], *(str(row[name] or "none") for name in conditions)]
        if last not in (None, held):
            table.add_section()
        last = held
        names = [*held, row["variant"]]
        cells = [written(row.get(key), digits) for key, _, digits in columns]
        table.add_row(*names, "yes" if row["output_consistency"] else "", *cells)
    return table


def gain_table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """Differences of two rows, an operator, coding and chunk length a line."""
    table = Table(title=f"{title}, both with output consistency")
    conditions = [name for name, usual in USUAL.items() if any(row.get(name, usual) != usual for row in rows)]
    for name in ("operator", *conditions):
        table.add_column(name)
    for name in ("clips", "PSNR dB", "worst", "SSIM", "worst", "VMAF", "worst"):
        table.add_column(name, justify="right")
    for row in rows:
        cells = []
        for key, digits in (("psnr", 2), ("ssim", 4), ("vmaf", 1)):
            pair = row.get(key)
            cells += [f"{pair[end]:+.{digits}f}" if pair else "-" for end in ("mean", "min")]
        table.add_row(row["operator"], *(str(row[name] or "none") for name in conditions), str(row["clips"]), *cells)
    return table


def written(value: float | None, digits: str) -> str:
    return "-" if value is None else format(value, digits)
