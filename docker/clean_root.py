"""Runs the Dockerfile's steps in a clean Debian root and serves the page from it, where no container engine runs.

Needs root, debootstrap and setpriv (util-linux). The image's user, its read-only root, its lack of capabilities and its
health check are those of the Dockerfile and of docker-compose.yml.

    python docker/clean_root.py FOLDER [--bind PATH ...] [--build-arg NAME=VALUE ...]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
DEBIAN = ["debootstrap", "--variant=minbase", "--include=python3,python3-venv,python-is-python3,ca-certificates"]
PATIENCE = 180.0
"""seconds until the health check must pass"""


@dataclass
class Stage:
    """One FROM of the Dockerfile, and what its steps have set so far."""

    root: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"})
    args: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0"
    shell: list[str] = field(default_factory=lambda: ["/bin/sh", "-c"])
    healthcheck: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the roots are made; about 5 GB")
    parser.add_argument("--bind", type=Path, action="append", default=[], help="of this machine, seen in the root too")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    args = parser.parse_args()
    if os.environ.get("AVIS_MOUNTS") != "own":  # mounts of our own, which end with this process
        os.environ["AVIS_MOUNTS"] = "own"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv])
    base = args.folder / "base"
    if not (base / "usr/bin/python").exists():
        run([*DEBIAN, "bookworm", str(base)])
    stage = build(args.folder, base, args.bind, dict(one.split("=", 1) for one in args.build_arg))
    serve(stage)


def build(folder: Path, base: Path, binds: list[Path], build_args: dict[str, str]) -> Stage:
    """Executes every step; returns the last stage."""
    stages: dict[str, Stage] = {}
    stage = Stage(base)
    for number, (name, rest) in enumerate(instructions((REPOSITORY / "docker/Dockerfile").read_text()), 1):
        print(f"[{number}] {name} {rest[:100]}", flush=True)
        if name == "FROM":
            label = rest.split(" AS ")[1] if " AS " in rest else "final"
            stage = stages[label] = Stage(new_root(folder / label, base, binds))
        else:
            step(stage, stages, name, rest, build_args)
    return stage


def instructions(text: str) -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, without comments, continued lines joined."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n", "", lines)
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in joined.splitlines() if line.strip()]


def step(stage: Stage, stages: dict[str, Stage], name: str, rest: str, build_args: dict[str, str]) -> None:
    match name:
        case "ARG":
            key, _, default = rest.partition("=")
            stage.args[key] = build_args.get(key, default.strip('"'))
        case "ENV":
            known = {**stage.args, **stage.env}
            for pair in shlex.split(rest):
                key, _, value = pair.partition("=")
                stage.env[key] = re.sub(r"\$\{?(\w+)\}?", lambda match: known.get(match[1], ""), value)
        case "SHELL":
            stage.shell = json.loads(rest)
        case "WORKDIR":
            stage.workdir = rest
            (stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        case "USER":
            stage.user = rest
        case "COPY":
            copy(stage, stages, rest.split())
        case "RUN":
            run(inside(stage, [*stage.shell, rest]), {**stage.env, **stage.args})
        case "HEALTHCHECK":
            stage.healthcheck = json.loads(rest.split(" CMD ")[1].strip())
        case "CMD":
            stage.command = json.loads(rest)
        case "EXPOSE" | "STOPSIGNAL":
            pass
        case _:
            raise SystemExit(f"the Dockerfile has a step that this script does not know: {name}")


def new_root(root: Path, base: Path, binds: list[Path]) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    run(["cp", "-a", str(base), str(root)])
    for name in ("/etc/resolv.conf", "/etc/pip.conf"):
        if Path(name).exists():
            shutil.copy(name, root / name.lstrip("/"))
    run(["mount", "--bind", str(root), str(root)])
    run(["mount", "-t", "proc", "proc", str(root / "proc")])
    run(["mount", "--rbind", "/dev", str(root / "dev")])
    for path in binds:
        (root / str(path).lstrip("/")).mkdir(parents=True, exist_ok=True)
        run(["mount", "--bind", str(path), str(root / str(path).lstrip("/"))])
    return root


def copy(stage: Stage, stages: dict[str, Stage], words: list[str]) -> None:
    """COPY [--from=STAGE] SOURCES TARGET."""
    origin = REPOSITORY
    if words[0].startswith("--from="):
        origin = stages[words.pop(0).removeprefix("--from=")].root
    *sources, target = words
    there = stage.root / (target if target.startswith("/") else f"{stage.workdir}/{target}").lstrip("/")
    for source in sources:
        path = origin / source.lstrip("/")
        if path.is_dir():
            shutil.copytree(
                path, there, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            there.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, there)


def inside(stage: Stage, command: list[str]) -> list[str]:
    """The command in the stage's root, in its folder, as its user and without any capability unless that is root."""
    there = ["chroot", str(stage.root), "/usr/bin/env", "-C", stage.workdir]
    if stage.user == "0":
        return [*there, *command]
    limits = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--clear-groups"]
    return [*there, "setpriv", f"--reuid={stage.user}", f"--regid={stage.user}", *limits, *command]


def run(command: list[str], env: dict[str, str] | None = None) -> None:
    subprocess.run(command, env=env, check=True)


def serve(stage: Stage) -> None:
    """Runs CMD on a read-only root until the health check passes, fetches the page, and ends it with SIGTERM."""
    run(["mount", "-t", "tmpfs", "tmpfs", str(stage.root / "tmp")])
    run(["mount", "-o", "remount,bind,ro", str(stage.root)])
    env = {**stage.env, "HOME": "/home/avis", "AVIS_TOKEN": "of-the-clean-root"}
    server = subprocess.Popen(inside(stage, stage.command), env=env)
    try:
        began = time.monotonic()
        while subprocess.run(inside(stage, stage.healthcheck), env=env, stderr=subprocess.DEVNULL).returncode:
            if server.poll() is not None or time.monotonic() - began > PATIENCE:
                raise SystemExit("the health check did not pass")
            time.sleep(2)
        print(f"healthy after {time.monotonic() - began:.0f} s", flush=True)
        with urllib.request.urlopen(f"http://127.0.0.1:{stage.env['AVIS_PORT']}/") as page:
            print(f"GET /: {page.status}, {len(page.read())} bytes of {page.headers['Content-Type']}")
    finally:
        server.terminate()
        print(f"SIGTERM: exit code {server.wait(30)}")


if __name__ == "__main__":
    main()
