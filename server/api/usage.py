"""What a process holds of this machine, as the system tells it."""

from __future__ import annotations

from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]


@dataclass(frozen=True)
class Usage:
    """What one process holds now."""

    rss_bytes: int
    """resident memory"""
    fds: int
    """open file descriptors; 0 where the system does not count them"""
    threads: int


def usage_of(pid: int | None) -> Usage | None:
    """What a process holds, None for one that is not there."""
    if pid is None:
        return None
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            fds = process.num_fds() if hasattr(process, "num_fds") else 0
            return Usage(process.memory_info().rss, fds, process.num_threads())
    except psutil.NoSuchProcess:
        return None
