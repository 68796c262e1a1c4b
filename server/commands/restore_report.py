"""What `avis restore` says: a bar while it works, a table and JSON at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.progress import TimeRemainingColumn as Remaining
from rich.table import Table
from rich.text import Text

from core.evaluation.quality import Quality
from server.commands import options
from server.files.paths import named

SETTLED = 3
"""chunks after which a stream has all the memory it needs"""


@dataclass
class Tally:
    """What a run adds up to."""

    frames: int = 0
    guided: list[bool] = field(default_factory=list)
    residuals: list[float] = field(default_factory=list)
    x_init: Quality = field(default_factory=Quality)
    restored: Quality = field(default_factory=Quality)
    seconds: float = 0.0
    first: float = 0.0
    """seconds from the first chunk's pictures to its restored ones"""
    memory: tuple[int, int] = (0, 0)
    """resident bytes of the process after SETTLED chunks, and after the last"""

    def remember_memory(self, resident: int) -> None:
        self.memory = (resident if len(self.guided) <= SETTLED else self.memory[0], resident)


@dataclass(frozen=True)
class Outcome:
    """What came of one file."""

    tally: Tally
    notes: list[str]
    """what of the source is not in the output, or is there otherwise"""
    warnings: list[str]
    """what was wrong with the source"""
    damaged: int
    """packets or pictures of the source that were left out"""
    certificate: Path | None = None
    """where it lies, if one was asked for"""


def report(outcome: Outcome) -> dict[str, Any]:
    tally = outcome.tally
    found: dict[str, Any] = {
        "frames": tally.frames,
        "fps": round(tally.frames / tally.seconds, 2),
        "chunks": len(tally.guided),
        "guided_chunks": sum(tally.guided),
        "seconds": round(tally.seconds, 3),
        "latency_first_chunk": round(tally.first, 3),
        "residual": fmean(tally.residuals),
        "memory_bytes": {"settled": tally.memory[0], "end": tally.memory[1]},
        "notes": outcome.notes,
        "warnings": outcome.warnings,
        "damaged": outcome.damaged,
    }
    if outcome.certificate:
        found["certificate"] = str(outcome.certificate)
    if tally.restored.psnrs:
        found["psnr"] = {"x_init": tally.x_init.psnr, "restored": tally.restored.psnr}
        found["ssim"] = {"x_init": tally.x_init.ssim, "restored": tally.restored.ssim}
    return found


def table(outcome: Outcome) -> Table:
    found = report(outcome)
    lines = Table(show_header=False, box=None)
    lines.add_row("frames", f"{found['frames']} in {found['seconds']:.1f} s, {found['fps']:.1f} a second")
    lines.add_row("chunks", f"{found['chunks']}, {found['guided_chunks']} of them guided")
    lines.add_row("first chunk", f"{found['latency_first_chunk']:.2f} s")
    lines.add_row("residual", f"{found['residual']:.4f}")
    if "psnr" in found:
        for name, unit, digits in (("psnr", " dB", 2), ("ssim", "", 4)):
            x_init, restored = found[name]["x_init"], found[name]["restored"]
            lines.add_row(name, f"{x_init:.{digits}f}{unit} x_init, {restored:.{digits}f}{unit} restored")
    if outcome.certificate:
        lines.add_row("certificate", escape(named(outcome.certificate)))
    settled, end = (size / 2**20 for size in outcome.tally.memory)
    lines.add_row("memory", f"{settled:.0f} MiB after {min(SETTLED, found['chunks'])} chunks, {end:.0f} MiB at the end")
    if outcome.notes:
        lines.add_row("note", escape("; ".join(outcome.notes)))
    if outcome.damaged:
        lines.add_row("damaged", f"{outcome.damaged} packets of the source could not be decoded and were left out")
    for warning in outcome.warnings:
        lines.add_row("warning", escape(f"the source is {warning}" if warning.startswith("cut off") else warning))
    return lines


@contextmanager
def progress(total: int | None, name: str) -> Iterator[Any]:
    """A bar with frames, frames per second and the time left, on standard error; yields what advances it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        Remaining(elapsed_when_finished=True),
    )
    with Progress(*columns, console=options.progress_console()) as bar:
        task = bar.add_task(escape(name), total=total)
        yield lambda frames: bar.advance(task, frames)


class Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} fps" if speed else "- fps")
