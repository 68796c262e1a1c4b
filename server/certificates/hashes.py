"""What is hashed, and how: pictures and files. The server imports this, so it loads no OpenCV."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from server.certificates.records import FileRecord
from server.files.paths import natural


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
