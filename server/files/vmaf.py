"""VMAF by a packaged FFmpeg: raw pictures in, one number out. Absent without the extra `eval`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

try:
    import imageio_ffmpeg  # type: ignore[import-untyped]
except ImportError:  # the extra `eval` brings it
    imageio_ffmpeg = None


def vmaf_ffmpeg() -> str | None:
    """The path of an FFmpeg that has libvmaf, or None."""
    if imageio_ffmpeg is None:
        return None
    try:
        ffmpeg = str(imageio_ffmpeg.get_ffmpeg_exe())
        filters = subprocess.run([ffmpeg, "-hide_banner", "-filters"], capture_output=True, text=True, check=True)
    except (RuntimeError, OSError, subprocess.CalledProcessError):  # a platform it has no binary for
        return None
    return ffmpeg if " libvmaf " in filters.stdout else None


def vmaf(ffmpeg: str, restored: Path, original: Path, size: tuple[int, int], rate: float = 16) -> float:
    """Mean VMAF (model vmaf_v0.6.1) of two files of raw RGB pictures of `size` = (height, width)."""
    height, width = size
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{rate:g}"]
    log = restored.with_suffix(".json")
    # relative names and a working directory: a filter's argument cannot hold every path
    graph = f"[0:v]format=yuv420p[a];[1:v]format=yuv420p[b];[a][b]libvmaf=log_fmt=json:log_path={log.name}"
    command = [ffmpeg, "-v", "error", *raw, "-i", str(restored), *raw, "-i", str(original), "-lavfi", graph]
    done = subprocess.run([*command, "-f", "null", "-"], capture_output=True, text=True, cwd=log.parent, check=False)
    if done.returncode:
        raise RuntimeError(f"FFmpeg could not compute VMAF: {done.stderr.strip()}")
    score = json.loads(log.read_text())["pooled_metrics"]["vmaf"]["mean"]
    return float(score)
