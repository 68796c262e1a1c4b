"""SRT by an ffmpeg program beside us, since FFmpeg inside PyAV's wheels has none. The video is copied, not encoded."""

from __future__ import annotations

import importlib
import select
import shutil
import subprocess
import threading
import time
from types import TracebackType
from typing import Any

QUICK = {"analyzeduration": "1000000", "fpsprobesize": "0"}
"""FFmpeg looks at a stream for a second at most before it gives frames; else SRT's first picture took 8 s"""
LOW_DELAY = {**QUICK, "fflags": "nobuffer"}
"""and what it read meanwhile is not handed over late"""
PATIENCE = 10.0
"""seconds without a byte"""
LOOK_EVERY = 0.25
"""seconds between two looks whether to stop"""


class SrtPipe:
    """The stream at an srt:// address as MPEG-TS, a file object for FFmpeg. A context manager."""

    def __init__(self, url: str, stop: threading.Event):
        told = [word for name, value in LOW_DELAY.items() for word in (f"-{name}", value)]
        command = [program(), "-nostdin", "-loglevel", "error", *told, "-i", url]
        command += ["-map", "0:v", "-c", "copy", "-f", "mpegts", "-flush_packets", "1", "-"]
        self._stop = stop
        self._process: Any = subprocess.Popen(command, bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def read(self, size: int) -> bytes:
        """What has come; nothing at the end. Raises OSError when nothing comes for PATIENCE seconds."""
        until = time.monotonic() + PATIENCE
        while not self._stop.is_set():
            if select.select([self._process.stdout], [], [], LOOK_EVERY)[0]:
                data: bytes = self._process.stdout.read(size)
                return data if data else self._end()
            if time.monotonic() > until:
                raise OSError(0, f"nothing came for {PATIENCE:g} s")
        return b""

    def _end(self) -> bytes:
        """Raises OSError when the program failed. The last words of its message hold no address."""
        said = self._process.stderr.read().decode(errors="replace").strip()
        if said:
            raise OSError(0, said.splitlines()[-1].rpartition(": ")[2][:100].rstrip("."))
        return b""

    def __enter__(self) -> SrtPipe:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()


def program() -> str:
    """An ffmpeg: of the system, else of the package imageio-ffmpeg. Raises OSError where there is none."""
    found = shutil.which("ffmpeg")
    if found is not None:
        return found
    try:
        executable: str = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
        return executable
    except (ImportError, RuntimeError):
        raise OSError(0, "SRT needs a program ffmpeg on the path, or the package imageio-ffmpeg") from None
