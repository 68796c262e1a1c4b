"""What every request must satisfy before a route sees it, and what every answer says to a browser."""

from __future__ import annotations

import asyncio

from aiohttp import web

from server.api.connections import Connection
from server.api.keys import DOORKEEPER, EXPOSURE, Handler
from server.api.origins import is_known_host, is_own_origin
from server.refusals import Refusal

SAFE = ("GET", "HEAD", "OPTIONS")
"""methods that change nothing"""
CROSS_ORIGIN = ("/whip/", "/whep/")
"""what pages of any origin may use, where the server asks for a token"""

HEADERS = {
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'none'",
            "script-src 'self'",
            "worker-src 'self'",
            "style-src 'self'",
            "img-src 'self' blob: data:",
            "media-src 'self' blob: mediastream:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(self), display-capture=(self), fullscreen=(self), geolocation=()",
}


@web.middleware
async def serving(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tells the connection that it is not silent while its request is answered."""
    if not isinstance(request.protocol, Connection):
        return await handler(request)
    with request.protocol.serving():
        return await handler(request)


@web.middleware
async def check_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses a request for another server, one that a foreign page sent, and one with a compressed body."""
    names = request.app[EXPOSURE].public_host
    if not (is_known_host(request.headers.getall("Host", []), names) or shows_token(request)):
        raise Refusal(421, "wrong_host", "this server has no such name: say --public-host for the names it goes by")
    origin = request.headers.get("Origin")
    if origin is not None and request.method not in SAFE and not may_change(request, origin, names):
        raise Refusal(403, "foreign_origin", "a page of another origin may change nothing here")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refusal(415, "bad_encoding", "the body may have no Content-Encoding")
    return await handler(request)


def shows_token(request: web.Request) -> bool:
    """Whether the request shows a token that is asked for: a page whose name was made to point here has none."""
    doorkeeper, shown = request.app[DOORKEEPER], request.headers.get("Authorization", "")
    return doorkeeper.asks and doorkeeper.find(shown, asyncio.get_running_loop().time()) is not None


def may_change(request: web.Request, origin: str, names: tuple[str, ...]) -> bool:
    """Whether a page of `origin` may ask this server to change something."""
    if is_own_origin(origin, request.headers.get("Host", ""), names):
        return True
    return is_cross_origin(request)


def is_cross_origin(request: web.Request) -> bool:
    """Whether pages of any origin may use what is asked for: what they may do is then said by a token."""
    return request.app[DOORKEEPER].asks and request.path.startswith(CROSS_ORIGIN)


async def say_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Adds what a browser is told to each answer, and takes away what tells which software this is."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.pop("Server", None)
