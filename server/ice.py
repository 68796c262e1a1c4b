"""ICE servers as clients are told of them. Pure: wall-clock time is an argument."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass


@dataclass(frozen=True)
class IceServer:
    """One STUN or TURN server, ready to be used."""

    url: str
    username: str | None = None
    credential: str | None = None

    def link(self) -> str:
        """The server as a `Link` header of a WHIP or WHEP answer (RFC 9725, 4.6)."""
        link = f'<{self.url}>; rel="ice-server"'
        if self.username is not None and self.credential is not None:
            link += f'; username="{quoted(self.username)}"; credential="{quoted(self.credential)}"'
            link += '; credential-type="password"'
        return link

    def as_dict(self) -> dict[str, str]:
        """The server as `RTCPeerConnection` takes it in a browser."""
        found = {"urls": self.url}
        if self.username is not None and self.credential is not None:
            found |= {"username": self.username, "credential": self.credential}
        return found


def ice_servers(
    urls: tuple[str, ...],
    username: str | None,
    credential: str | None,
    secret: str | None,
    now: float,
    lifetime: float = 86400.0,
) -> list[IceServer]:
    """The servers with credentials where they are needed: fixed ones, or made from the shared `secret`.

    The latter are valid for `lifetime` seconds from `now` (TURN REST: user name `expiry:name`, HMAC-SHA1).
    """
    if secret is not None:
        username = f"{int(now + lifetime)}:{username or 'avis'}"
        digest = hmac.new(secret.encode(), username.encode(), hashlib.sha1).digest()
        credential = base64.b64encode(digest).decode()
    needs_no_login = tuple(url for url in urls if url.startswith(("stun:", "stuns:")))
    return [IceServer(url) if url in needs_no_login else IceServer(url, username, credential) for url in urls]


def quoted(text: str) -> str:
    """`text` as it may stand in a quoted string (RFC 9110, 5.6.4)."""
    return text.replace("\\", "\\\\").replace('"', '\\"')
