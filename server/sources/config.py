"""What is said of a source that the server pulls: its address, when it starts, and how it is restored. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError

from core.config import Config
from core.errors import UsageError, explain
from server.sessions.config import WORDS, SessionConfig, from_words
from server.sessions.dispatch import check_solver
from server.settings import Settings

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.A)
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
LIVE = {"rtsp", "rtsps", "rtmp", "rtmps", "udp", "rtp", "tcp"}
"""schemes whose pictures come when they are due"""
WEB = {"http", "https"}
SRT = {"srt"}
WHEP = {"whep": "http", "wheps": "https"}
"""schemes of WHEP servers, and what they are reached by"""
SCHEMES = (*sorted(LIVE), *sorted(WEB), *SRT, *WHEP, "file")
CAMERA = re.compile(r"/dev/video\d{1,3}")

Kind = Literal["live", "web", "srt", "whep", "camera", "file"]


class SourceConfig(Config):
    """One source that the server pulls. Its address may hold a password, so nothing shows it."""

    url: SecretStr = Field(min_length=1, max_length=4096)
    """rtsp, rtmp, srt, udp, http(s), HLS, whep(s); a file, or a folder of pictures, in a loop; /dev/videoN"""
    start: Literal["demand", "always"] = "demand"
    """with the first player, or with the server"""
    transport: Literal["tcp", "udp"] = "tcp"
    """how RTSP sends its pictures"""
    token: SecretStr | None = None
    """what a WHEP server is shown as Authorization: Bearer"""
    session: dict[str, Any] = Field(default_factory=dict)
    """how it is restored: fields of a SessionConfig"""

    @property
    def kind(self) -> Kind:
        """How it is read. Raises ValueError for a scheme that nothing here reads."""
        return kind_of(self.url.get_secret_value())

    @property
    def place(self) -> str:
        """What may be told of the address."""
        return shown(self.url.get_secret_value())


OWN = tuple(name for name in SourceConfig.model_fields if name not in ("url", "session"))
OPTION = re.compile(rf",(?=(?:{'|'.join((*OWN, *WORDS))})=)")


def kind_of(url: str) -> Kind:
    """How a source is read. Raises ValueError for a scheme that nothing here reads."""
    match = SCHEME.match(url)
    if match is None or match[1].lower() == "file":
        return "camera" if CAMERA.fullmatch(url) else "file"
    scheme = match[1].lower()
    kinds: tuple[tuple[Kind, Any], ...] = (("live", LIVE), ("web", WEB), ("srt", SRT), ("whep", WHEP))
    for kind, schemes in kinds:
        if scheme in schemes:
            return kind
    raise ValueError(f"expected a file, /dev/videoN, or an address of {', '.join(SCHEMES)}, found {scheme}://")


def shown(url: str) -> str:
    """Scheme, host and port of an address, or the name of a file: a path or a query may be a secret too."""
    if SCHEME.match(url) is None or url.lower().startswith("file:"):
        return Path(url).name
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return url[: url.index("://")]
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}"


def sources_of(settings: Settings) -> dict[str, SourceConfig]:
    """The sources of a server, by their names. Raises UsageError with one sentence, which holds no address."""
    return {name: source_of(name, said, settings) for name, said in settings.source.items()}


def source_of(name: str, said: object, settings: Settings) -> SourceConfig:
    if not NAME.fullmatch(name):
        raise UsageError(
            f"source: expected a name of letters, digits, dots, dashes and underscores, found {name[:40]!r}"
        )
    try:
        fields = fields_of(said)
        found = SourceConfig(
            **{key: value for key, value in fields.items() if key not in WORDS}, session=words_of(fields)
        )
        _ = found.kind
        tier = session_config(found, settings, {}).solver.tier
        check_solver({"tier": tier}, settings.model)
        return found
    except ValidationError as error:
        raise UsageError(f"source {name}: {explain(error)}") from None
    except ValueError as error:
        raise UsageError(f"source {name}: {error}") from None


def fields_of(said: object) -> Mapping[str, Any]:
    """A table, or URL[,KEY=VALUE...]; a comma within the address is part of it. Raises ValueError."""
    if isinstance(said, Mapping):
        if "session" in said:
            raise ValueError("session: there is no such setting")
        return said
    if not isinstance(said, str):
        raise ValueError("expected an address or a table")
    url, *options = OPTION.split(said)
    pairs = [option.split("=", 1) for option in options]
    return {"url": url, **{key: value for key, value in pairs}}


def words_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    return from_words({key: value for key, value in fields.items() if key in WORDS})


def session_config(source: SourceConfig, settings: Settings, solver: Mapping[str, Any]) -> SessionConfig:
    """The session that restores a source; `solver` where it says nothing. Raises ValidationError."""
    said = dict(source.session)
    tier = {"tier": said.pop("tier")} if "tier" in said else {}
    values = {"fps": settings.fps, "solver": {**solver, **tier}, **said}
    return SessionConfig.model_validate_json(json.dumps(values), strict=True)
