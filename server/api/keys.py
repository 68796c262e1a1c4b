"""What the handlers find in the application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from server.api.auth import Caller, Doorkeeper
from server.api.vitals import Vitals
from server.exposure import Exposure
from server.logs import Sparing
from server.pushes.push import Push
from server.sessions.sessions import Sessions
from server.sessions.streams import Streams
from server.sources.sources import Sources

SESSIONS = web.AppKey("sessions", Sessions)
STREAMS = web.AppKey("streams", Streams)
SOURCES = web.AppKey("sources", Sources)
PUSHES = web.AppKey("pushes", dict[str, Push])
REFUSALS = web.AppKey("refusals", Sparing)
DOORKEEPER = web.AppKey("doorkeeper", Doorkeeper)
VITALS = web.AppKey("vitals", Vitals)

EXPOSURE = web.AppKey("exposure", Exposure)
"""by what names the application may be called, and what one address may ask of it"""

CALLER = web.RequestKey("caller", Caller)
"""whose request it is"""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
