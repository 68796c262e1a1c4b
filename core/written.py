"""A file that is there whole or not at all, and readable by others once it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written(target: Path) -> Iterator[Path]:
    """Yields a `.part` beside `target` to write to, which takes the target's place when the block ends well.

    Libraries write with rights of their own (safetensors: 0600), so that another user, such as that of a container,
    could not read what was mounted for it. The file gets the rights that this process gives to new files.
    """
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        part.chmod(0o666 & ~umask())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)  # of a disk that filled up


def umask() -> int:
    """The rights that new files of this process do not get."""
    mask = os.umask(0o022)  # it can be read by setting it only
    os.umask(mask)
    return mask
