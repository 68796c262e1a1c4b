"""Where restored pictures go: a video, PNG files, or standard output. Files appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np

from core.contract import Pixels
from core.errors import UsageError
from server.files.containers import FORMATS
from server.files.paths import STANDARD, named, status
from server.files.source import About, AnyPacket, Extras, Picture
from server.files.video_writer import VideoWriter

STREAMED = "matroska"
"""the container on standard output, which cannot be rewound"""


class Sink(Protocol):
    """Where restored pictures go."""

    notes: list[str]
    """what of the source it does not hold: a phrase each"""

    def write(self, picture: Picture) -> None: ...
    def carry(self, packet: AnyPacket) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...


class PictureWriter:
    """Numbered PNG files in a folder, 000000.png and on."""

    def __init__(self, folder: Path, aspect: Fraction = Fraction(1)):
        self.notes: list[str] = []
        self._folder = folder
        self._aspect = aspect
        self._numbers = count()

    def write(self, picture: Picture) -> None:
        target = self._folder / f"{next(self._numbers):06d}.png"
        target.write_bytes(encode_png(picture.pixels, self._aspect))

    def carry(self, packet: AnyPacket) -> None:
        """Pictures make no sound."""

    def finish(self) -> None:
        """Every picture is written already."""

    def close(self) -> None:
        """Nothing is held open between pictures."""


class SinglePictureWriter:
    """One PNG file."""

    def __init__(self, path: Path, aspect: Fraction = Fraction(1)):
        self.notes: list[str] = []
        self._path = path
        self._aspect = aspect
        self._written = False

    def write(self, picture: Picture) -> None:
        if self._written:
            raise UsageError(
                "expected one picture for an OUT that is a .png file, found more: name a folder or a video"
            )
        self._path.write_bytes(encode_png(picture.pixels, self._aspect))
        self._written = True

    def carry(self, packet: AnyPacket) -> None:
        """Pictures make no sound."""

    def finish(self) -> None:
        """The picture is written already."""

    def close(self) -> None:
        """Nothing is held open."""


def check_output(source: Path, path: Path, overwrite: bool = False) -> None:
    """Raises UsageError when `path` cannot become the restored `source`, before any work is done."""
    if path == STANDARD:
        return
    found, folder = status(path), status(path.parent)
    is_folder = found is not None and path.is_dir()
    if folder is None or not path.parent.is_dir():
        raise UsageError(f"expected an existing folder for OUT, found no {named(path.parent)}")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"expected a folder that can be written to for OUT, found {named(path.parent)} read-only")
    if found is not None and source != STANDARD and status(source) is not None and path.samefile(source):
        raise UsageError(f"expected OUT to be another file than IN, found {named(path)} for both")
    if found is not None and not is_folder and not path.is_file():
        raise UsageError(f"expected a file or a folder for OUT, found a device in {named(path)}")
    if is_folder and any(path.iterdir()):
        raise UsageError(f"expected a new or empty folder for OUT, found files in {named(path)}")
    if not is_folder and path.suffix.lower() not in FORMATS.keys() | {".png", ""}:
        suffixes = ", ".join(sorted(FORMATS))
        raise UsageError(f"expected OUT to end in {suffixes} or .png, or to be a folder, found {named(path.name)}")
    if found is not None and not is_folder and not overwrite:
        raise UsageError(f"expected a new file for OUT, found {named(path)}; --overwrite replaces it")


def unsealed(finished: Path) -> None:
    """A file that nobody certifies."""


@contextmanager
def open_sink(
    path: Path,
    about: About,
    extras: Extras | None = None,
    crf: int = 16,
    transcode: bool = False,
    seal: Callable[[Path], None] = unsealed,
) -> Iterator[Sink]:
    """A sink for the block; `path` appears whole when the block succeeds, and not at all when it fails.

    `seal` gets the finished file before it appears. Standard output gets Matroska as it is made. Raises UsageError.
    """
    extras = extras or Extras()
    if path == STANDARD:
        with os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0) as file:
            writer = VideoWriter(file, STREAMED, about, extras, crf, transcode)
            with _closing(writer) as sink:
                yield sink
        return
    path = path if path.name else path.resolve()
    part = part_of(path)
    try:
        with _closing(_new_sink(path, part, about, extras, crf, transcode)) as sink:
            yield sink
        seal(part)
        if path.is_dir():
            path.rmdir()  # empty, or check_output had refused it
        os.replace(part, path)
    finally:
        remove(part)


def part_of(path: Path) -> Path:
    """Where the file grows: beside `path`, hidden, with a name that is short however long that of `path` is."""
    return path.with_name(f".avis-{zlib.crc32(os.fsencode(path.name)):08x}-{os.getpid()}.part")


def write_png(path: Path, pixels: Pixels) -> None:
    """`pixels` [H, W, 3], RGB, as a PNG file."""
    path.write_bytes(encode_png(pixels))


def encode_png(pixels: Pixels, aspect: Fraction = Fraction(1)) -> bytes:
    """`pixels` [H, W, 3], RGB, as the bytes of a PNG file; `aspect` is width over height of one pixel."""
    encoder: Any = av.CodecContext.create("png", "w")
    encoder.height, encoder.width = pixels.shape[:2]
    encoder.pix_fmt, encoder.time_base, encoder.thread_count = "rgb24", Fraction(1), 1
    if aspect != 1:
        encoder.sample_aspect_ratio = aspect
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part)
    else:
        part.unlink(missing_ok=True)


@contextmanager
def _closing(sink: Sink) -> Iterator[Sink]:
    """Finishes `sink` when the block succeeds, and closes it in any case."""
    try:
        yield sink
        sink.finish()
    finally:
        sink.close()


def _new_sink(path: Path, part: Path, about: About, extras: Extras, crf: int, transcode: bool) -> Sink:
    suffix = path.suffix.lower()
    if suffix in FORMATS and not path.is_dir():
        return VideoWriter(f"file:{part}", FORMATS[suffix], about, extras, crf, transcode)
    if suffix == ".png" and not path.is_dir():
        return SinglePictureWriter(part, about.aspect)
    part.mkdir()
    return PictureWriter(part, about.aspect)
