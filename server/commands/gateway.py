"""`avis gateway`: one address for the clients of many nodes. What it imports is light, so that its help is quick."""

from __future__ import annotations

import argparse
import importlib

from server.commands.flags import add_settings, given
from server.gateway.settings import GatewaySettings, read_gateway


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser, GatewaySettings)


def run(args: argparse.Namespace) -> int:
    settings = read_gateway(**given(args, GatewaySettings))
    importlib.import_module("server.gateway.app").serve(settings)
    return 0
