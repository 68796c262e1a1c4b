"""What the handlers find in the application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from server.logs import Sparing
from server.sessions.sessions import Sessions
from server.sessions.streams import Streams

SESSIONS = web.AppKey("sessions", Sessions)
STREAMS = web.AppKey("streams", Streams)
REFUSALS = web.AppKey("refusals", Sparing)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
