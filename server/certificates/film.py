"""A finished video as anybody decodes it: its pictures chunk by chunk. Knows no certificate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from core.contract import Pixels
from core.errors import UsageError
from server.certificates.hashes import files_of, hash_of, planes
from server.files.colour import Unconvertible, coding, to_pixels
from server.files.folder import PICTURES, decode
from server.files.paths import named, open_container
from server.files.video_file import video_stream


@dataclass(frozen=True)
class Cut:
    """The pictures of one chunk, as the file decodes to them."""

    frames: list[av.VideoFrame]
    shown: tuple[float, float]
    """when the first and the last are shown, from the file's first picture, in seconds"""

    @property
    def sha256(self) -> str:
        return hash_of(planes(frame) for frame in self.frames)

    def pixels(self, size: tuple[int, int]) -> Pixels:
        """As RGB [T, H, W, 3], the upper left `size` = (height, width) of them. Raises UsageError."""
        height, width = size
        try:
            shown = [to_pixels(frame, coding(frame), frame.height, frame.width) for frame in self.frames]
            return np.stack([pixels[:height, :width] for pixels in shown])
        except (FFmpegError, Unconvertible, ValueError) as error:
            raise UsageError(f"its pictures cannot be converted to RGB: {error}") from error


def cuts(frames: Iterator[av.VideoFrame], lengths: Iterable[int]) -> Iterator[Cut]:
    """`frames` in chunks of these lengths; the last may be shorter, and what no length asks for is left in `frames`."""
    start: float | None = None
    for length in lengths:
        chunk = list(islice(frames, length))
        if not chunk:
            return
        start = time_of(chunk[0]) if start is None else start
        yield Cut(chunk, (round(time_of(chunk[0]) - start, 6), round(time_of(chunk[-1]) - start, 6)))


def time_of(frame: av.VideoFrame) -> float:
    return 0.0 if frame.time is None else frame.time


def decoded(path: Path) -> Iterator[av.VideoFrame]:
    """The pictures of a video file, of one picture or of a folder, in order. Raises UsageError where one is damaged."""
    if path.is_dir():
        yield from pictures_of(path)
        return
    container, pipe = open_container(path)
    try:
        stream = video_stream(container, path)
        stream.thread_type = "AUTO"
        yield from container.decode(stream)
    except FFmpegError as error:
        raise UsageError(f"{named(path)} cannot be decoded to its end: {error.strerror}") from error
    finally:
        container.close()
        if pipe:
            pipe.close()


def pictures_of(folder: Path) -> Iterator[av.VideoFrame]:
    for path in files_of(folder):
        if path.suffix.lower() not in PICTURES:
            continue
        try:
            yield decode(path)[0]
        except (FFmpegError, OSError, ValueError) as error:
            raise UsageError(f"{named(path)} cannot be decoded: {error}") from error
