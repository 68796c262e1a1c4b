"""Frames in, chunks out: the only place that knows how frames map to latents. Pure: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

F = TypeVar("F")


@dataclass(frozen=True)
class ChunkSpec:
    """How a causal video codec groups frames (paper, B.1).

    The first latent of a stream holds one frame and every later latent `stride` frames, so 3 latents
    are 1 + 4 + 4 = 9 frames in the first chunk and 12 in every other: 81 frames are 21 latents.
    With 1 latent they are 5, since one frame alone shows no motion, and 4: low latency.
    """

    latents: int = 3
    stride: int = 4

    def frames(self, index: int) -> int:
        """Number of frames in chunk `index`."""
        if index == 0:
            return 1 + (max(self.latents, 2) - 1) * self.stride
        return self.latents * self.stride

    @property
    def most_frames(self) -> int:
        """Frames of the longest chunk."""
        return max(self.frames(0), self.frames(1))

    def split(self, frames: int) -> list[int]:
        """Chunk lengths for a clip of `frames` frames; the last chunk may be shorter than the rest."""
        lengths: list[int] = []
        while frames > 0:
            lengths.append(min(frames, self.frames(len(lengths))))
            frames -= lengths[-1]
        return lengths


CHUNKS = ChunkSpec()
"""chunks of a stream that asks for no others"""


def opens_stream(frames: int) -> bool:
    """Whether a chunk of so many frames is the first of its stream, which alone has 1 + 4 n of them."""
    return frames % ChunkSpec().stride == 1


@dataclass(frozen=True)
class Chunk(Generic[F]):
    """`spec.frames(index)` consecutive frames of one stream."""

    index: int
    frames: list[F]


@dataclass
class Chunker(Generic[F]):
    """Groups the frames of one stream into chunks."""

    spec: ChunkSpec = field(default_factory=ChunkSpec)
    index: int = 0
    _frames: list[F] = field(default_factory=list)

    @property
    def pending(self) -> int:
        """Frames that wait for their chunk to fill."""
        return len(self._frames)

    def push(self, frame: F) -> Chunk[F] | None:
        """Adds `frame`; returns the chunk it completes, if it completes one."""
        self._frames.append(frame)
        if len(self._frames) < self.spec.frames(self.index):
            return None
        chunk = Chunk(self.index, self._frames)
        self._frames, self.index = [], self.index + 1
        return chunk
