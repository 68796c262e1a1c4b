"""`avis doctor`: what works on this machine, or of a server, and what to do about what does not. Changes nothing."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version

import av
import psutil  # type: ignore[import-untyped]

from core.contract import SolverConfig
from core.engine import Engine
from core.errors import UsageError
from core.evaluation.bench import moving_scene
from core.json_report import check_json, write_json
from core.models.table import MODELS, choose
from core.operators.super_resolution import SuperResolution
from server.commands import options
from server.commands.checkup import examine
from server.commands.findings import Finding, table
from server.commands.loadtest import check_url
from server.files.vmaf import vmaf_ffmpeg
from server.webrtc.versions import check_versions

PACKAGES = ("torch", "numpy", "av", "aiortc", "aioice", "aiohttp", "pydantic")
CODECS = (("libx264", "w"), ("libvpx", "w"), ("vp8", "r"), ("h264", "r"), ("png", "w"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    about = (
        "a running server, as in https://avis.example: connect to it and say which step fails; without it, this machine"
    )
    parser.add_argument("url", nargs="?", metavar="URL", help=about)
    parser.add_argument("--token", help="what the server asks for")
    options.add_model_arguments(parser)
    options.add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    check_json(args.json)
    findings = of_this_machine(args) if args.url is None else of_a_server(args.url, args.token)
    options.console(args.json).print(table(findings))
    fit = all(finding.state != "fault" for finding in findings)
    write_json({"ok": fit, "findings": [asdict(finding) for finding in findings]}, args.json)
    return 0 if fit else 1


def of_a_server(url: str, token: str | None) -> list[Finding]:
    check_url(url)
    return asyncio.run(examine(url, token))


def of_this_machine(args: argparse.Namespace) -> list[Finding]:
    choose(args.model, args.codec, options.model_settings(args))  # a name that is none is no fault of the machine
    checks: tuple[Callable[[], list[Finding]], ...] = (
        python, packages, processor, memory, codecs, network, evaluation, models, lambda: restoring(args),
    )  # fmt: skip
    return [finding for check in checks for finding in check()]


def python() -> list[Finding]:
    found = f"{platform.python_version()} on {platform.platform()}"
    return [Finding("python", "ok" if sys.version_info >= (3, 11) else "fault", found)]


def packages() -> list[Finding]:
    found, missing = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    findings = [Finding("packages", "ok", ", ".join(found))]
    if missing:
        findings.append(Finding("packages", "fault", f"missing: {', '.join(missing)}; run make setup"))
        return findings
    try:
        check_versions()
    except RuntimeError as error:
        findings.append(Finding("packages", "fault", f"{error}; run make setup"))
    return findings


def processor() -> list[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    findings = [Finding("processor", "ok", f"{cores} cores, load {load_average:.1f}")]
    if cores < 2:
        findings.append(Finding("processor", "note", "one core: expect fewer than 16 frames a second at 416x240"))
    if load_average > cores:
        findings.append(Finding("processor", "note", "others keep it busy: live video will fall behind"))
    return findings


def memory() -> list[Finding]:
    free = psutil.virtual_memory().available
    return [Finding("memory", "ok" if free > 2**30 else "note", f"{free / 2**30:.1f} GiB free")]


def codecs() -> list[Finding]:
    missing = [name for name, way in CODECS if not has_codec(name, way)]
    if missing:
        return [Finding("codecs", "fault", f"FFmpeg in PyAV lacks {', '.join(missing)}; reinstall av from PyPI")]
    return [Finding("codecs", "ok", ", ".join(dict.fromkeys(name for name, _ in CODECS)))]


def has_codec(name: str, way: str) -> bool:
    try:
        av.Codec(name, "w" if way == "w" else "r")
    except av.codec.codec.UnknownCodecError:
        return False
    return True


def network() -> list[Finding]:
    """Whether a UDP socket opens, which WebRTC needs."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
    except OSError as error:
        return [Finding("network", "fault", f"no UDP socket can be opened: {error.strerror}")]
    return [Finding("network", "ok", "UDP sockets open")]


def evaluation() -> list[Finding]:
    if vmaf_ffmpeg():
        return [Finding("vmaf", "ok", "avis eval reports it")]
    return [Finding("vmaf", "note", "avis eval leaves it out; pip install 'avis-server[eval]' brings it")]


def models() -> list[Finding]:
    return [Finding("model", "ok", f"{name}: {spec.summary}") for name, spec in MODELS.items()]


def restoring(args: argparse.Namespace) -> list[Finding]:
    """Loads a model and restores one small chunk with it."""
    try:
        model = options.load_model(args)
    except (UsageError, FileNotFoundError) as error:
        return [Finding("restoring", "fault", str(error))]
    engine, operator = Engine(model), SuperResolution()
    engine.open("doctor", operator, "simulate", 128, 128)
    result = engine.step("doctor", moving_scene(9, 128, 128), operator, SolverConfig())
    gain = f"{result.psnr_x_init:.1f} dB before the model, {result.psnr:.1f} dB after it"
    words = f"{args.model} on {model.device}: a synthetic chunk, {gain}"
    return [Finding("restoring", "ok", words)]
