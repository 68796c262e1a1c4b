"""Which names a request may call this server by, and which pages may ask it to change something. Pure.

A browser sends what any page tells it to, also to servers on the user's own machine. Two headers that a page cannot
forge tell on it: Host, which names the server as the page knows it (else a page whose name points here, DNS
rebinding, passes for one of ours), and Origin, which names the page.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from server.values import LOOPBACK_NAMES


def host_of(authority: str) -> str | None:
    """The name in a Host header, `NAME` or `NAME:PORT`, in lower case; None for what is no such header."""
    try:
        parts = urlsplit(f"//{authority}")
        parts.port  # noqa: B018 - raises ValueError for what is no port
    except ValueError:
        return None
    whole = parts.netloc == authority and not authority.endswith(":") and "@" not in authority
    return parts.hostname.rstrip(".") if whole and parts.hostname else None


def is_known_host(headers: Iterable[str], names: Collection[str], short: bool = False) -> bool:
    """Whether all Host headers name this server: as itself, by an address, or by one of the public `names`.

    An address is always right: no page can have its own name point here and be asked for by address.
    A client that sends none is no browser. `short` lets names without a dot pass, as one container calls another:
    nobody outside can have such a name.
    """
    found = [host_of(header) for header in headers]
    return all(_is_known(host, names) or (short and host is not None and "." not in host) for host in found)


def _is_known(host: str | None, names: Collection[str]) -> bool:
    return host is not None and (host in names or host in LOOPBACK_NAMES or _is_address(host))


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_own_origin(origin: str, host: str, names: Collection[str]) -> bool:
    """Whether a page of `origin` is one of ours: it comes from the host that is asked, or from a public name.

    The scheme is of no account: a proxy in front may speak TLS where we do not.
    """
    scheme, _, authority = origin.partition("://")
    if scheme not in ("http", "https") or host_of(authority) is None:
        return False
    return authority.lower() == host.lower() or authority.lower() in names
