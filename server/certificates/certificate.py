"""A certificate as a whole: its header, chunks and end, read from a sidecar or signed into one. Knows no video."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from core.config import Config
from core.errors import UsageError, explain
from server.certificates.chain import Chain, Fault, read
from server.certificates.records import FORMAT, VERSION, ChunkRecord, End, Header

SUFFIX = ".avis.jsonl"

Record = TypeVar("Record", bound=Config)


@dataclass(frozen=True)
class Certificate:
    header: Header
    chunks: tuple[ChunkRecord, ...]
    end: End


def sidecar_of(path: Path) -> Path:
    """Where the certificate of the file or folder `path` lies."""
    path = path if path.name else path.resolve()
    return path.with_name(path.name + SUFFIX)


def signed(key: Ed25519PrivateKey, records: Iterable[Config]) -> Iterator[bytes]:
    """The lines of a certificate."""
    chain = Chain(key)
    for record in records:
        yield chain.line(record.model_dump(mode="json"))


def read_certificate(file: BinaryIO) -> Certificate:
    """A certificate that nobody has changed since it was signed, and that lacks nothing.

    Raises Fault for any other, and UsageError for one of a version that is not known here.
    """
    lines = read(file)
    header = read_header(next(lines))
    chunks: list[ChunkRecord] = []
    for fields in lines:
        if fields.get("kind") == "end":
            end = record(End, fields)
            check_end(end, chunks)
            if next(lines, None) is not None:
                raise Fault("there are lines after the last one")
            return Certificate(header, tuple(chunks), end)
        chunks.append(next_chunk(fields, chunks))
    raise Fault(f"the certificate is cut off: its last line is missing, after {len(chunks)} chunks")


def read_header(fields: Mapping[str, Any]) -> Header:
    if fields.get("format") != FORMAT:
        raise Fault(f"the first line is not that of a certificate: expected the format {FORMAT}")
    if fields.get("version") != VERSION:
        found = str(fields.get("version"))[:20]
        raise UsageError(
            f"expected a certificate of version {VERSION}, found version {found}, which this avis cannot judge"
        )
    return record(Header, fields)


def next_chunk(fields: Mapping[str, Any], before: list[ChunkRecord]) -> ChunkRecord:
    chunk = record(ChunkRecord, fields)
    first = before[-1].first + before[-1].frames if before else 0
    if (chunk.chunk, chunk.first) != (len(before), first):
        raise Fault(
            f"expected chunk {len(before)} from picture {first}, found {chunk.chunk} from {chunk.first}", len(before)
        )
    return chunk


def check_end(end: End, chunks: list[ChunkRecord]) -> None:
    frames = sum(chunk.frames for chunk in chunks)
    if (end.chunks, end.frames) != (len(chunks), frames):
        raise Fault(
            f"the last line counts {end.chunks} chunks and {end.frames} pictures, "
            f"before it are {len(chunks)} and {frames}"
        )


def record(kind: type[Record], fields: Mapping[str, Any]) -> Record:
    try:
        return kind.model_validate({name: value for name, value in fields.items() if name != "previous"})
    except ValidationError as error:
        raise Fault(f"a line is not one of a certificate: {explain(error)}") from error
