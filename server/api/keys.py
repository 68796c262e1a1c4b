"""What the handlers find in the application."""

from __future__ import annotations

from aiohttp import web

from server.sessions.sessions import Sessions
from server.sessions.streams import Streams

SESSIONS = web.AppKey("sessions", Sessions)
STREAMS = web.AppKey("streams", Streams)
