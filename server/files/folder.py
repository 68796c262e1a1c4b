"""A folder of pictures as a video: in natural order, upright, at a constant rate."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.error import FFmpegError

from core.contract import Pixels
from core.errors import UsageError
from server.files.colour import SRGB, coding, to_pixels
from server.files.geometry import EXIF, Orientation
from server.files.paths import named, natural
from server.files.source import About, Carry, Extras, Picture
from server.files.stills import exif_orientation, upright_size

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
RATE = Fraction(16)
"""frames per second where nobody says otherwise"""


class PictureFolder:
    """A `Source`. Numbers in names count as numbers. Hidden and damaged files are left out, and counted.

    A damaged picture leaves its place empty: the one before it stays on for as long.
    """

    def __init__(self, path: Path, rate: Fraction | None = None):
        self.extras = Extras()
        self.warnings: list[str] = []
        self.damaged = 0
        named_so = [p for p in path.iterdir() if p.suffix.lower() in PICTURES and p.is_file()]
        self._files = sorted((p for p in named_so if not p.name.startswith(".")), key=natural)
        hidden = len(named_so) - len(self._files)
        self.notes = [f"{hidden} hidden files were left out"] if hidden else []
        if not self._files:
            kinds = ", ".join(sorted(PICTURES))
            raise UsageError(f"expected pictures ({kinds}) in the folder {named(path)}, found none")
        height, width = self._common_size(path)
        rate = rate or RATE
        self.about = About(width, height, rate, 1 / rate, len(self._files), colour=SRGB)

    def pictures(self, size: tuple[int, int], carry: Carry) -> Iterator[Picture]:
        for pts, path in enumerate(self._files):
            pixels = self._read(path, size)
            if pixels is None:
                self.damaged += 1
                continue
            yield Picture(pixels, pts, 1)

    def close(self) -> None:
        """Nothing is held open between pictures."""

    def _common_size(self, folder: Path) -> tuple[int, int]:
        """The upright size of the pictures, by their headers. Raises UsageError, before any work, when they differ."""
        first: tuple[Path, tuple[int, int]] | None = None
        for path in self._files:
            size = upright_size(path)
            if size is None:
                continue
            if first is None:
                first = path, size
            if size != first[1]:
                raise UsageError(
                    f"expected pictures of one size in a folder: {named(first[0].name)} is "
                    f"{first[1][1]}x{first[1][0]}, {named(path.name)} is {size[1]}x{size[0]}"
                )
        if first is None:
            raise UsageError(f"expected pictures in the folder {named(folder)}, found only damaged ones")
        return first[1]

    def _read(self, path: Path, size: tuple[int, int]) -> Pixels | None:
        try:
            frame, orientation = decode(path)
            if orientation.size(frame.height, frame.width) != (self.about.height, self.about.width):
                return None  # its header told another size
            return orientation.upright(to_pixels(frame, coding(frame), *orientation.size(*size)))
        except (FFmpegError, OSError, ValueError):
            return None


def decode(path: Path) -> tuple[av.VideoFrame, Orientation]:
    """The picture in a file, as coded, and how it is turned upright.

    Raises FFmpegError or ValueError for a damaged one.
    """
    data = path.read_bytes()
    with av.open(io.BytesIO(data), "r", metadata_errors="replace") as container:
        for frame in container.decode(video=0):
            if frame.is_corrupt:
                raise ValueError(f"{named(path)} is damaged")
            return frame, EXIF[exif_orientation(data)]
    raise ValueError(f"there is no picture in {named(path)}")
