"""Files in: whatever holds pictures, as a `Source`; single pictures and clips for those who want only pixels."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import count, islice
from pathlib import Path

import numpy as np

from core.chunks import ChunkSpec
from core.contract import Pixels
from core.errors import UsageError
from server.files.folder import PictureFolder
from server.files.geometry import centred, resize
from server.files.paths import STANDARD, is_pipe, named, status
from server.files.source import Picture, Source, leave_out
from server.files.stills import AnimatedWebp, is_animated_webp
from server.files.video_file import VideoFile


def open_source(path: Path, rate: Fraction | None = None, deinterlace: bool = True) -> Source:
    """A video file, a pipe, a URL, a picture, or a folder of pictures shown at `rate`.

    Raises UsageError for anything else.
    """
    if path != STANDARD and status(path) is not None and path.is_dir():
        return PictureFolder(path, rate)
    if rate is not None:
        raise UsageError(f"--fps is the rate of a folder of pictures, found {named(path)}, which has its own times")
    if not is_pipe(path) and is_animated_webp(path):
        return AnimatedWebp(path)
    return VideoFile(path, deinterlace)


def read_picture(path: Path) -> Pixels:
    """The first picture of a file at its own size, [H, W, 3]. Raises UsageError."""
    source = open_source(path)
    try:
        about = source.about
        for picture in source.pictures((about.height, about.width), leave_out):
            return picture.pixels
    finally:
        source.close()
    raise UsageError(f"expected a picture in {named(path)}, found none that decodes")


def read_clip(path: Path, size: tuple[int, int], frames: int | None) -> Pixels:
    """The first `frames` pictures of a video (all for None), [T, H, W, 3] at `size` = (height, width).

    The largest centred part of the size's shape is taken and averaged over areas. Raises UsageError.
    """
    source = open_source(path)
    try:
        about = source.about
        top, left, height, width = centred(about.height, about.width, *size)
        shown = (picture.pixels for picture in source.pictures((about.height, about.width), leave_out))
        parts = [resize(pixels[top : top + height, left : left + width], *size) for pixels in islice(shown, frames)]
    finally:
        source.close()
    if not parts:
        raise UsageError(f"expected a video in {named(path)}, found none whose pictures decode")
    return np.stack(parts)


def in_chunks(pictures: Iterator[Picture], spec: ChunkSpec) -> Iterator[list[Picture]]:
    """The pictures of chunk 0, 1, ...; the last list may be shorter than its chunk."""
    for index in count():
        chunk = list(islice(pictures, spec.frames(index)))
        if not chunk:
            return
        yield chunk
