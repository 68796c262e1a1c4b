"""The settings of a pydantic class as flags of a command: one flag a setting, its docstring the help."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any, get_origin

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings


def add_settings(parser: argparse.ArgumentParser, settings: type[BaseSettings]) -> None:
    """A flag for each setting of `settings` that is no table."""
    for name, field in settings.model_fields.items():
        if field.annotation is None or get_origin(field.annotation) is dict:
            continue
        default = "" if field.default in (None, ()) else f" (default {field.default})"
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", help=words(field) + default)


def given(args: argparse.Namespace, settings: type[BaseSettings]) -> dict[str, Any]:
    """The settings that the command line names."""
    values: Iterable[tuple[str, Any]] = vars(args).items()
    return {name: value for name, value in values if name in settings.model_fields and value is not None}


def words(field: FieldInfo) -> str:
    return (field.description or "").replace("\n", " ").replace("%", "%%")
