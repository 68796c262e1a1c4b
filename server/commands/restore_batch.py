"""`avis restore IN... --out-dir DIR`: many files, one after the other or several at a time. What is done is skipped."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from rich.console import Console
from rich.markup import escape

from core.engine import Engine
from core.errors import UsageError
from core.json_report import check_json, write_json
from server.certificates.certificate import sidecar_of
from server.commands import options
from server.commands.restore_file import outcome_of, strict_code
from server.commands.restore_report import report
from server.files.containers import FORMATS
from server.files.folder import PICTURES
from server.files.outputs import check_output, remove
from server.files.paths import STANDARD, named, natural

VIDEOS = {
    *FORMATS,
    ".avi",
    ".mpg",
    ".mpeg",
    ".ts",
    ".m2ts",
    ".mts",
    ".wmv",
    ".flv",
    ".ogv",
    ".vob",
    ".dv",
    ".3gp",
    ".gif",
}
"""what a folder is searched for that holds no pictures"""
PART = re.compile(r"\.avis-[0-9a-f]{8}-(\d+)\.part")


@dataclass
class Batch:
    """What a run over many files adds up to."""

    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    flawed: int = 0
    """files that --strict counts as failures"""
    interrupted: bool = False


def run(args: argparse.Namespace) -> int:
    targets = planned(args.paths, args.out_dir)
    check_json(args.json)
    make_folder(args.out_dir)
    remove_abandoned(args.out_dir)
    batch, console = Batch(), options.console(args.json)
    work = []
    for source, target in targets.items():
        if is_done(target, args.certificate) and not args.overwrite:
            batch.skipped.append(str(target))
        else:
            work.append((source, target))
    try:
        if args.jobs > 1:
            in_parallel(work, args, batch, console)
        else:
            one_by_one(work, args, batch, console)
    except KeyboardInterrupt:
        batch.interrupted = True
    console.print(summary(batch, len(targets)), soft_wrap=True)
    write_json({"files": batch.reports, "skipped": batch.skipped, "failed": batch.failed}, args.json)
    if batch.interrupted:
        return 130
    return 1 if batch.failed or batch.flawed else 0


def planned(paths: list[Path], folder: Path) -> dict[Path, Path]:
    """Each source with its target. Raises UsageError when two have the same, or one is its own."""
    targets: dict[Path, Path] = {}
    owners: dict[Path, Path] = {}
    for source in (found for path in paths for found in expanded(path)):
        target = folder / target_name(source)
        other = owners.setdefault(target, source)
        if other != source:
            raise UsageError(
                f"expected sources with different names, found {named(other)} and {named(source)}, "
                f"which would both become {named(target.name)}"
            )
        if target.exists() and source.exists() and target.samefile(source):
            raise UsageError(f"expected --out-dir to be another folder than that of {named(source)}")
        targets[source] = target
    return targets


def expanded(path: Path) -> list[Path]:
    """A folder without pictures stands for the videos in it."""
    if path == STANDARD or not path.is_dir():
        return [path]
    files = [file for file in path.iterdir() if not file.name.startswith(".") and file.is_file()]
    videos = sorted((file for file in files if file.suffix.lower() in VIDEOS), key=natural)
    pictures = any(file.suffix.lower() in PICTURES for file in files)
    return [path] if pictures or not videos else videos


def target_name(source: Path) -> str:
    """The name of what comes out: the same container where it can be written, Matroska where not."""
    if source == STANDARD or not source.name:
        raise UsageError(f"expected sources with a name for --out-dir, found {named(source)}")
    if source.is_dir():
        return source.name
    suffix = source.suffix.lower()
    return source.stem + (".png" if suffix in PICTURES else suffix if suffix in FORMATS else ".mkv")


def is_done(target: Path, certified: bool = False) -> bool:
    """Whether an earlier run has written `target`, and certified it if asked; it appears whole or not at all."""
    if certified and not sidecar_of(target).exists():
        return False
    return any(target.iterdir()) if target.is_dir() else target.exists()


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"expected a folder for --out-dir, found {named(folder)}: {error.strerror}") from error


def remove_abandoned(folder: Path) -> None:
    """Removes what a killed run has left half-written."""
    for path in folder.iterdir():
        found = PART.fullmatch(path.name)
        if found and not psutil.pid_exists(int(found[1])):
            remove(path)


def one_by_one(work: list[tuple[Path, Path]], args: argparse.Namespace, batch: Batch, console: Console) -> None:
    """Every file through one engine; a file that fails does not keep the next from its turn."""
    engines: list[Engine] = []

    def engine() -> Engine:
        if not engines:
            engines.append(Engine(options.load_model(args)))
        return engines[0]

    for source, target in work:
        try:
            check_output(source, target, args.overwrite)
            outcome = outcome_of(source, target, args, engine)
        except (UsageError, OSError, FloatingPointError) as error:
            note_failure(batch, console, source, str(error))
            continue
        batch.flawed += strict_code(outcome, args)
        note_success(batch, console, target, report(outcome))


def in_parallel(work: list[tuple[Path, Path]], args: argparse.Namespace, batch: Batch, console: Console) -> None:
    """`args.jobs` files at a time, each in a process of its own with its share of the cores."""
    running: set[subprocess.Popen[str]] = set()
    with tempfile.TemporaryDirectory() as reports, ThreadPoolExecutor(args.jobs) as pool:
        futures = {
            pool.submit(child, source, target, args, Path(reports) / f"{i}.json", running): (source, target)
            for i, (source, target) in enumerate(work)
        }
        try:
            for future in as_completed(futures):
                source, target = futures[future]
                code, error, found = future.result()
                if found is None:
                    note_failure(batch, console, source, error or f"it ended with {code}")
                    continue
                batch.flawed += code != 0
                note_success(batch, console, target, found)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.terminate()
            raise


def child(
    source: Path, target: Path, args: argparse.Namespace, report_path: Path, running: set[subprocess.Popen[str]]
) -> tuple[int, str, dict[str, Any] | None]:
    """Restores one file in a process: its exit code, its sentence, its report."""
    command = [sys.executable, "-m", "server", "restore", *forwarded(args), "--json", str(report_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // args.jobs))}
    process = subprocess.Popen(
        [*command, "--", str(source), str(target)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    running.add(process)
    try:
        _, errors = process.communicate()
    finally:
        running.discard(process)
    sentence = next((line for line in reversed(errors.splitlines()) if line.startswith("avis: ")), "")
    found = json.loads(report_path.read_text(encoding="utf-8")) if report_path.exists() else None
    return process.returncode, sentence.removeprefix("avis: "), found


def forwarded(args: argparse.Namespace) -> Iterator[str]:
    """The arguments of this command line that concern one file."""
    for name, value in vars(args).items():
        if name in ("paths", "out_dir", "jobs", "json") or value is None or value is False:
            continue
        yield f"--{name if '.' in name else name.replace('_', '-')}"
        if isinstance(value, tuple):
            yield f"{value[1]}x{value[0]}"
        elif value is not True:
            yield str(value)


def note_failure(batch: Batch, console: Console, source: Path, why: str) -> None:
    batch.failed[str(source)] = why
    console.print(f"failed   {escape(named(source))}: {escape(why)}", soft_wrap=True)


def note_success(batch: Batch, console: Console, target: Path, found: dict[str, Any]) -> None:
    batch.reports[str(target)] = found
    words = [f"{found['frames']} frames", f"{found['fps']:.1f} a second", *found["notes"], *found["warnings"]]
    if found["damaged"]:
        words.append(f"{found['damaged']} packets damaged")
    console.print(f"restored {escape(named(target))}: {escape(', '.join(words))}", soft_wrap=True)


def summary(batch: Batch, total: int) -> str:
    """The last line: how many of how many, and how much memory it took."""
    counts = f"{len(batch.reports)} restored, {len(batch.skipped)} done before, {len(batch.failed)} failed of {total}"
    ends = [found["memory_bytes"]["end"] / 2**20 for found in batch.reports.values()]
    memory = f"; memory {ends[0]:.0f} MiB after the first file, {ends[-1]:.0f} MiB after the last" if ends else ""
    rest = "; interrupted: the same command goes on with the rest" if batch.interrupted else ""
    return counts + memory + rest
