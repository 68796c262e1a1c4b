"""`avis serve`: the server. What it imports is light, so that its help is quick."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from core.contract import SolverConfig
from core.model_settings import CONFIGS
from core.models.table import choose
from server.commands.flags import add_settings, default, given, given_after, words
from server.settings import Settings, read_settings

NAMED = ("source", "push")
"""settings that are tables of addresses by name"""
MODEL, SOLVER = "model.", "solver."
"""before the name of a setting of the model, or of the solver"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file with the settings below")
    add_settings(parser, Settings)
    for name in NAMED:
        words_of = words(Settings.model_fields[name])
        parser.add_argument(f"--{name}", action="append", metavar="NAME=ADDRESS", help=f"{words_of}; may be repeated")
    for prefix, title, configs in (
        (MODEL, "model settings", CONFIGS),
        (SOLVER, "solver settings, of a session that names none", (SolverConfig,)),
    ):
        group = parser.add_argument_group(title)
        for name, field in (pair for config in configs for pair in config.model_fields.items()):
            group.add_argument(f"--{prefix}{name}", metavar="VALUE", help=words(field) + default(field))


def run(args: argparse.Namespace) -> int:
    overrides = given(args, Settings)
    for setting, prefix in (("model_settings", MODEL), ("solver", SOLVER)):
        if table := given_after(args, prefix):
            overrides[setting] = table
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
