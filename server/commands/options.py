"""Arguments that several commands share, and the objects they stand for."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from core.chunks import ChunkSpec
from core.coding import parse_coding
from core.contract import LATENTS, Latency, SolverConfig
from core.errors import UsageError, explain
from core.models.load import Model, load
from core.models.table import MODELS, check_tier, solver_defaults
from core.operators.base import LinearOperator
from core.operators.table import Operator
from server.commands.console import console as console
from server.commands.console import progress_console as progress_console
from server.values import parse_size

OPERATORS: dict[str, type[LinearOperator]] = {
    str(kind.model_fields["kind"].default): kind for kind in get_args(get_args(Operator)[0])
}
"""Each operator by its KIND"""

OWN_OPTION = ("kind", "png", "taps", "operators")
"""settings of an operator that are no number or word: they come in its JSON, or in a file"""

LARGEST = 8192
"""most pixels of a restored picture, each way"""


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="tiny", help="name of the model (default: tiny)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--codec", default=None, help="the video codec of a model that has several")
    parser.add_argument(
        "--weights",
        default="pretrained",
        choices=["pretrained", "random"],
        help="random tries a model without them",
    )
    group = parser.add_argument_group("model settings")
    for model, spec in MODELS.items():
        for name, field in spec.config.model_fields.items():
            group.add_argument(f"--model.{name}", metavar="VALUE", help=f"{_help(field, field.default)} [{model}]")


def add_solver_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("solver settings")
    for name, field in SolverConfig.model_fields.items():
        group.add_argument(f"--solver.{name}", metavar="VALUE", help=_help(field, field.default))


def add_operator_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("operator settings")
    for name, fields in _operator_fields().items():
        defaults = ", ".join(dict.fromkeys(str(field.default) for field in fields.values()))
        words = f"{_help(next(iter(fields.values())), defaults)} [{', '.join(fields)}]"
        group.add_argument(f"--operator.{name}", metavar="VALUE", help=words)


def add_latency_argument(parser: argparse.ArgumentParser) -> None:
    frames = ", ".join(f"{ChunkSpec(LATENTS[name]).frames(1)} with {name}" for name in get_args(Latency))
    parser.add_argument(
        "--latency", choices=get_args(Latency), default="normal", help=f"length of a chunk in frames: {frames}"
    )


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE", help="write the report as one JSON object; - is standard output")


def size(text: str) -> tuple[int, int]:
    """An argparse type: WIDTHxHEIGHT to (height, width)."""
    try:
        width, height = parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if min(width, height) < 16 or max(width, height) > LARGEST:
        raise argparse.ArgumentTypeError(f"expected from 16 to {LARGEST} pixels each way, found {text}")
    return height, width


def seed(text: str) -> int:
    """An argparse type: the seed of all noise, as a session takes it."""
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {2**31 - 1}, found {text!r}")
    return int(text)


def coding(text: str) -> str:
    """An argparse type: CODEC:RATE."""
    try:
        parse_coding(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def positive(text: str) -> int:
    """An argparse type: a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text!r}")
    return int(text)


def deinterlaced(args: argparse.Namespace) -> bool:
    """Whether interlaced pictures are deinterlaced before anything else."""
    return not (args.no_deinterlace or is_deinterlace(args))


def is_deinterlace(args: argparse.Namespace) -> bool:
    return bool(operator_fields(args.operator)["kind"] == "deinterlace")


def load_model(args: argparse.Namespace) -> Model:
    """The model of the command line, loaded."""
    return load(args.model, args.weights, args.device, args.codec, model_settings(args))


def model_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The model's own settings of the command line."""
    return _given(args, "model")


def solver_config(args: argparse.Namespace) -> SolverConfig:
    """The solver's settings of the command line."""
    try:
        config = SolverConfig(**{**solver_defaults(args.model), "num_steps": 0, **_given(args, "solver")})
    except ValidationError as error:
        raise UsageError(f"--solver.{explain(error)}") from error
    check_tier(args.model, config.tier)
    return config


def operator_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The operator's settings of the command line. A choice among whole numbers is not read from a text."""
    given = _given(args, "operator")
    return {name: int(text) if re.fullmatch(r"\d{1,9}", text, re.A) else text for name, text in given.items()}


def operator_fields(text: str) -> dict[str, Any]:
    """What --operator says: its kind, or its JSON. Raises UsageError for neither."""
    fields: Any = {"kind": text}
    if text.lstrip().startswith("{"):
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"expected an operator's kind or its JSON, found what is no JSON: {error}") from error
    if not isinstance(fields.get("kind"), str) or fields["kind"] not in OPERATORS:
        raise UsageError(f"expected an operator among {', '.join(OPERATORS)}, found {fields.get('kind')!r:.60}")
    return {str(name): value for name, value in fields.items()}


def operator(text: str, args: argparse.Namespace, **settings: Any) -> Operator:
    """The operator of a kind, or of its JSON, with the settings of the command line; else with `settings`."""
    fields = operator_fields(text)
    kind = fields["kind"]
    try:
        found: Operator = TypeAdapter(Operator).validate_python({**settings, **fields, **operator_settings(args)})
        return found
    except ValidationError as error:
        raise UsageError(f"--operator.{explain(error).removeprefix(kind + '.')} (operator {kind})") from error


def _given(args: argparse.Namespace, prefix: str) -> dict[str, Any]:
    """The values of --PREFIX.KEY that were given, by KEY."""
    items: Iterable[tuple[str, Any]] = vars(args).items()
    start = prefix + "."
    return {name.removeprefix(start): value for name, value in items if name.startswith(start) and value is not None}


def _operator_fields() -> dict[str, dict[str, FieldInfo]]:
    """Every setting of any operator, by the kinds that have it."""
    found: dict[str, dict[str, FieldInfo]] = {}
    for kind, operator_class in OPERATORS.items():
        for name, field in operator_class.model_fields.items():
            if name not in OWN_OPTION:
                found.setdefault(name, {})[kind] = field
    return found


def _help(field: FieldInfo, default: Any) -> str:
    words = (field.description or "").replace("\n", " ").replace("%", "%%")
    return words if default is None else f"{words} (default: {default})"
