"""A preset's results as pictures: what each method gains over x_init, and how PSNR runs along the clip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from core.evaluation.evaluate import grouped
from core.evaluation.presets import START

COLOURS = ("#888888", "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#000000", "#e69f00", "#009e73")


def draw_gains(path: Path, title: str, differences: Sequence[dict[str, Any]]) -> None:
    """Bars of PSNR over x_init: a panel for each noise and form, a group of bars for each task."""
    panels = grouped(differences, lambda row: (row["noise"], row["form"]))
    figure = Figure(figsize=(11, 3.4 * len(panels)), layout="constrained")
    figure.suptitle(title)
    for axes, ((noise, form), rows) in zip(_stacked(figure, len(panels)), panels.items(), strict=True):
        _bars(axes, rows)
        axes.set_title(f"noise {noise:g}, {form.replace('_', '-')} form", fontsize=10)
        axes.set_ylabel("PSNR over x_init, dB")
        axes.axhline(0, color="black", linewidth=0.8)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(path, dpi=110)


def _bars(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    tasks = list(dict.fromkeys(row["operator"] for row in rows))
    labels = list(dict.fromkeys(row["variant"] for row in rows))
    width = 0.8 / len(labels)
    for index, label in enumerate(labels):
        own = {row["operator"]: row["mean"] for row in rows if row["variant"] == label}
        places = [tasks.index(task) + (index - (len(labels) - 1) / 2) * width for task in own]
        axes.bar(places, list(own.values()), width, label=label, color=COLOURS[(index + 1) % len(COLOURS)])
    axes.set_xticks(range(len(tasks)), [task.replace("_", " ") for task in tasks])


def draw_chunks(path: Path, title: str, rows: Sequence[dict[str, Any]]) -> None:
    """PSNR of each chunk, mean over clips: a panel for each noise, form and task, a line for each method."""
    panels = grouped(rows, lambda row: (row["noise"], row["form"], row["operator"]))
    figure = Figure(figsize=(11, 3 * len(panels)), layout="constrained")
    figure.suptitle(title)
    for axes, ((noise, form, operator), group) in zip(_stacked(figure, len(panels)), panels.items(), strict=True):
        for index, (label, own) in enumerate(grouped(group, lambda row: row["variant"]).items()):
            values = mean_chunks([row["psnr_of_chunks"] for row in own])
            style = "--" if label == START.label else "-"
            axes.plot(values, style, marker=".", label=label, color=COLOURS[index % len(COLOURS)])
        axes.set_title(f"{operator.replace('_', ' ')}, noise {noise:g}, {form.replace('_', '-')} form", fontsize=10)
        axes.set_xlabel("chunk")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("PSNR, dB")
        axes.legend(fontsize=7, ncols=3)
    figure.savefig(path, dpi=110)


def mean_chunks(curves: Sequence[Sequence[float]]) -> list[float]:
    """The mean curve over clips, as far as the shortest one goes."""
    return [fmean(values) for values in zip(*curves, strict=False)]


def _stacked(figure: Figure, panels: int) -> list[Any]:
    return list(figure.subplots(panels, 1, squeeze=False)[:, 0])
