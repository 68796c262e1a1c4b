"""Measures a running server with real WebRTC clients, each in its own process: `avis loadtest URL`.

Every frame that is sent carries its number in its pixels, so that each one that comes back is known: how late
it is, and whether it is the right one. On one machine the clients take their part of its time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from pydantic import ValidationError

from core.errors import UsageError, explain
from server.client import ClientConfig, Misbehaviour
from server.frame_code import check_size
from server.loadreport import write_report
from server.settings import parse_size
from server.tally import Limits, Tally, worst

CHUNK_FRAMES = 12
STARTUP = 45.0
"""seconds that a client process may take to start and connect on a busy machine"""
MOST_SESSIONS = 200


@dataclass
class LoadClient:
    """A client process, and the tally of what it tells."""

    name: str
    process: asyncio.subprocess.Process
    tally: Tally = field(default_factory=Tally)
    reading: asyncio.Task[None] | None = None

    async def read(self) -> None:
        """Takes in the client's lines until it ends."""
        assert self.process.stdout is not None, "the client's standard output is a pipe"
        while line := await self.process.stdout.readline():
            self.tally.take(json.loads(line))
        self.tally.exit_code = await self.process.wait()

    async def end(self, patience: float) -> None:
        """Asks the client to end, waits, and kills it if it does not."""
        assert self.process.stdin is not None, "the client's standard input is a pipe"
        self.process.stdin.close()
        if self.reading is not None:
            await asyncio.wait({self.reading}, timeout=patience)
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        if self.reading is not None:
            await asyncio.gather(self.reading, return_exceptions=True)


@dataclass
class Outcome:
    """All that a load test saw."""

    clients: list[Tally] = field(default_factory=list)
    bad: list[Tally] = field(default_factory=list)
    """clients that misbehaved on purpose"""
    steps: list[dict[str, Any]] = field(default_factory=list)
    """of a ramp"""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """what the server told of its device, every two seconds"""
    models: list[Any] = field(default_factory=list)


class LoadTest:
    """Starts clients, watches them and the server, and ends them all."""

    def __init__(self, base: ClientConfig, limits: Limits):
        self.base = base
        self.limits = limits
        self.outcome = Outcome()
        self._clients: list[LoadClient] = []

    async def steady(self, sessions: int, bad: Misbehaviour = "none") -> Outcome:
        """A number of sessions at once, for `base.seconds` each."""
        async with self._running() as http:
            self.outcome.models = await check_ready(http, self.base.url)
            for index in range(sessions):
                self.outcome.clients.append((await self._start(index)).tally)
            if bad != "none":
                self.outcome.bad.append((await self._start(sessions, misbehaviour=bad)).tally)
            await self._wait()
        return self.outcome

    async def ramp(self, most: int, step: float) -> Outcome:
        """One session more every `step` seconds, until one is refused or the limits do not hold."""
        deadline = time.monotonic() + self.base.seconds
        async with self._running() as http:
            self.outcome.models = await check_ready(http, self.base.url)
            for count in range(1, most + 1):
                client = await self._start(count - 1, seconds=self.base.seconds + STARTUP)
                self.outcome.clients.append(client.tally)
                if not await self._opened(client):
                    self._step(count, client.tally.refusal or "the client did not connect", time.monotonic())
                    break
                began = time.monotonic() + 0.3 * step
                await asyncio.sleep(step)
                why = self._judge(began, time.monotonic())
                self._step(count, why, began)
                if why is not None or time.monotonic() + step > deadline:
                    break
        return self.outcome

    async def _start(self, index: int, **changes: Any) -> LoadClient:
        config = self.base.model_copy(update={"tag": index % 256, **changes})
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "server.client"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 22,
        )
        client = LoadClient(f"session {index + 1}", process, Tally(tag=config.tag, fps=config.fps))
        self._clients.append(client)
        client.reading = asyncio.create_task(client.read())
        assert process.stdin is not None, "the client's standard input is a pipe"
        process.stdin.write(config.model_dump_json().encode() + b"\n")
        await process.stdin.drain()
        return client

    async def _opened(self, client: LoadClient) -> bool:
        """Waits until a client's first frame is back; false when it never comes."""
        deadline = time.monotonic() + STARTUP
        while time.monotonic() < deadline and not client.tally.over:
            if client.tally.frames:
                return True
            await asyncio.sleep(0.1)
        return False

    async def _wait(self) -> None:
        """Until every client has ended by itself, or should have long ago."""
        patience = self.base.seconds + self.base.linger + STARTUP
        await asyncio.wait({c.reading for c in self._clients if c.reading is not None}, timeout=patience)

    def _judge(self, start: float, end: float) -> str | None:
        """What does not hold in a window of time, None when all does."""
        complaints = [tally.complaint(self.limits, start, end) for tally in self.outcome.clients]
        return next((complaint for complaint in complaints if complaint is not None), None)

    def _step(self, count: int, why: str | None, start: float) -> None:
        end = time.monotonic()
        step = {"sessions": count, "held": why is None, **worst(self.outcome.clients, start, end)}
        self.outcome.steps.append(step if why is None else {**step, "why": why})

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[aiohttp.ClientSession]:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http:
            watching = asyncio.create_task(self._watch(http))
            try:
                yield http
            finally:
                await asyncio.gather(*(client.end(self.base.linger + 5) for client in self._clients))
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self, http: aiohttp.ClientSession) -> None:
        """Samples the server's own view of its device; a server that has none to tell is left in peace."""
        while True:
            try:
                stats = await get_json(http, f"{self.base.url}/stats")
            except aiohttp.ClientError:
                stats = {}
            if "device" in stats:
                sessions = len(stats.get("sessions", []))
                self.outcome.samples.append({"at": time.monotonic(), "sessions": sessions, **stats["device"]})
            await asyncio.sleep(2)


async def check_ready(http: aiohttp.ClientSession, url: str) -> list[Any]:
    """The models of a server that can take sessions. Raises UsageError for one that cannot."""
    try:
        async with http.get(f"{url}/readyz") as response:
            if response.status != 200:
                raise UsageError(f"the server at {url} is not ready: {await reason_of(response)}")
        return list((await get_json(http, f"{url}/models"))["models"])
    except (aiohttp.ClientError, TimeoutError, KeyError) as error:
        raise UsageError(f"no server of this kind answers at {url}: {error}") from error


async def reason_of(response: aiohttp.ClientResponse) -> str:
    try:
        return str((await response.json())["error"]["message"])
    except (aiohttp.ClientError, ValueError, KeyError, TypeError):
        return f"it answered {response.status}"


async def get_json(http: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with http.get(url) as response:
        response.raise_for_status()
        answer: dict[str, Any] = await response.json()
        return answer


def summary(outcome: Outcome, settings: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a load test."""
    opened = [tally for tally in outcome.clients if tally.refusal is None]
    result: dict[str, Any] = {
        "settings": settings,
        "sessions": [tally.summary() for tally in opened],
        "refused": len(outcome.clients) - len(opened),
        "refusals": [tally.refusal for tally in outcome.clients if tally.refusal is not None],
        "server": {"models": outcome.models, **device_summary(outcome.samples)},
    }
    if outcome.steps:
        held = [step["sessions"] for step in outcome.steps if step["held"]]
        result["ramp"] = {"max_sessions": max(held, default=0), "steps": outcome.steps}
    if outcome.bad:
        result["misbehaving"] = [tally.summary() for tally in outcome.bad]
    return result


def device_summary(samples: list[dict[str, Any]]) -> dict[str, Any]:
    loads = [sample["load"] for sample in samples if sample.get("load") is not None]
    if not loads:
        return {}
    restarts = max(sample.get("restarts", 0) for sample in samples)
    return {"load_mean": round(sum(loads) / len(loads), 3), "load_max": max(loads), "restarts": restarts}


def table(result: dict[str, Any]) -> str:
    """The same for people."""
    head = (
        "session",
        "fps",
        "sent",
        "back",
        "lost",
        "wrong",
        "p50",
        "p95",
        "p99 ms",
        "freezes",
        "gap ms",
        "psnr",
    )
    rows = [head, *(row(index, session) for index, session in enumerate(result["sessions"], 1))]
    widths = [max(len(line[column]) for line in rows) for column in range(len(head))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in rows]
    lines += [f"session {i}: {rungs(s)}" for i, s in enumerate(result["sessions"], 1) if s["rungs"]]
    lines += [f"refused: {refusal}" for refusal in result["refusals"]]
    for step in result.get("ramp", {}).get("steps", []):
        told = "held" if step["held"] else f"did not hold: {step['why']}"
        lines.append(f"{step['sessions']:>3} sessions: p95 {shown(step['p95_ms'])} ms, {told}")
    if "ramp" in result:
        lines.append(f"the most sessions that held: {result['ramp']['max_sessions']}")
    return "\n".join(lines)


def row(index: int, session: dict[str, Any]) -> tuple[str, ...]:
    latency = session["latency_ms"]
    return (
        str(index),
        shown(session["fps"], 1),
        *(str(session[key]) for key in ("frames_sent", "frames_back", "frames_lost", "frames_wrong")),
        *(shown(latency[key]) for key in ("p50", "p95", "p99")),
        str(session["freezes"]),
        shown(session["longest_gap_ms"]),
        shown(session["psnr"], 1),
    )


def rungs(session: dict[str, Any]) -> str:
    chunks = ", ".join(f"{count} {rung}" for rung, count in session["rungs"].items())
    ended = f"; {session['failure']}" if session["failure"] else ""
    return f"chunks {chunks}{ended}"


def shown(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help="of the server, as in http://127.0.0.1:8080")
    how_many = parser.add_mutually_exclusive_group(required=True)
    how_many.add_argument("--sessions", type=int, metavar="N", help="sessions at once")
    how_many.add_argument("--ramp", action="store_true", help="one more session at a time, until it is too many")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of each session, or of the whole ramp (%(default)g)"
    )
    parser.add_argument("--size", default="416x240", metavar="WIDTHxHEIGHT", help="of the video (%(default)s)")
    parser.add_argument("--fps", type=float, default=16.0, help="frames per second (%(default)g)")
    parser.add_argument("--operator", default="super_resolution", metavar="KIND", help="(%(default)s)")
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
    parser.add_argument("--bad", choices=["flood", "stall", "vanish"], help="one client more, that misbehaves")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON; - is standard output")
    parser.add_argument("--report", metavar="FILE.html", help="write a page with curves")


def run(args: argparse.Namespace) -> int:
    base, report = client_config(args), report_path(args.report)
    check_bounds(args)
    limits = Limits(fps=base.fps, budget=args.budget, chunk_frames=CHUNK_FRAMES)
    test = LoadTest(base, limits)
    if args.ramp:
        outcome = asyncio.run(test.ramp(args.most, args.step))
    else:
        outcome = asyncio.run(test.steady(args.sessions, args.bad or "none"))
    settings = {**base.model_dump(exclude={"tag", "misbehaviour"}), "budget": args.budget, "bad": args.bad}
    result = summary(outcome, settings)
    write_json(result, args.json)
    if args.json != "-":
        print(table(result))
    if report is not None:
        opened = [tally.opened for tally in outcome.clients if tally.opened is not None]
        write_report(report, result, outcome.clients, outcome.samples, began=min(opened, default=0.0))
    return exit_code(result)


def exit_code(result: dict[str, Any]) -> int:
    """1 when no frame came back, or a wrong one did: then the server did not do its work."""
    sessions = result["sessions"]
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
    sessions = args.most if args.ramp else args.sessions
    if not 1 <= sessions <= MOST_SESSIONS:
        raise UsageError(f"a load test has 1 to {MOST_SESSIONS} sessions, not {sessions}")
    if args.step < 1:
        raise UsageError(f"a step of a ramp takes 1 second at least, not {args.step:g}")


def report_path(name: str | None) -> Path | None:
    if name is None:
        return None
    path = Path(name)
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"a report is an .html file, not {name!r}")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} for the report")
    return path


def write_json(result: dict[str, Any], name: str | None) -> None:
    if name is None:
        return
    text = json.dumps(result, indent=1)
    if name == "-":
        print(text)
        return
    try:
        Path(name).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {name}: {error.strerror}") from error
