"""The STUN and TURN servers that clients use. Pure: wall-clock time is an argument."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass

from server.settings import Settings

LIFETIME = 3600.0
"""seconds for which credentials open a new allocation; one that is open stays open"""


@dataclass(frozen=True)
class IceServer:
    """One STUN or TURN server and the login for it."""

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


def login(settings: Settings, now: float) -> tuple[str | None, str | None]:
    """User and password for the TURN servers: the fixed ones, or made from the shared secret.

    The latter are valid for LIFETIME from `now` (TURN REST API: user name `expiry:name`, HMAC-SHA1).
    """
    if settings.ice_secret is None:
        return settings.ice_username, settings.ice_credential
    username = f"{int(now + LIFETIME)}:{settings.ice_username or 'avis'}"
    digest = hmac.new(settings.ice_secret.encode(), username.encode(), hashlib.sha1).digest()
    return username, base64.b64encode(digest).decode()


def ice_servers(settings: Settings, now: float) -> list[IceServer]:
    """The servers that clients may use, with a login for TURN."""
    username, credential = login(settings, now)
    return [
        IceServer(url) if url.startswith(("stun:", "stuns:")) else IceServer(url, username, credential)
        for url in settings.ice_servers
    ]


def quoted(text: str) -> str:
    """`text` escaped for a quoted string (RFC 9110, 5.6.4)."""
    return text.replace("\\", "\\\\").replace('"', '\\"')
