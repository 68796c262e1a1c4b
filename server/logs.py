"""How the server logs: for people or as JSON lines, each with the request and the session that it belongs to."""

from __future__ import annotations

import json
import logging
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

Form = Literal["console", "json"]

REQUEST: ContextVar[str] = ContextVar("request", default="")
"""id of the HTTP request that this code runs for"""
SESSION: ContextVar[str] = ContextVar("session", default="")
"""id of the session that this code runs for, as `public` shortens it"""

PUBLIC = 8
"""letters of a session's id that are shown: who knows all of it may end the session"""

FORM = "%(asctime)s %(levelname)s %(name)s%(place)s: %(message)s"


def public(session_id: str) -> str:
    """What may be told of a session's id, NODE.TOKEN or TOKEN."""
    node, dot, token = session_id.rpartition(".")
    return node + dot + token[:PUBLIC]


def one_line(text: str, most: int = 300) -> str:
    """`text` without what would break a line or move a terminal's cursor, cut to `most` characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:most])


class Context(logging.Filter):
    """Adds the request and the session to every record. Fields that a caller names himself stay."""

    def filter(self, record: logging.LogRecord) -> bool:
        for name, variable in (("request", REQUEST), ("session", SESSION)):
            if not hasattr(record, name):
                setattr(record, name, variable.get())
        return True


class Console(logging.Formatter):
    """One line for people: time, level, module, request and session in brackets, message."""

    def __init__(self) -> None:
        super().__init__(FORM)

    def format(self, record: logging.LogRecord) -> str:
        known = [f"{name} {getattr(record, name)}" for name in ("request", "session") if getattr(record, name, "")]
        record.place = f" [{', '.join(known)}]" if known else ""
        return super().format(record)


class Json(logging.Formatter):
    """One JSON object a line: ts (RFC 3339, UTC), level, logger, message, request, session, fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "ts": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name in ("request", "session") if (value := getattr(record, name, ""))}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, default=str)


def set_up(level: str, form: Form) -> None:
    """Logs to standard error from now on, in this process."""
    handler = logging.StreamHandler()
    handler.setFormatter(Json() if form == "json" else Console())
    handler.addFilter(Context())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    if level == "info":
        logging.getLogger("aioice").setLevel(logging.WARNING)  # it tells every candidate pair at this level


class Sparing:
    """Says of each kind of event whether it is logged: once an interval. Pure. The kinds must be few."""

    def __init__(self, interval: float):
        self._interval = interval
        self._last: dict[str, float] = {}
        self._since: dict[str, int] = {}

    def due(self, kind: str, now: float) -> int | None:
        """None when an event of `kind` was logged less than an interval ago; else how many were not, since then."""
        last = self._last.get(kind)
        if last is not None and now - last < self._interval:
            self._since[kind] = self._since.get(kind, 0) + 1
            return None
        self._last[kind] = now
        return self._since.pop(kind, 0)
