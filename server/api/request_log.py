"""What the log tells of requests: each has an id, and every kind of refusal leaves a line now and then."""

from __future__ import annotations

import asyncio
import logging
import secrets

from aiohttp import web

from server.api.keys import REFUSALS, Handler
from server.logs import REQUEST, SESSION, one_line

logger = logging.getLogger(__name__)

INTERVAL = 10.0
"""seconds between two lines about refusals of one kind: method, route and code"""
QUIET = ("GET", "HEAD", "OPTIONS")
"""methods that change nothing: a 404 of theirs is no news, a 401 is"""


@web.middleware
async def name_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Gives the request an id, which the log and the answer's X-Request-Id tell."""
    request_id = secrets.token_hex(4)
    of_request, of_session = REQUEST.set(request_id), SESSION.set("")
    try:
        response = await handler(request)
        if not response.prepared:
            response.headers["X-Request-Id"] = request_id
        return response
    finally:
        REQUEST.reset(of_request)
        SESSION.reset(of_session)


def log_refusal(request: web.Request, status: int, code: str, message: str) -> None:
    """Logs a refusal with its reason, one of a kind an interval, and how many of the kind were not logged before."""
    if request.method in QUIET and status != 401:
        return
    resource = request.match_info.route.resource
    kind = f"{request.method} {resource.canonical if resource else 'to no route'}"
    unsaid = request.app[REFUSALS].due(f"{kind} {code}", asyncio.get_running_loop().time())
    if unsaid is None:
        return
    more = f" ({unsaid} more like it since the last such line)" if unsaid else ""
    fields = {"event": "refusal", "status": status, "code": code, "route": kind, "unsaid": unsaid}
    logger.info("%s refused: %d %s: %s%s", kind, status, code, one_line(message), more, extra={"fields": fields})
