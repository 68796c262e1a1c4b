"""Where commands print: tables for people, beside the JSON for programs."""

from __future__ import annotations

import sys

from rich.console import Console

TABLE_WIDTH = 112
"""columns that the widest table needs; a terminal that is narrower wraps, a file or a pipe gets them"""


def console(json_target: str | None) -> Console:
    """Where tables for people go: standard error when standard output carries the JSON."""
    found = Console(file=sys.stderr if json_target == "-" else sys.stdout, highlight=False)
    if not found.is_terminal:
        found.width = max(found.width, TABLE_WIDTH)
    return found


def progress_console() -> Console:
    return Console(stderr=True, highlight=False)
