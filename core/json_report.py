"""What `--json FILE` of a command writes: one JSON object, `-` is standard output."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from core.errors import UsageError


def check_json(target: str | None) -> None:
    """Raises UsageError when the report could not be written, before the work that it reports."""
    if target is not None and target != "-":
        check_file(Path(target), "--json")


def check_file(path: Path, flag: str) -> None:
    """Raises UsageError when `path`, asked for by `flag`, could not be written."""
    if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"expected a file in a folder that can be written to for {flag}, found {path}")


def write_json(report: Mapping[str, Any], target: str | None) -> None:
    """Writes the report, if anybody asked. A number that JSON has not, `nan` or infinite, is null."""
    if target is None:
        return
    text = to_json(report, indent=1, inf_nan_mode="null").decode()
    if target == "-":
        print(text)
    else:
        Path(target).write_text(text + "\n", encoding="utf-8")
