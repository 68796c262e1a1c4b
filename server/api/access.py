"""Who asks, and whether they may: the tokens that guard what a client may reach."""

from __future__ import annotations

import asyncio

from aiohttp import web

from server.api.addresses import client_of
from server.api.auth import Doorkeeper, JwtChecker, Keyring
from server.api.keys import CALLER, DOORKEEPER, SESSIONS, Handler
from server.quotas import Quota
from server.refusals import Asks, Refusal
from server.settings import Settings

GUARDED = ("/sessions", "/queue/", "/ice", "/stats", "/whip/", "/whep/", "/cluster/")
"""what a client may not reach without a token, where the server asks for one"""


def doorkeeper_of(settings: Settings) -> Doorkeeper:
    """Who may come in, by the settings. Raises UsageError for a file of tokens or a key that is none."""
    return Doorkeeper(
        settings.token,
        Keyring(settings.tokens) if settings.tokens is not None else None,
        JwtChecker.of(settings.jwt_secret, settings.jwt_public_key, settings.jwt_issuer, settings.jwt_audience),
    )


@web.middleware
async def ask_token(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Lets nobody open, see or change anything without a token, if the server asks for one. A preflight shows none."""
    if request.path.startswith(GUARDED) and request.method != "OPTIONS":
        shown = request.headers.get("Authorization", "")
        caller = request.app[DOORKEEPER].find(shown, asyncio.get_running_loop().time())
        if caller is None:
            raise Refusal(401, "unauthorized", "an Authorization: Bearer header with the right token is expected")
        request[CALLER] = caller
    return await handler(request)


def shows(authorization: str, token: str) -> bool:
    """Whether an Authorization header holds the token, told in the same time whatever it holds."""
    return Doorkeeper(token).find(authorization, 0.0) is not None


def address_of(request: web.Request) -> str:
    """The address that asks, or the one for which a trusted proxy does."""
    forwarded = ",".join(request.headers.getall("X-Forwarded-For", []))
    return client_of(request.remote, forwarded, request.app[SESSIONS].settings.trusted_proxies)


def asks_of(request: web.Request, queue: bool = False, ticket: str | None = None) -> Asks:
    """How a client asks for a place: from where, and with what its address and its token may use."""
    settings, address, caller = request.app[SESSIONS].settings, address_of(request), request[CALLER]
    quotas = [Quota(f"address {address}", settings.sessions_each, settings.offers_each)]
    if caller.name:
        quotas.append(Quota(f"token {caller.name}", caller.limits.sessions, caller.limits.rate))
    return Asks(queue, ticket, address, tuple(quotas), caller.limits.pixels)
