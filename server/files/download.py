"""One large file over HTTP: resumed where it broke off, and in place only once its hash is right."""

from __future__ import annotations

from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from core.models.wan.weights import PublishedFile, sha256

PIECE = 2**20
"""bytes read at a time"""

TIMEOUT = 60.0
"""seconds without a byte after which a connection counts as broken"""

ATTEMPTS = 5
"""connections in a row that may bring nothing"""


class DownloadError(Exception):
    """A file that did not come, or is not the one that was published."""


def download(file: PublishedFile, target: Path, advance: Callable[[int], None]) -> None:
    """Fetches `file` to `target` by way of a `.part` beside it, from which a later call goes on.

    `advance` hears of bytes as they come, and of a negative number when they have to come again.
    """
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.exists() else 0
    if have > file.bytes:
        part.unlink()
        have = 0
    advance(have)
    failures = 0
    while have < file.bytes:
        before = have
        trouble = _continue(file, part, have, advance)
        have = part.stat().st_size if part.exists() else 0
        failures = 0 if have > before else failures + 1
        if failures == ATTEMPTS:
            raise DownloadError(f"{file.url} brought nothing in {ATTEMPTS} attempts: {trouble}")
    if have > file.bytes or sha256(part) != file.sha256:
        part.unlink()
        raise DownloadError(f"{file.url} is not the published file: its size or its SHA-256 differs; it was deleted")
    part.replace(target)


def _continue(file: PublishedFile, part: Path, have: int, advance: Callable[[int], None]) -> str:
    """One connection, which appends to `part` what it brings. Says how it ended; a refusal raises DownloadError."""
    request = Request(file.url, headers={"Range": f"bytes={have}-", "User-Agent": "avis-weights"})
    try:
        with urlopen(request, timeout=TIMEOUT) as response:
            resumed = response.status == 206
            if not resumed:
                advance(-have)
            with part.open("ab" if resumed else "wb") as out:
                while piece := response.read(PIECE):
                    out.write(piece)
                    advance(len(piece))
        return "the connection was closed early"
    except HTTPError as error:
        if error.code < 500:
            raise DownloadError(f"{file.url} was refused: {error.code} {error.reason}") from error
        return str(error)
    except (OSError, HTTPException) as error:
        return str(error) or type(error).__name__
