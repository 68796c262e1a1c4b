"""Telling a want of our own from a loss of the device: descriptors, memory and threads of the server's process."""

from __future__ import annotations

import errno

WANTS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN})
"""what the system says when this process, or the machine, has no more of something"""


def is_shortage(error: BaseException) -> bool:
    """Whether this process lacks something that it may get later. The device is not to blame."""
    if isinstance(error, OSError):
        return error.errno in WANTS
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "start new thread" in str(error))
