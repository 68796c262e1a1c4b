"""`make gpu`: measures everything that a GPU can tell of this project, within nine minutes, into one report.

It needs this checkout, torch with CUDA, and a few small packages; where those are missing, their wheels may lie in a
folder (`make gpu-wheels` fetches them beforehand), and no network is needed. Each part runs in a process of its own
and is written down at once: the same command goes on where an earlier one ended.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MINUTES = 9.0
RESERVE = 5.0
"""seconds kept to write the report"""
LONGEST = 150.0
"""seconds that one part may take"""
NEEDED = ("numpy", "pydantic", "av", "safetensors")


def main(argv: list[str] | None = None) -> int:
    args = arguments().parse_args(argv)
    began = time.monotonic()
    if missing := bring(args.wheels):
        print(f"missing here: {', '.join(missing)}; `make gpu-wheels` fetches them on a machine with a network")
        return 2
    gpu_parts = importlib.import_module("tools.gpu_parts")
    scale = gpu_parts.Scale(args.device, args.small)
    every = gpu_parts.parts()
    if args.part:
        print(json.dumps(every[args.part](scale)))
        return 0
    wanted = [name for name in every if not args.only or any(word in name for word in args.only.split(","))]
    args.out.mkdir(parents=True, exist_ok=True)
    report = resumed(args)
    for name in wanted:
        if name not in report["parts"]:
            left = 60 * args.minutes - RESERVE - (time.monotonic() - began)
            found = every[name](scale) if args.small else run_part(name, args, min(left, LONGEST))
            if found is None:
                break
            report["parts"][name] = found
        write(args.out, report, wanted)
    write(args.out, report, wanted)
    print((args.out / "gpu.md").read_text())
    return 1 if any("failed" in part for part in report["parts"].values()) else 0


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measures this project on a GPU.")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to try the script (default: cuda)")
    parser.add_argument("--small", action="store_true", help="a small model and small pictures, to try the script")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="after which it ends (default: %(default)g)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu", help="folder of gpu.json and gpu.md")
    parser.add_argument("--only", default="", help="parts whose names contain one of these words, as in taehv,tests")
    parser.add_argument("--anew", action="store_true", help="forget what an earlier run has measured")
    parser.add_argument("--wheels", type=Path, default=ROOT / "build" / "gpu-wheels", help="folder of missing packages")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    return parser


def bring(wheels: Path) -> list[str]:
    """Makes our packages importable, from wheels where they are not installed; returns what is missing still."""
    sys.path.insert(0, str(ROOT))
    if any(importlib.util.find_spec(name) is None for name in NEEDED):
        site = wheels / "site"
        for wheel in sorted(wheels.glob("*.whl")):
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(site)
        sys.path.append(str(site))
        importlib.invalidate_caches()
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def resumed(args: argparse.Namespace) -> dict[str, Any]:
    """What an earlier run of the same commit on the same device has measured; failures are tried again."""
    about = {"commit": commit(), "device": args.device, "small": args.small}
    file = args.out / "gpu.json"
    if file.exists() and not args.anew:
        before: dict[str, Any] = json.loads(file.read_text())
        if {key: before.get(key) for key in about} == about:
            kept = {name: part for name, part in before["parts"].items() if "failed" not in part}
            return {**about, "parts": kept}
    return {**about, "parts": {}}


def commit() -> str:
    ran = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return ran.stdout.strip() or "unknown"


def run_part(name: str, args: argparse.Namespace, seconds: float) -> dict[str, Any] | None:
    """The figures of one part from a process of its own; None when there is no time left to begin it."""
    if seconds < 10:
        return None
    command = [sys.executable, __file__, "--part", name, "--device", args.device, "--wheels", str(args.wheels)]
    began = time.monotonic()
    try:
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"failed": f"it took more than {seconds:.0f} s"}
    if ran.returncode:
        return {"failed": (ran.stderr.strip().splitlines() or [f"it ended with {ran.returncode}"])[-1]}
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return {**found, "took": round(time.monotonic() - began, 1)}


def write(folder: Path, report: dict[str, Any], wanted: list[str]) -> None:
    """Both reports, whole or not at all."""
    for name, text in (("gpu.json", json.dumps(report, indent=1)), ("gpu.md", markdown(report, wanted))):
        beside = folder / (name + ".part")
        beside.write_text(text, encoding="utf-8")
        beside.replace(folder / name)


def markdown(report: dict[str, Any], wanted: list[str]) -> str:
    """The report for people."""
    parts = report["parts"]
    machine = parts.get("machine", {})
    title = (
        f"{machine.get('device', report['device'])}, torch {machine.get('torch', '?')}, commit {report['commit'][:8]}"
    )
    lines = [f"# Measured: {title}", ""]
    if report["device"] == "cpu":
        lines += ["Not measured on a GPU: this run only tries the script.", ""]
    if "passed" in parts.get("tests", {}):
        lines += [f"gpu tests: {'passed' if parts['tests']['passed'] else 'FAILED, see gpu.json'}", ""]
    lines += [
        "| 12 frames | K | ms | p95 | fps | encode | denoise | decode | cache | of floor | GiB | session, MiB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        *(row for name, part in parts.items() if name.startswith("bench") for row in bench_rows(name, part)),
        "",
        "| 16 fps | K | admitted | all their chunks, s | every, s | in time |",
        "|---|--:|--:|--:|--:|---|",
        *(row for name, part in parts.items() if name.startswith("sessions") for row in session_rows(name, part)),
        "",
    ]
    lines += [f"- {name}: {part[why]}" for why in ("failed", "left_out") for name, part in parts.items() if why in part]
    lines += [f"- {name}: no time was left" for name in wanted if name not in parts]
    return "\n".join(lines) + "\n"


def bench_rows(name: str, part: dict[str, Any]) -> list[str]:
    rows = []
    for steps, found in part.items():
        if steps.startswith("K="):
            stages, memory = found["stages_ms"], found["memory_bytes"]
            cells = [
                name.removeprefix("bench "),
                steps[2:],
                f"{found['chunk_ms']['median']:.1f}",
                f"{found['chunk_ms']['p95']:.1f}",
                f"{found['fps']:.1f}",
                *(f"{stages[stage]:.1f}" for stage in ("encode", "denoise", "decode", "cache")),
                f"{100 * found['roofline']['fraction']:.0f} %",
                f"{memory / 2**30:.1f}" if memory else "-",
                f"{found['session_bytes'] / 2**20:.0f}",
            ]
            rows.append(f"| {' | '.join(cells)} |")
    return rows


def session_rows(name: str, part: dict[str, Any]) -> list[str]:
    rows = []
    for steps, found in part.items():
        if steps.startswith("K="):
            seconds, in_time = found["round_seconds"]["median"], "yes" if found["in_time"] else "no"
            cells = [name.removeprefix("sessions "), steps[2:], str(found["admitted"]), f"{seconds:.3f}"]
            cells += [f"{found['period']:.2f}", in_time]
            rows.append(f"| {' | '.join(cells)} |")
    return rows


if __name__ == "__main__":
    sys.exit(main())
