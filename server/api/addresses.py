"""Whose request it is. Pure: from the address that it came from and what a trusted proxy says."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network


def client_of(peer: str | None, forwarded: str | None, trusted: Sequence[Network]) -> str:
    """Who asks, for what is counted by client: an IPv4 address, or the /64 of IPv6 that one subscriber has.

    `forwarded` is the header X-Forwarded-For, which anybody can write. It is read from the right, as far as the
    addresses are those of trusted proxies: the first that is none is the client.
    """
    named = forwarded.split(",") if forwarded else []
    hops = [*(part.strip() for part in named), peer or ""]
    while len(hops) > 1 and is_within(hops[-1], trusted) and _is_address(hops[-2]):
        hops.pop()
    return _subscriber(hops[-1])


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def is_within(text: str, networks: Sequence[Network]) -> bool:
    """Whether an address is in one of the networks; what is no address is in none."""
    return _is_address(text) and any(ip_address(text) in network for network in networks)


def _subscriber(text: str) -> str:
    if not _is_address(text):
        return text
    address = ip_address(text)
    if address.version == 4:
        return text
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network((int(address), 64), strict=False))
