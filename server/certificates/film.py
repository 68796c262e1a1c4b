"""A finished video as anybody decodes it: its pictures chunk by chunk, and hashes of files. Knows no certificate."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError

from core.contract import Pixels
from core.errors import UsageError
from server.certificates.records import FileRecord
from server.files.colour import Unconvertible, coding, to_pixels
from server.files.folder import PICTURES, decode, natural
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


def planes(frame: av.VideoFrame) -> bytes:
    """The numbers of a picture without padding, plane by plane."""
    return b"".join(plane_bytes(plane, frame) for plane in frame.planes)


def plane_bytes(plane: Any, frame: av.VideoFrame) -> bytes:
    pixel = 3 if frame.format.name == "rgb24" else 1
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width * pixel].tobytes()


def hash_of(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def pixels_hash(pixels: npt.NDArray[np.uint8]) -> str:
    """Of RGB pictures [T, H, W, 3], rows from the top, without padding."""
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()


def file_record(path: Path, name: str | None = None) -> FileRecord:
    """The hash of a file, or of a folder: of what `sha256sum` says of its files."""
    if not path.is_dir():
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileRecord(name=name or path.name, sha256=digest, bytes=path.stat().st_size)
    found = [file_record(file) for file in files_of(path)]
    lines = (f"{record.sha256}  {record.name}\n".encode() for record in found)
    return FileRecord(name=name or path.name, sha256=hash_of(lines), bytes=sum(record.bytes for record in found))


def files_of(folder: Path) -> list[Path]:
    """The files of a folder in natural order, without hidden ones."""
    found = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    return sorted(found, key=natural)
