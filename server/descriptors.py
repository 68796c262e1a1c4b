"""How many more files this process may open: sockets and memory count as files."""

from __future__ import annotations

import os
import resource

RESERVE = 20
"""descriptors that are kept for requests and for the sessions that are open: with none left, nobody could even leave"""
OPEN = "/proc/self/fd"


def left() -> int | None:
    """Descriptors that may still be opened; None where the system does not tell, or sets no limit."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or not os.path.isdir(OPEN):
        return None
    return max(0, most - len(os.listdir(OPEN)))


def are_scarce() -> bool:
    """Whether a new connection would take of the reserve."""
    found = left()
    return found is not None and found < RESERVE
