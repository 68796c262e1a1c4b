"""Paths as people give them: how they are opened, and how a message shows them."""

from __future__ import annotations

import os
import re
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import av
from av.container import InputContainer
from av.error import FFmpegError

from core.errors import UsageError, printable

STANDARD = Path("-")
"""standard input or output"""
URL = re.compile(r"[a-z][a-z0-9+.-]+:/")
"""how the address of a stream starts, after pathlib has folded its slashes"""
TIMEOUTS = (15.0, 30.0)
"""seconds to open a URL, and to wait for its next packet"""


def named(path: Path | str) -> str:
    """`path` on one line: what cannot be printed is escaped."""
    return printable(path)


def status(path: Path) -> os.stat_result | None:
    """What the system says of `path`, None when there is nothing. Raises UsageError for a name it cannot take."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"expected the name of a file or a folder, found {shortened(path)}: {reason}") from error


def shortened(path: Path) -> str:
    """`path` on one line of bearable length."""
    text = named(path)
    return text if len(text) <= 120 else f"{text[:60]}...{text[-57:]}"


def is_pipe(path: Path) -> bool:
    """Whether `path` can be read only once: standard input, a FIFO, a socket or a device."""
    if path == STANDARD:
        return True
    found = None if URL.match(str(path)) else status(path)
    return found is not None and not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode)


@dataclass
class Pipe:
    """A file object that FFmpeg reads as data arrives. Ctrl-C reaches the caller through FFmpeg as an OSError.

    Its `name` says nothing but the suffix: FFmpeg takes shot%03d.png for a numbered sequence.
    """

    file: BinaryIO
    name: str

    def read(self, size: int) -> bytes:
        try:
            return self.file.read(size)
        except KeyboardInterrupt as error:
            raise InterruptedError("interrupted") from error

    def close(self) -> None:
        self.file.close()


def open_pipe(path: Path) -> Pipe:
    """Standard input, or what can be read only once. Waits for a writer."""
    if path == STANDARD:
        return Pipe(os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0), "pipe")
    return Pipe(path.open("rb", buffering=0), f"pipe{path.suffix}")


def open_container(path: Path) -> tuple[InputContainer, Pipe | None]:
    """`path` for FFmpeg, and the pipe to close after it. Raises UsageError when there is no video or picture in it."""
    pipe = None
    try:
        if URL.match(str(path)):
            return av.open(re.sub(r":/+", "://", str(path), count=1), timeout=TIMEOUTS, **TEXT), None
        if is_pipe(path) or "%" in str(path):
            pipe = open_pipe(path)
        container = av.open(pipe or f"file:{path}", "r", **TEXT)
    except InterruptedError as error:
        raise KeyboardInterrupt from error
    except (FFmpegError, OSError, ValueError) as error:
        if pipe is not None:
            pipe.close()
        raise UsageError(refusal(path, error)) from error
    if container.format.name == "tty":  # FFmpeg plays text files as terminals
        container.close()
        raise UsageError(f"expected a video or a picture in {named(path)}, found text")
    return container, pipe


TEXT: dict[str, Any] = {"metadata_errors": "replace"}
"""titles that are not UTF-8 are shown as well as they can be"""


def refusal(path: Path, error: Exception) -> str:
    """Why `path` could not be opened, in one sentence."""
    reason = named(getattr(error, "strerror", None) or str(error) or type(error).__name__)
    hint = "; a pipe cannot be rewound, which some files need" if is_pipe(path) else ""
    return f"expected a video or a picture in {named(path)}, found none: {reason}{hint}"


def natural(path: Path) -> list[tuple[int, str]]:
    """Sorts 9.png before 10.png."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", path.name)]
