"""Interlaced pictures as a source of twice as many: one for the field that was recorded first, one for the other.

Both hold all lines. Which of them count is for the operator to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from core.operators.config import DeinterlaceConfig, LinearOperatorConfig
from server.files.source import Carry, Extras, Picture, Source


class Fields:
    """A `Source` with two pictures for each of another one's, half a picture's time apart."""

    def __init__(self, source: Source):
        about = source.about
        self._source = source
        self._step = max(1, round(1 / (about.rate * about.time_base)))
        self.about = replace(
            about,
            rate=2 * about.rate,
            time_base=about.time_base / 2,
            length=None if about.length is None else 2 * about.length,
        )
        self.extras: Extras = source.extras
        self.damaged, self.warnings = 0, source.warnings
        self.notes = [*source.notes, f"each field became a picture: {float(self.about.rate):g} a second"]

    def pictures(self, size: tuple[int, int], carry: Carry) -> Iterator[Picture]:
        for picture in self._source.pictures(size, carry):
            lasts = picture.duration or self._step
            yield replace(picture, pts=2 * picture.pts, duration=lasts)
            yield replace(picture, pts=2 * picture.pts + lasts, duration=lasts)
        self.damaged = self._source.damaged

    def close(self) -> None:
        self._source.close()


def in_fields(source: Source, operator: LinearOperatorConfig) -> Source:
    """`source`, with a picture for each field where it is interlaced and the operator takes the fields in turn."""
    alternates = isinstance(operator, DeinterlaceConfig) and operator.alternate
    return Fields(source) if alternates and source.about.first_field else source
