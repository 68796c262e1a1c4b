"""`avis weights`: which published weights there are, fetching them with their licence in view, checking, converting."""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from torch import nn

from core.errors import UsageError
from core.json_report import check_file, check_json, write_json
from core.model_settings import FOLDER
from core.models.wan.dit import CausalDiT, DiTConfig
from core.models.wan.taehv import TAEHV, TAEHVConfig
from core.models.wan.vae import WanVAE, WanVAEConfig
from core.models.wan.weights import FOR_SERVING, PROMPT, PUBLISHED, Published, convert, load_into, sha256
from server.commands import options
from server.files.download import DownloadError, download


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = f"where weights are kept (default: {FOLDER})"
    parser.add_argument("--folder", type=Path, default=FOLDER, help=where)
    actions = parser.add_subparsers(dest="action", required=True, metavar="list | fetch | verify | convert | prompt")
    actions.add_parser("list", help="what there is, under which licence, and what is here")
    fetching = actions.add_parser("fetch", help="fetch what wan2.1-1.3b needs, or the named weights")
    fetching.add_argument("--yes", action="store_true", help="accept the licences without being asked")
    verifying = actions.add_parser("verify", help="check files against their published hashes, and that they load")
    for sub in (fetching, verifying):
        sub.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(FOR_SERVING)}")
    converting = actions.add_parser("convert", help="make bfloat16 safetensors: half the size, quicker to load")
    converting.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(FOR_SERVING)}")
    converting.add_argument(
        "--file", type=Path, help="convert this file, in the authors' layout or Diffusers', as the one NAME given"
    )
    prompting = actions.add_parser("prompt", help="make a prompt's embedding, once (needs the extra wan)")
    prompting.add_argument("text", help="a description of what will be restored")
    prompting.add_argument("--out", type=Path, help=f"default: {PROMPT} in the folder, which wan2.1-1.3b uses unasked")
    prompting.add_argument("--device", default="cpu", help="where the text encoder runs (default: cpu, 12 GB)")
    for sub in actions.choices.values():
        sub.add_argument("--folder", type=Path, default=argparse.SUPPRESS, help=where)
        sub.add_argument("--json", metavar="FILE", help="write what was done as JSON; - is standard output")


def run(args: argparse.Namespace) -> int:
    if args.folder.exists() and not args.folder.is_dir():
        raise UsageError(f"expected a folder for --folder, found a file in {args.folder}")
    check_json(args.json)
    act = {"list": list_, "fetch": fetch, "verify": verify, "convert": convert_, "prompt": prompt}[args.action]
    try:
        found = act(args)
    except DownloadError as error:
        print(f"avis: {error}", file=sys.stderr)
        return 1
    write_json({"folder": str(args.folder), **found}, args.json)
    return 0 if found.get("ok", True) else 1


def list_(args: argparse.Namespace) -> dict[str, Any]:
    rows = [
        {
            "name": name,
            "what": published.what,
            "bytes": _bytes(published),
            "licence": published.licence,
            "source": published.source,
            "state": state(published, args.folder),
        }
        for name, published in PUBLISHED.items()
    ]
    table = Table("name", "what", "size", "licence", "here")
    for row in rows:
        table.add_row(row["name"], row["what"], _size(int(row["bytes"])), row["licence"], row["state"])  # type: ignore[call-overload, arg-type]
    options.console(args.json).print(table)
    say(args, f"folder: {args.folder}")
    return {"weights": rows}


def fetch(args: argparse.Namespace) -> dict[str, Any]:
    chosen = _chosen(args.names)
    absent = {name: each for name, each in chosen.items() if state(each, args.folder) == "no"}
    if not absent:
        say(args, f"{', '.join(chosen)}: already in {args.folder}")
        return {"fetched": []}
    _confirm(args, absent)
    _check_space(args.folder, sum(_bytes(each) for each in absent.values()))
    for name, published in absent.items():
        _fetch(name, published, args.folder)
    names = ", ".join(absent)
    say(args, f"fetched {names} to {args.folder}; `avis weights convert` halves them and their loading time")
    return {"fetched": list(absent)}


def verify(args: argparse.Namespace) -> dict[str, Any]:
    rows = []
    for name, published in _chosen(args.names).items():
        for path, verdict in check(published, args.folder):
            say(args, f"{name}: {path}: {verdict}")
            rows.append({"name": name, "path": str(path), "verdict": verdict})
    return {"ok": all(row["verdict"] == "ok" for row in rows), "files": rows}


def check(published: Published, folder: Path) -> list[tuple[Path, str]]:
    """Each file of a set, and "ok" or what is wrong with it. The originals may be gone once they are converted."""
    converted = folder / published.converted if published.converted else None
    verdicts = []
    for file in published.files:
        path = folder / file.path
        if not path.is_file():
            if converted is None or not converted.is_file():
                verdicts.append((path, "missing"))
        elif path.stat().st_size != file.bytes:
            verdicts.append((path, f"has {path.stat().st_size} bytes, expected {file.bytes}"))
        else:
            verdicts.append((path, "ok" if sha256(path) == file.sha256 else "its SHA-256 is not the published one"))
    if converted is not None and converted.is_file():
        try:
            load_into(skeleton(published), converted, published.kind)
            verdicts.append((converted, "ok"))
        except UsageError as error:
            verdicts.append((converted, str(error)))
    return verdicts


def convert_(args: argparse.Namespace) -> dict[str, Any]:
    chosen, rows = _chosen(args.names), []
    if args.file is not None and (len(args.names) != 1 or not args.file.is_file()):
        raise UsageError(f"--file takes an existing file and one NAME, found {args.file} and {args.names}")
    for name, published in chosen.items():
        if published.converted is None:
            raise UsageError(f"{name} is used as it is published: there is nothing to convert")
        source = args.file or args.folder / published.files[0].path
        if not source.is_file():
            raise UsageError(f"{source} is not there: fetch it with `avis weights fetch {name}`")
        target = args.folder / published.converted
        count = convert(source, target, published.kind, list(skeleton(published).state_dict()))
        size = target.stat().st_size
        say(args, f"{name}: {count} tensors, {_size(size)}, {target}")
        rows.append({"name": name, "path": str(target), "tensors": count, "bytes": size})
    return {"converted": rows}


def prompt(args: argparse.Namespace) -> dict[str, Any]:
    try:
        umt5 = importlib.import_module("core.models.wan.umt5")
    except ImportError as error:
        raise UsageError(f'a prompt needs the extra "wan": pip install "avis-server[wan]" ({error})') from error
    if args.out is not None:
        check_file(args.out, "--out")  # before the minutes that the text encoder takes
    target = args.out or args.folder / PROMPT
    rows = umt5.make_prompt(args.text, target, args.folder, args.device)
    say(args, f"{rows} rows, {target}")
    return {"path": str(target), "rows": rows}


def say(args: argparse.Namespace, text: str) -> None:
    """For people: on standard error when standard output carries the JSON."""
    print(text, file=sys.stderr if args.json == "-" else sys.stdout)


def skeleton(published: Published) -> nn.Module:
    """The module that a set fills, without memory of its own."""
    with torch.device("meta"):
        if published.kind == "dit":
            return CausalDiT(DiTConfig())
        if published.kind == "wan-vae":
            return WanVAE(WanVAEConfig())
        return TAEHV(TAEHVConfig())


def state(published: Published, folder: Path) -> str:
    """Whether a set is in `folder`: "no", "yes" or "converted". A file in place was checked when it came."""
    if published.converted and (folder / published.converted).is_file():
        return "converted"
    return "yes" if all((folder / file.path).is_file() for file in published.files) else "no"


def _chosen(names: list[str]) -> dict[str, Published]:
    for name in names:
        if name not in PUBLISHED:
            raise UsageError(f"there are no weights {name!r}; there are {', '.join(PUBLISHED)}")
    return {name: PUBLISHED[name] for name in names or FOR_SERVING}


def _confirm(args: argparse.Namespace, absent: dict[str, Published]) -> None:
    """Shows what will come and under which licence; raises UsageError unless that is accepted."""
    for name, published in absent.items():
        say(args, f"{name}: {_size(_bytes(published))}, {published.what}\n  from    {published.source}")
        say(args, f"  licence {published.licence}")
    if args.yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("fetching weights accepts their licences: say so with --yes")
    if input("Fetch them, and accept these licences? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was fetched: the licences were not accepted")


def _check_space(folder: Path, needed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UsageError(f"{folder} has {_size(free)} free, and the files take {_size(needed)}")


def _fetch(name: str, published: Published, folder: Path) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=options.progress_console()) as progress:
        for file in published.files:
            target = folder / file.path
            if target.is_file():
                continue
            task = progress.add_task(f"{name}: {target.name}", total=file.bytes)
            download(file, target, lambda count, task=task: progress.advance(task, count))  # type: ignore[misc]


def _bytes(published: Published) -> int:
    return sum(file.bytes for file in published.files)


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
