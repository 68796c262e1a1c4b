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
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", help=words(field) + default(field))


def given(args: argparse.Namespace, settings: type[BaseSettings]) -> dict[str, Any]:
    """The settings that the command line names."""
    values: Iterable[tuple[str, Any]] = vars(args).items()
    return {name: value for name, value in values if name in settings.model_fields and value is not None}


def given_after(args: argparse.Namespace, prefix: str) -> dict[str, Any]:
    """The values of the flags whose names begin with `prefix`, by the rest of their names."""
    values: Iterable[tuple[str, Any]] = vars(args).items()
    return {name.removeprefix(prefix): value for name, value in values if name.startswith(prefix) and value is not None}


def default(field: FieldInfo) -> str:
    """The default, in brackets; nothing where a setting is unset or empty."""
    return "" if field.default in (None, (), "") else f" (default {field.default})"


def words(field: FieldInfo) -> str:
    return (field.description or "").replace("\n", " ").replace("%", "%%")
