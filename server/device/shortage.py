"""Telling a want of our own from a loss of the device: descriptors, memory and threads of the server's process."""

from __future__ import annotations

import errno
import re

WANTS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN})
"""what the system says when this process, or the machine, has no more of something"""
WORDS = re.compile(r"start new thread|can't allocate memory|not enough memory")
"""what RuntimeErrors say of the same, of threads and of tensors on a CPU"""


def is_shortage(error: BaseException) -> bool:
    """Whether this process lacks something that it may get later. The device is not to blame."""
    if isinstance(error, OSError):
        return error.errno in WANTS
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and WORDS.search(str(error)) is not None)
