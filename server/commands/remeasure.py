"""y read anew from its source, and how far from it the pictures of a finished file are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from core.chunks import ChunkSpec
from core.contract import LATENTS, Pixels
from core.errors import UsageError, explain
from core.operators.table import Operator
from core.solver import remember
from core.video import from_pixels
from server.certificates.records import Header, Reading, Sizes
from server.commands.restore_sizes import Geometry, fill, pad
from server.files.fields import in_fields
from server.files.inputs import in_chunks, open_source
from server.files.source import Source, leave_out


class Remeasured:
    """The chunks of y, one after the other, each beside the pictures that were made of it."""

    def __init__(self, path: Path, header: Header):
        self._operator = operator_of(header.operator)
        self._geometry = geometry_of(header.sizes)
        check_sizes(self._operator, self._geometry)
        with told_as_usage():
            self._operator.prepare(*self._geometry.restored)
        self._spec = ChunkSpec(LATENTS[header.latency])
        self._source = in_fields(open_reading(path, header.reading), self._operator)
        size = self._geometry.scaled or self._geometry.taken
        self._chunks = in_chunks(self._source.pictures(size, leave_out), self._spec)
        self._past: Tensor | None = None
        self._index = 0

    def next(self) -> Pixels | None:
        """y of the next chunk, padded as the engine takes it and without what fills its time; None at its end."""
        chunk = next(self._chunks, None)
        return None if chunk is None else fill(chunk, len(chunk), self._geometry)

    @torch.inference_mode()
    def residual(self, y: Pixels, x: Pixels) -> float:
        """|y - A x| / |y| of the chunk `y`, where `x` are the pictures of the file."""
        frames = self._spec.frames(self._index)
        measured = self._operator.observed(from_pixels(held(y, frames)))
        padded = np.stack([pad(picture, self._geometry.restored) for picture in x])
        restored = from_pixels(held(padded, frames))
        found = self._operator.residual(restored, measured, self._past)
        self._past, self._index = remember(self._past, restored, self._operator.reach), self._index + 1
        return found

    def close(self) -> None:
        self._source.close()


def held(pictures: Pixels, frames: int) -> Pixels:
    """[T, H, W, 3] with the last picture repeated up to `frames`."""
    return np.concatenate([pictures, *[pictures[-1:]] * (frames - len(pictures))])


def unpadded(y: Pixels, sizes: Sizes) -> Pixels:
    """What of y the source held: its padding repeats an edge."""
    height, width = sizes.taken
    return y[:, :height, :width]


def open_reading(path: Path, reading: Reading | None) -> Source:
    assert reading is not None, "the y of a live session is nowhere to be read"
    return open_source(path, Fraction(reading.fps) if reading.fps else None, reading.deinterlace)


def operator_of(fields: dict[str, Any]) -> Operator:
    """The operator of a certificate. Raises UsageError for one that this version does not know."""
    try:
        found: Operator = TypeAdapter(Operator).validate_python(fields)
    except ValidationError as error:
        raise UsageError(f"the certificate's operator is not known here: {explain(error)}") from error
    return found


def check_sizes(operator: Operator, geometry: Geometry) -> None:
    """Raises UsageError where a certificate's sizes do not fit its operator: its signer may be anybody. Cheap."""
    with told_as_usage():
        operator.check_size(*geometry.restored)
    fed, inside = operator.measurement_size(*geometry.restored), zip(geometry.taken, geometry.fed, strict=True)
    cut = zip(geometry.shown, geometry.restored, strict=True)
    if fed != geometry.fed or any(part > whole for part, whole in (*inside, *cut)):
        raise UsageError("the certificate's sizes do not fit each other")


@contextmanager
def told_as_usage() -> Iterator[None]:
    """A size that does not fit an operator is the certificate's fault."""
    try:
        yield
    except ValueError as error:
        raise UsageError(f"the certificate's operator does not fit its pictures: {error}") from error


def check_header(header: Header) -> None:
    """Raises UsageError for a certificate of which y cannot be computed again, before anything is."""
    check_sizes(operator_of(header.operator), geometry_of(header.sizes))


def geometry_of(sizes: Sizes) -> Geometry:
    return Geometry(sizes.taken, sizes.fed, sizes.restored, sizes.shown, sizes.scaled)
