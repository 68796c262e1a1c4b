"""`avis serve`: the server. What it imports is light, so that its help is quick."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn, get_origin

from server.settings import Settings, read_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file with the settings below")
    for name, field in Settings.model_fields.items():
        if field.annotation is None or get_origin(field.annotation) in (dict, tuple):
            continue
        flag = f"--{name.replace('_', '-')}"
        default = "" if field.default is None else f" (default {field.default})"
        parser.add_argument(flag, metavar="VALUE", help=(field.description or "").replace("%", "%%") + default)


def run(args: argparse.Namespace) -> int:
    given = {name: value for name, value in vars(args).items() if name in Settings.model_fields}
    overrides = {name: value for name, value in given.items() if value is not None}
    settings = read_settings(args.config, **overrides)
    importlib.import_module("server.app").serve(settings)
    leave(0)


def leave(code: int) -> NoReturn:
    """Ends the process at once: all is closed by now, and an interpreter with torch in it takes its time to end."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
