"""ICE candidates of offers and trickle fragments: which of them may be probed."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from server.webrtc.sdp_lines import SdpLimits, attribute, attributes, is_port, malformed, split_lines

LOOKED_AT = 128
"""candidates of an offer or a fragment that are looked at, the first ones; a browser names a few dozen at most.
Each costs 20 microseconds, and 64 kB hold 1,200"""
CANDIDATE_KINDS = ("host", "srflx", "relay")
CANDIDATE = re.compile(
    r"([A-Za-z0-9+/-]{1,32}) ([1-9]\d{0,2}) ([A-Za-z-]{1,8}) (\d{1,10}) ([0-9A-Za-z.:%-]{1,253}) (\d{1,5})"
    r" typ (\w{1,8})(?: .{0,256})?",
    re.A,
)


@dataclass(frozen=True)
class Candidate:
    """One remote ICE candidate whose address may be probed."""

    foundation: str
    priority: int
    address: str
    port: int
    kind: str

    def __str__(self) -> str:
        line = f"{self.foundation} 1 udp {self.priority} {self.address} {self.port} typ {self.kind}"
        return line if self.kind == "host" else f"{line} raddr 0.0.0.0 rport 9"


@dataclass(frozen=True)
class Fragment:
    """Candidates that a client sends after its offer (RFC 8840)."""

    ufrag: str | None
    candidates: tuple[Candidate, ...]
    complete: bool


def collect_candidates(blocks: list[list[str]], limits: SdpLimits) -> tuple[tuple[Candidate, ...], int]:
    """The distinct candidates that may be probed, best first, and how many were ignored."""
    values = [value for block in blocks for value in attributes(block, "candidate")]
    found = {(c.address, c.port): c for value in values[:LOOKED_AT] if (c := parse_candidate(value, limits))}
    kept = sorted(found.values(), key=lambda candidate: -candidate.priority)[: limits.max_candidates]
    return tuple(kept), len(values) - len(kept)


def parse_candidate(value: str, limits: SdpLimits) -> Candidate | None:
    """The candidate; None when it cannot or must not be probed (RFC 8839, 5.1)."""
    match = CANDIDATE.fullmatch(value)
    if match is None or match[2] != "1" or match[3].lower() != "udp" or match[7] not in CANDIDATE_KINDS:
        return None
    address = probeable(match[5], limits)
    if address is None or not is_port(match[6]) or int(match[4]) >= 1 << 32:
        return None
    return Candidate(match[1], int(match[4]), address, int(match[6]), match[7])


def probeable(text: str, limits: SdpLimits) -> str | None:
    """The unicast address in `text` in its plain form; None for a host name and for what must not be probed.

    An IPv4 address inside an IPv6 one is judged as IPv4.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped or address.sixtofour or address.teredo:
            return probeable(str(address.ipv4_mapped), limits) if address.ipv4_mapped else None
        if address.scope_id:
            return None
    if address.is_multicast or address.is_unspecified or address.is_link_local:
        return None
    if address.is_loopback:
        return str(address) if limits.allow_loopback else None
    if address.is_reserved or str(address) == "255.255.255.255":
        return None
    return str(address) if limits.allow_private or address.is_global else None


def parse_fragment(text: str, limits: SdpLimits | None = None) -> Fragment:
    """Trickled candidates (RFC 8840, `application/trickle-ice-sdpfrag`); raises `Refusal`."""
    limits = limits or SdpLimits()
    lines = split_lines(text, limits)
    ufrag = attribute(lines, "ice-ufrag")
    complete = "a=end-of-candidates" in lines
    if ufrag is None and not complete and not attributes(lines, "candidate"):
        raise malformed("a trickle fragment has a=ice-ufrag, a=candidate or a=end-of-candidates lines")
    candidates, _ = collect_candidates([lines], limits)
    return Fragment(ufrag, candidates, complete)
