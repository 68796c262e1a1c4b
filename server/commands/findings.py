"""What `avis doctor` found, as data and as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rich.table import Table

State = Literal["ok", "note", "fault"]


@dataclass(frozen=True)
class Finding:
    name: str
    state: State
    words: str
    """what was found, and for a note or a fault what to do"""


def table(findings: list[Finding]) -> Table:
    lines = Table(show_header=False, box=None)
    colours = {"ok": "green", "note": "yellow", "fault": "red"}
    for finding in findings:
        lines.add_row(f"[{colours[finding.state]}]{finding.state}[/]", finding.name, finding.words)
    return lines
