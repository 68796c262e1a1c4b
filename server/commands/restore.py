"""`avis restore`: files through the engine that serves live video. Memory does not grow with their length."""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path
from typing import get_args

from core.engine import Engine
from core.errors import UsageError
from core.json_report import check_json, write_json
from server.commands import options, restore_batch
from server.commands.restore_file import check, outcome_of, strict_code
from server.commands.restore_report import report, table
from server.files.geometry import Fit
from server.files.outputs import check_output
from server.files.paths import STANDARD


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        metavar="IN [OUT]",
        nargs="+",
        type=Path,
        help="IN: a video, a picture, a folder of pictures, a URL or - for standard input; OUT: a .mp4, .mov, .mkv "
        "or .webm file, a folder for PNG pictures, or - for Matroska on standard output",
    )
    parser.add_argument(
        "--operator", metavar="KIND", required=True, help=f"{', '.join(options.OPERATORS)}, or an operator's JSON"
    )
    parser.add_argument("--mask", metavar="PNG", type=Path, help="for operator mask: white is kept, black is lost")
    parser.add_argument("--kernel", metavar="PNG", type=Path, help="for operator kernel: what one bright point becomes")
    parser.add_argument(
        "--simulate",
        action="store_true",
        help="degrade a clean IN first, and report PSNR and SSIM against it",
    )
    parser.add_argument(
        "--coded",
        metavar="CODEC:RATE",
        type=options.coding,
        help="with --simulate: code what is degraded, as in jpeg:40, vp8:400k or h264:23",
    )
    add_file_arguments(parser)
    add_certificate_arguments(parser)
    options.add_model_arguments(parser)
    options.add_latency_argument(parser)
    options.add_operator_arguments(parser)
    options.add_solver_arguments(parser)
    options.add_json_argument(parser)


def add_file_arguments(parser: argparse.ArgumentParser) -> None:
    """What concerns files alone."""
    parser.add_argument(
        "--size", metavar="WxH", type=options.size, help="size of the restored picture (default: the source's own)"
    )
    parser.add_argument(
        "--fit",
        choices=get_args(Fit),
        default="crop",
        help="how a picture of another shape takes --size: cut at the centre, black bars, or smaller (default: crop)",
    )
    parser.add_argument(
        "--fps", metavar="RATE", type=rate, help="frames per second of a folder of pictures, as 25 or 30000/1001"
    )
    parser.add_argument("--seed", type=options.seed, default=0, help="of all noise (default: 0)")
    parser.add_argument("--crf", type=crf, default=16, help="quality of the video file, 0 best to 51 (default: 16)")
    parser.add_argument("--no-audio", action="store_true", help="leave the sound out")
    parser.add_argument("--transcode-audio", action="store_true", help="encode sound that OUT cannot hold as it is")
    parser.add_argument("--no-deinterlace", action="store_true", help="keep the lines of interlaced video as they are")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing OUT")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when the source was damaged or cut off")
    parser.add_argument("--out-dir", metavar="DIR", type=Path, help="restore every IN into this folder")
    parser.add_argument(
        "--jobs", metavar="N", type=options.positive, default=1, help="files at a time, with --out-dir (default: 1)"
    )


def add_certificate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--certificate",
        action="store_true",
        help="sign what each chunk was made of, in OUT.avis.jsonl; `avis verify OUT` checks it",
    )
    parser.add_argument(
        "--certificate-key",
        metavar="PEM",
        type=Path,
        help="the Ed25519 private key that signs (default: one of your own, made once)",
    )


def rate(text: str) -> Fraction:
    """An argparse type: frames per second."""
    try:
        found = Fraction(text)
    except (ValueError, ZeroDivisionError):
        found = Fraction(0)
    if not 0 < found <= 1000 or found.denominator > 100_000:
        raise argparse.ArgumentTypeError(f"expected frames per second up to 1000, as 25 or 30000/1001, found {text!r}")
    return found


def crf(text: str) -> int:
    """An argparse type: the quality of libx264."""
    if not text.isdecimal() or int(text) > 51:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 51, found {text!r}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    check(args)
    if args.out_dir is not None:
        return restore_batch.run(args)
    if args.jobs > 1:
        raise UsageError("--jobs goes with --out-dir")
    if len(args.paths) != 2:
        raise UsageError(
            f"expected IN and OUT, or several IN with --out-dir, found {len(args.paths)} "
            f"{'path' if len(args.paths) == 1 else 'paths'}"
        )
    source, target = args.paths
    if target == STANDARD and args.json == "-":
        raise UsageError("expected one thing on standard output, found the video and --json")
    check_output(source, target, args.overwrite)
    check_json(args.json)
    outcome = outcome_of(source, target, args, lambda: Engine(options.load_model(args)))
    console = options.progress_console() if target == STANDARD else options.console(args.json)
    console.print(table(outcome))
    write_json(report(outcome), args.json)
    return strict_code(outcome, args)
