"""Where a restored stream is pushed to. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError

from core.config import Config
from core.errors import UsageError, explain
from server.settings import Settings
from server.sources.config import NAME, shown

SCHEMES = {"whip": "http", "whips": "https", "http": "http", "https": "https"}
"""schemes of WHIP servers, and what they are reached by"""


class PushConfig(Config):
    """One stream that is pushed to a WHIP server. Its address may hold a secret, so nothing shows it."""

    url: SecretStr = Field(min_length=1, max_length=4096)
    """WHIP endpoint: http(s):// or whip(s)://"""
    token: SecretStr | None = None
    """what the other server is shown as Authorization: Bearer; unset takes the setting push_token"""
    codec: Literal["vp8", "h264"] = "vp8"
    """h264 for servers that make HLS, SRT or RTMP of it: dearer, and coarser for the same rate"""

    @property
    def place(self) -> str:
        """What may be told of the address."""
        return shown(self.url.get_secret_value())

    @property
    def address(self) -> str:
        scheme, _, rest = self.url.get_secret_value().partition("://")
        return f"{SCHEMES[scheme.lower()]}://{rest}"


OPTION = re.compile(r",(?=(?:codec|token)=)")


def pushes_of(settings: Settings) -> dict[str, PushConfig]:
    """The pushes of a server, by the names of their streams. Raises UsageError with one sentence without an address."""
    return {name: push_of(name, said, settings.push_token) for name, said in settings.push.items()}


def push_of(name: str, said: object, token: str | None) -> PushConfig:
    if not NAME.fullmatch(name):
        raise UsageError(f"push: expected a name of letters, digits, dots, dashes and underscores, found {name[:40]!r}")
    try:
        found = PushConfig(**{"token": token, **fields_of(said)})
    except ValidationError as error:
        raise UsageError(f"push {name}: {explain(error)}") from None
    url = found.url.get_secret_value()
    if url.partition("://")[0].lower() not in SCHEMES or not is_address(url):
        raise UsageError(f"push {name}: expected the address of a WHIP server, as in http://HOST:8889/cam/whip")
    return found


def fields_of(said: object) -> Mapping[str, Any]:
    """A table, or URL[,KEY=VALUE...]."""
    if isinstance(said, Mapping):
        return said
    url, *options = OPTION.split(str(said))
    pairs = [option.split("=", 1) for option in options]
    return {"url": url, **{key: value for key, value in pairs}}


def is_address(url: str) -> bool:
    try:
        return bool(urlsplit(url).hostname)
    except ValueError:
        return False
