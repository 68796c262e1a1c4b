"""Lines of SDP, and what is refused of them."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from core.config import Config
from server.refusals import Refusal


def malformed(message: str) -> Refusal:
    return Refusal(400, "bad_sdp", message)


def unusable(message: str, code: str = "unsupported_offer") -> Refusal:
    return Refusal(422, code, message)


class SdpLimits(Config):
    """What an offer may ask for. The addresses in it decide where this server sends its first packets."""

    max_bytes: int = Field(65536, ge=1024, le=2**20)
    """size of an offer or a fragment in bytes"""
    max_sections: int = Field(4, ge=1, le=16)
    """m-lines that are looked at before the offer is refused as too many"""
    max_candidates: int = Field(32, ge=1, le=100)
    """candidates that are kept for connectivity checks; further ones are ignored"""
    allow_loopback: bool = False
    """probe loopback addresses: for a server that serves its own machine only"""
    allow_private: bool = True
    """probe addresses that are not global (RFC 1918, RFC 6598, unique local): for a server in a local network"""


def split_lines(text: str, limits: SdpLimits) -> list[str]:
    """The lines of an offer or a fragment. Lines with other than ASCII characters carry nothing that we read.

    As in browsers, a tab counts as a space, and empty lines are skipped.
    """
    size = len(text.encode(errors="replace"))
    if size > limits.max_bytes:
        raise Refusal(413, "too_large", f"at most {limits.max_bytes} bytes are read, found {size}")
    lines = [line for raw in text.strip().split("\n") if (line := raw.replace("\t", " ").rstrip())]
    for number, line in enumerate(lines, 1):
        if line[1:2] != "=" or not line.isprintable():
            raise malformed(f"line {number} is not of the form x=value")
    return [line for line in lines if line.isascii()]


def attributes(lines: Iterable[str], name: str) -> list[str]:
    """The values of every `a=name:value`."""
    prefix = f"a={name}:"
    return [line[len(prefix) :].strip() for line in lines if line.startswith(prefix)]


def attribute(lines: Iterable[str], name: str) -> str | None:
    return next(iter(attributes(lines, name)), None)


def is_port(text: str) -> bool:
    return text.isdecimal() and len(text) <= 5 and 0 < int(text) < 1 << 16


def shorten(text: str, length: int = 60) -> str:
    return repr(text if len(text) <= length else text[:length] + "…")
