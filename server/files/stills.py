"""What FFmpeg does not tell of pictures: their EXIF orientation, and the frames of an animated WebP. By Pillow."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from core.contract import Pixels
from core.errors import UsageError
from server.files.colour import SRGB
from server.files.geometry import EXIF, resize
from server.files.paths import named
from server.files.source import About, Carry, Extras, Picture

ORIENTATION = 274
"""the EXIF tag"""
MILLISECOND = Fraction(1, 1000)


def exif_orientation(file: Path | bytes) -> int:
    """The EXIF orientation of a picture, 1 to 8; 1 (upright) where it says nothing that can be read."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            warnings.simplefilter("ignore")
            found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged EXIF block raises whatever its parser trips over, and the picture is good without it
        return 1
    return found if found in range(1, 9) else 1


def upright_size(path: Path) -> tuple[int, int] | None:
    """Height and width of the upright picture by its header, or None for a file that is no picture."""
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")  # of its size, which is checked elsewhere
            turned = EXIF[exif_orientation(path)].transposed
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception:
        return None


def is_animated_webp(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(256)
    except OSError:
        return False
    return start[:4] == b"RIFF" and start[8:12] == b"WEBP" and b"ANIM" in start


class AnimatedWebp:
    """A `Source`: an animated WebP file with the duration of each picture."""

    damaged = 0

    def __init__(self, path: Path):
        self.extras = Extras()
        self.notes: list[str] = []
        self.warnings: list[str] = []
        try:
            self._image = Image.open(path)
            self._image.load()
        except Exception as error:
            raise UsageError(f"expected a picture in {named(path)}, found a damaged WebP file") from error
        frames = getattr(self._image, "n_frames", 1)
        width, height = self._image.size
        self.about = About(width, height, Fraction(25), MILLISECOND, frames, colour=SRGB, holds=True)
        if "A" in self._image.getbands():
            self.notes.append("transparency became black")

    def pictures(self, size: tuple[int, int], carry: Carry) -> Iterator[Picture]:
        time = 0
        for index in range(self.about.length or 0):
            try:
                self._image.seek(index)
                pixels = self._pixels()
            except Exception as error:
                self.damaged += 1
                self.warnings.append(f"reading stopped at picture {index}: {named(str(error))}")
                return
            duration = max(1, int(self._image.info.get("duration", 100)))
            yield Picture(resize(pixels, *size), time, duration)
            time += duration

    def _pixels(self) -> Pixels:
        black = Image.new("RGBA", self._image.size, (0, 0, 0, 255))
        return np.asarray(Image.alpha_composite(black, self._image.convert("RGBA")).convert("RGB"))

    def close(self) -> None:
        self._image.close()
