"""`avis eval`: the methods that are not ours: single-image networks and other people's checkouts."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from core.errors import UsageError
from core.evaluation import single_image
from core.evaluation.clip_solvers import ClipSolver
from core.evaluation.evaluate import METHODS
from core.operators.base import LinearOperator
from server.commands import external

SUITS: dict[str, tuple[str, ...]] = dict.fromkeys(
    single_image.NETWORKS, ("super_resolution", "spatio_temporal_average")
)
"""The operators that each method from outside is made for"""

THREADS = 2
"""that a single-image network may use, as many as our own figures are measured with"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("methods from outside")
    group.add_argument(
        "--rival-weights",
        metavar="FOLDER",
        type=Path,
        help="where the weights of span and srmd lie (docs/paper.md tells how to get them)",
    )
    group.add_argument(
        "--external",
        metavar="NAME",
        help="also run the method in --checkout, and call its rows NAME; diffir2vr needs no adapter there",
    )
    group.add_argument("--checkout", metavar="DIR", type=Path, help=f"its code, with {external.ADAPTER}")
    group.add_argument("--python", metavar="PATH", type=Path, help="the Python of its environment")


def names(args: argparse.Namespace) -> tuple[str, ...]:
    """Every method that `--variants` may name beside ours."""
    return (*SUITS, *([args.external] if args.external else []))


def suits(name: str, operator: LinearOperator) -> bool:
    """Whether a method is made for an operator; ours and the external one are made for all."""
    return operator.kind in SUITS.get(name, (operator.kind,))


def check(args: argparse.Namespace) -> None:
    """Raises UsageError for arguments of an external method that do not go together."""
    if args.external is None and (args.checkout or args.python):
        raise UsageError("expected --external NAME with --checkout and --python")
    if args.external in (*METHODS, *SUITS):
        raise UsageError(f"expected a new name for --external, found {args.external}, which is taken")
    if args.external is not None:
        external.load(args.external, args.checkout, args.python)


def load(methods: Iterable[str], args: argparse.Namespace) -> dict[str, ClipSolver]:
    """Those of `methods` that are not ours. Raises UsageError for what they need and is not there."""
    found: dict[str, ClipSolver] = {}
    for name in dict.fromkeys(methods):
        if name in single_image.NETWORKS:
            found[name] = single_image.load(name, args.rival_weights, THREADS)
        elif name == args.external:
            found[name] = external.load(name, args.checkout, args.python)
    return found
