"""`avis eval --loss`: frames lost on the way, masked against frozen, on the same losses and the same noise."""

from __future__ import annotations

import argparse
from statistics import fmean
from typing import Any

from rich.table import Table

from core.contract import Pixels, SolverConfig
from core.errors import UsageError
from core.evaluation.loss import LOSS_VARIANTS, lost_frames, score_loss
from core.evaluation.score import measured
from core.models.load import Model
from core.operators.table import Operator
from core.solver import Solver
from server.commands import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("loss on the way, instead of the variants")
    group.add_argument(
        "--loss",
        metavar="SHARE,...",
        type=shares,
        help="lose these shares of the frames, as in 0.01,0.03,0.05,0.1, and compare masking them with freezing",
    )
    group.add_argument(
        "--burst", metavar="N", type=options.positive, default=1, help="frames lost in a row (default: 1)"
    )


def shares(text: str) -> tuple[float, ...]:
    """An argparse type: numbers between 0 and 1, separated by commas."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < share < 1 for share in found):
        raise argparse.ArgumentTypeError(f"expected shares between 0 and 1 such as 0.01,0.05, found {text!r}")
    return found


def check(args: argparse.Namespace) -> None:
    """Raises UsageError for arguments that have no meaning together."""
    if args.variants != "all":
        raise UsageError(f"expected no --variants with --loss, which compares {', '.join(LOSS_VARIANTS)}")
    if args.sheet:
        raise UsageError("expected no --sheet with --loss, which draws none")
    if args.coded != [None]:
        raise UsageError("expected no --coded with --loss, which codes nothing")
    if args.latents != [3]:
        raise UsageError("expected no --latents with --loss, which loses frames of chunks of 12")


def evaluate(
    clip: str,
    pixels: Pixels,
    operators: list[Operator],
    solver: Solver,
    model: Model,
    config: SolverConfig,
    args: argparse.Namespace,
) -> list[dict[str, Any]]:
    """The rows of one clip: each operator, share and variant, all of a share with the same frames lost."""
    if len(pixels) <= args.burst:
        raise UsageError(f"expected more than --burst {args.burst} frames in {clip}, found {len(pixels)}")
    rows = []
    for operator in operators:
        for share in args.loss:
            lost = lost_frames(len(pixels), share, args.burst, args.seed)
            for variant in LOSS_VARIANTS:
                chunks = measured(pixels, operator, args.seed, model.device)
                score = score_loss(solver, chunks, operator, config, variant, lost, args.seed)
                keys = {"clip": clip, "operator": operator.kind, "loss": share, "variant": variant}
                rows.append({**keys, **score.row()})
    return rows


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The mean over clips of each operator, share and variant, in the order of `rows`."""
    groups: dict[tuple[str, float, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["operator"], row["loss"], row["variant"]), []).append(row)
    found = []
    for (operator, loss, variant), group in groups.items():
        values = {name: fmean(row[name] for row in group) for name in ("psnr", "psnr_lost", "psnr_affected")}
        keys = {"operator": operator, "loss": loss, "variant": variant, "clips": len(group)}
        found.append({**keys, **values, "lost": sum(row["lost"] for row in group)})
    return found


def mean_table(rows: list[dict[str, Any]]) -> Table:
    """One line an operator and share: PSNR over the affected frames, and what masking gains there."""
    table = Table(title="PSNR over the affected frames, means over clips")
    table.add_column("operator")
    for name in ("loss", "frames lost", *LOSS_VARIANTS, "mask over freeze", "over all frames"):
        table.add_column(name, justify="right")
    by_key = {(row["operator"], row["loss"], row["variant"]): row for row in rows}
    for operator, loss in dict.fromkeys((row["operator"], row["loss"]) for row in rows):
        intact, freeze, mask = (by_key[operator, loss, variant] for variant in LOSS_VARIANTS)
        table.add_row(
            operator,
            f"{100 * loss:g} %",
            str(intact["lost"]),
            *(f"{row['psnr_affected']:.2f}" for row in (intact, freeze, mask)),
            f"{mask['psnr_affected'] - freeze['psnr_affected']:+.2f}",
            f"{mask['psnr'] - freeze['psnr']:+.2f}",
        )
    return table
