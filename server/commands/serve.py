"""`avis serve`: the server. What it imports is light, so that its help is quick."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from core.model_settings import CONFIGS
from core.models.table import choose
from server.commands.flags import add_settings, given, words
from server.settings import Settings, read_settings

NAMED = ("source", "push")
"""settings that are tables of addresses by name"""
MODEL = "model."
"""before the name of a setting of the model"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file with the settings below")
    add_settings(parser, Settings)
    for name in NAMED:
        words_of = words(Settings.model_fields[name])
        parser.add_argument(f"--{name}", action="append", metavar="NAME=ADDRESS", help=f"{words_of}; may be repeated")
    group = parser.add_argument_group("model settings")
    for config in CONFIGS:
        for name, field in config.model_fields.items():
            group.add_argument(f"--{MODEL}{name}", metavar="VALUE", help=f"{words(field)} (default {field.default})")


def run(args: argparse.Namespace) -> int:
    overrides = given(args, Settings)
    of_model = {
        name.removeprefix(MODEL): value
        for name, value in vars(args).items()
        if name.startswith(MODEL) and value is not None
    }
    if of_model:
        overrides["model_settings"] = of_model
    settings = read_settings(args.config, **overrides)
    choose(settings.model, settings.codec, settings.model_settings)
    importlib.import_module("server.api.app").serve(settings)
    leave(0)


def leave(code: int) -> NoReturn:
    """Ends the process at once: all is closed by now, and an interpreter with torch in it takes its time to end."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
