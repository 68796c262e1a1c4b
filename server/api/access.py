"""The server's token, which guards what a client may reach."""

from __future__ import annotations

import hmac

from aiohttp import web

from server.api.keys import SESSIONS, Handler
from server.refusals import Refusal

GUARDED = ("/sessions", "/queue/", "/ice", "/stats", "/whip/", "/whep/", "/cluster/")
"""what a client may not reach without the token, where the server asks for one"""


@web.middleware
async def ask_token(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Lets nobody open, see or change anything without the server's token, if it has one. A preflight shows none."""
    token, shown = request.app[SESSIONS].settings.token, request.headers.get("Authorization", "")
    guarded = request.path.startswith(GUARDED) and request.method != "OPTIONS"
    if token is not None and guarded and not shows(shown, token):
        raise Refusal(401, "unauthorized", "an Authorization: Bearer header with the right token is expected")
    return await handler(request)


def shows(authorization: str, token: str) -> bool:
    """Whether an Authorization header holds the token, told in the same time whatever it holds."""
    scheme, _, shown = authorization.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(
        shown.strip().encode(errors="surrogateescape"), token.encode()
    )
