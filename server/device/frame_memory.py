"""Memory that the server and its device process both see: one session's frames on their way in and out.

It has no name, only a file descriptor, so nothing is left behind whichever process dies, and however.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence

import numpy as np

from core.contract import Pixels


def anonymous_file(size: int) -> int:
    """A file descriptor to `size` bytes of memory (Linux), or of an unlinked file (elsewhere)."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("avis-frames", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    try:
        os.ftruncate(fd, size)
    except OSError:
        os.close(fd)
        raise
    return fd


class FrameMemory:
    """Frames in at the front, frames out behind them; one chunk each. It owns the descriptor, and closes it."""

    def __init__(self, fd: int, input_bytes: int, output_bytes: int):
        self.fd = fd
        self.input_bytes = input_bytes
        try:
            self._map = mmap.mmap(fd, input_bytes + output_bytes)
        except (OSError, ValueError):
            os.close(fd)
            raise

    @property
    def size(self) -> int:
        """Bytes, in and out together."""
        return len(self._map)

    @classmethod
    def create(cls, input_bytes: int, output_bytes: int) -> FrameMemory:
        fd = anonymous_file(input_bytes + output_bytes)
        return cls(fd, input_bytes, output_bytes)

    def write_input(self, frames: Sequence[Pixels]) -> None:
        """Copies frames [H, W, 3] in, one after another."""
        self._write(0, self.input_bytes, frames)

    def read_input(self, shape: tuple[int, ...]) -> Pixels:
        """A copy of the frames [T, H, W, 3] that were written."""
        return self._read(0, self.input_bytes, shape)

    def write_output(self, frames: Pixels) -> None:
        self._write(self.input_bytes, len(self._map), frames)

    def read_output(self, shape: tuple[int, ...]) -> Pixels:
        return self._read(self.input_bytes, len(self._map), shape)

    def close(self) -> None:
        self._map.close()
        os.close(self.fd)

    def _write(self, start: int, end: int, frames: Sequence[Pixels] | Pixels) -> None:
        needed = sum(frame.nbytes for frame in frames)
        if needed > end - start:
            raise ValueError(f"{needed} bytes of frames do not fit into {end - start}")
        for frame in frames:
            self._map[start : start + frame.nbytes] = np.ascontiguousarray(frame).data.cast("B")
            start += frame.nbytes

    def _read(self, start: int, end: int, shape: tuple[int, ...]) -> Pixels:
        needed = int(np.prod(shape))
        if needed > end - start:
            raise ValueError(f"frames of shape {shape} are {needed} bytes, more than {end - start}")
        copy = np.empty(shape, np.uint8)
        copy.data.cast("B")[:] = memoryview(self._map)[start : start + needed]
        return copy
