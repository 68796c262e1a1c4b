"""`avis loadtest URL`: its arguments, their checks, and what it writes."""

from __future__ import annotations

import argparse
import asyncio
import math
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

from pydantic import ValidationError

from core.chunks import ChunkSpec
from core.contract import LATENTS, Latency
from core.errors import UsageError, explain
from core.json_report import check_json, write_json
from server.loadtest.client import ClientConfig
from server.loadtest.frame_code import check_size
from server.loadtest.report import write_report
from server.loadtest.result import Outcome, summary, table
from server.loadtest.run import LoadTest
from server.loadtest.tally import Limits
from server.values import parse_size

MOST_SESSIONS = 200
MOST_CYCLES = 100_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help="of the server, as in http://127.0.0.1:8080")
    how_many = parser.add_mutually_exclusive_group(required=True)
    how_many.add_argument("--sessions", type=int, metavar="N", help="sessions at once")
    how_many.add_argument("--cycles", type=int, metavar="N", help="sessions that end with their first frame back")
    how_many.add_argument("--ramp", action="store_true", help="one more session at a time, until it is too many")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of each session, or of the whole ramp (%(default)g)"
    )
    parser.add_argument("--size", default="416x240", metavar="WIDTHxHEIGHT", help="of the video (%(default)s)")
    parser.add_argument("--fps", type=float, default=16.0, help="frames per second (%(default)g)")
    parser.add_argument(
        "--operator", default="super_resolution", metavar="KIND", help="to apply and undo (%(default)s)"
    )
    parser.add_argument(
        "--latency", choices=get_args(Latency), default="normal", help="low: chunks of 4 frames (%(default)s)"
    )
    parser.add_argument("--model", metavar="NAME", help="the model that must serve; any, unless named")
    parser.add_argument("--clip", metavar="FILE", help="a video to send instead of the synthetic scene")
    parser.add_argument("--step", type=float, default=10.0, metavar="SECONDS", help="of a ramp (%(default)g)")
    parser.add_argument("--most", type=int, default=32, metavar="N", help="sessions of a ramp (%(default)d)")
    parser.add_argument(
        "--budget",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="latency beyond the fill of a chunk that a ramp allows at p95 (%(default)g)",
    )
    parser.add_argument("--at-once", type=int, default=2, metavar="N", help="cycles beside each other (%(default)d)")
    parser.add_argument(
        "--bad",
        choices=["flood", "stall", "vanish"],
        help="one client more, that misbehaves in the second of three phases of --seconds: what the others notice",
    )
    parser.add_argument(
        "--overload",
        action="store_true",
        help="one session alone, then N at once, then one again, each for --seconds: what the crowd costs",
    )
    parser.add_argument("--kill-device", action="store_true", help="kill the device process of a server beside this")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON; - is standard output")
    parser.add_argument("--report", metavar="FILE.html", help="write a page with curves")


def run(args: argparse.Namespace) -> int:
    base, report = client_config(args), report_path(args.report)
    check_bounds(args)
    check_json(args.json)
    chunk_frames = ChunkSpec(LATENTS[base.latency]).frames(1)
    limits = Limits(fps=base.fps, budget=args.budget, chunk_frames=chunk_frames)
    test = LoadTest(base, limits)
    outcome = asyncio.run(chosen(test, args))
    settings = {**base.model_dump(exclude={"tag", "misbehaviour"}), "budget": args.budget, "bad": args.bad}
    result = summary(outcome, settings)
    write_json(result, args.json)
    if args.json != "-":
        print(table(result))
    if report is not None:
        opened = [tally.opened for tally in outcome.clients if tally.opened is not None]
        write_report(report, result, outcome.clients, outcome.samples, began=min(opened, default=0.0))
    return exit_code(result)


def chosen(test: LoadTest, args: argparse.Namespace) -> Coroutine[Any, Any, Outcome]:
    """The test that the arguments ask for."""
    if args.ramp:
        return test.ramp(args.most, args.step)
    if args.cycles:
        return test.cycles(args.cycles, min(args.at_once, args.cycles))
    if args.bad:
        return test.disturbed(args.sessions, args.bad)
    if args.overload:
        return test.overloaded(args.sessions)
    if args.kill_device:
        return test.killed(args.sessions)
    return test.steady(args.sessions)


def exit_code(result: dict[str, Any]) -> int:
    """1 when no frame came back, or a wrong one did: then the server did not do its work."""
    sessions = result["sessions"]
    if "cycles" in result:
        return 1 if result["cycles"]["failed"] or not result["cycles"]["done"] else 0
    failed = not sessions or any(s["frames_wrong"] or not s["frames_back"] for s in sessions)
    return 1 if failed else 0


def client_config(args: argparse.Namespace) -> ClientConfig:
    try:
        width, height = parse_size(args.size)
        check_size(width, height)
        return ClientConfig(
            url=check_url(args.url),
            width=width,
            height=height,
            fps=args.fps,
            seconds=args.seconds,
            operator={"kind": args.operator},
            latency=args.latency,
            model=args.model,
            clip=check_clip(args.clip),
        )
    except ValidationError as error:
        raise UsageError(explain(error)) from error
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def check_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"the URL of a server is http://HOST:PORT, not {url!r}")
    return url.rstrip("/")


def check_clip(path: str | None) -> str | None:
    if path is not None and not Path(path).is_file():
        raise UsageError(f"there is no clip {path}")
    return path


def check_bounds(args: argparse.Namespace) -> None:
    sessions = args.most if args.ramp else args.at_once if args.cycles is not None else args.sessions
    if args.cycles is not None and not 1 <= args.cycles <= MOST_CYCLES:
        raise UsageError(f"a load test has 1 to {MOST_CYCLES} cycles, not {args.cycles}")
    special = [name for name in ("bad", "overload", "kill_device") if getattr(args, name)]
    if special and not args.sessions:
        raise UsageError("--bad, --overload and --kill-device go with --sessions: they need others that stay")
    if len(special) > 1:
        raise UsageError("--bad, --overload and --kill-device are tests of their own: one at a time")
    if args.overload and args.sessions < 2:
        raise UsageError(f"--overload takes 2 sessions at least, not {args.sessions}")
    if not 1 <= sessions <= MOST_SESSIONS:
        raise UsageError(f"a load test has 1 to {MOST_SESSIONS} sessions, not {sessions}")
    if not 1 <= args.step < math.inf:
        raise UsageError(f"a step of a ramp takes 1 second at least, not {args.step:g}")
    if not 0 <= args.budget < math.inf:
        raise UsageError(f"a latency budget is 0 seconds or more, not {args.budget:g}")


def report_path(name: str | None) -> Path | None:
    if name is None:
        return None
    path = Path(name)
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"a report is an .html file, not {name!r}")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} for the report")
    return path
