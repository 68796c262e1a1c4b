"""A chain of signed lines: each is one JSON object with the hash of the line before. Knows nothing of what they say.

    {...,"previous":"SHA-256 of the line before","signature":"HEX"}

The signature is over the bytes of the line without `,"signature":"HEX"`, as they stand in the file, so nothing has to
be put into a canonical form. The first line has no `previous` and names the public key.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from server.json_bounds import check_bounds

LONGEST = 1 << 22
"""bytes of a line at most: a drawn mask of the largest size fits"""
LINE = re.compile(rb'(\{.+),"signature":"([0-9a-f]{128})"\}\n')


class Fault(Exception):
    """Why a certificate does not hold, in plain words."""

    def __init__(self, what: str, chunk: int | None = None):
        super().__init__(what)
        self.what = what
        self.chunk = chunk
        """where it was found"""


class Chain:
    """Signs one line after the other."""

    def __init__(self, key: Ed25519PrivateKey):
        self._key = key
        self._previous: str | None = None

    def line(self, fields: Mapping[str, Any]) -> bytes:
        """The next line, with its end of line."""
        text = json.dumps({**fields, "previous": self._previous}, allow_nan=False, separators=(",", ":"))
        body = text.encode()
        signed = body[:-1] + b',"signature":"' + self._key.sign(body).hex().encode() + b'"}'
        self._previous = hashlib.sha256(signed).hexdigest()
        return signed + b"\n"


def read(file: BinaryIO) -> Iterator[dict[str, Any]]:
    """The lines of a chain, each once it has been checked. Raises Fault at the first that does not hold."""
    previous, key = None, None
    for number, line in enumerate(lines(file), 1):
        body, signature = parts(line, number)
        fields = parsed(body, number)
        key = key or public_key(fields)
        try:
            key.verify(signature, body)
        except InvalidSignature as error:
            raise Fault(
                f"line {number} was changed: its signature does not fit{where(fields)}", chunk_of(fields)
            ) from error
        if fields.get("previous") != previous:
            found = (
                "the first line is missing" if previous is None else f"lines before line {number} were removed or moved"
            )
            raise Fault(f"{found}: it does not follow the line before it{where(fields)}", chunk_of(fields))
        previous = hashlib.sha256(line[:-1]).hexdigest()
        yield fields
    if key is None:
        raise Fault("the certificate is empty")


def lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(LONGEST + 1):
        yield line


def parts(line: bytes, number: int) -> tuple[bytes, bytes]:
    """What is signed of a line, and its signature."""
    found = LINE.fullmatch(line)
    if found is None:
        why = "is cut off" if not line.endswith(b"\n") else "is no signed line of a certificate"
        raise Fault(f"line {number} {why}")
    return found[1] + b"}", bytes.fromhex(found[2].decode())


def parsed(body: bytes, number: int) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Fault(f"line {number} is no JSON") from error
    try:
        check_bounds(found)
    except ValueError as error:
        raise Fault(f"line {number} cannot be taken: {error}") from error
    if not isinstance(found, dict):
        raise Fault(f"line {number} is no JSON object")
    return found


def public_key(fields: Mapping[str, Any]) -> Ed25519PublicKey:
    """The key that the first line names."""
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(fields["public_key"]))
    except (KeyError, TypeError, ValueError) as error:
        raise Fault("the first line is missing or names no public key") from error


def chunk_of(fields: Mapping[str, Any]) -> int | None:
    found = fields.get("chunk")
    return found if isinstance(found, int) else None


def where(fields: Mapping[str, Any]) -> str:
    chunk = chunk_of(fields)
    return "" if chunk is None else f" (chunk {chunk})"
