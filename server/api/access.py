"""Who asks, and whether they may: the tokens that guard what a client may reach."""

from __future__ import annotations

import asyncio

from aiohttp import web

from server.api.addresses import client_of
from server.api.auth import CALLER_HEADER, SHARED, Caller, Doorkeeper, JwtChecker, Keyring, told_caller
from server.api.keys import CALLER, DOORKEEPER, EXPOSURE, SESSIONS, Handler
from server.exposure import Exposure
from server.quotas import Quota
from server.refusals import Asks, Refusal
from server.values import is_loopback

GUARDED = ("/sessions", "/queue/", "/ice", "/stats", "/whip/", "/whep/", "/cluster/")
"""what a client may not reach without a token, where the server asks for one"""


def doorkeeper_of(settings: Exposure) -> Doorkeeper:
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
        if request.path.startswith("/cluster/"):
            check_gateway(request, caller)
        request[CALLER] = caller
    return await handler(request)


def check_gateway(request: web.Request, caller: Caller) -> None:
    """Refuses a client what is for gateways: they show the node's own token. An open node drains for itself only."""
    if request.app[DOORKEEPER].asks:
        if caller.name != SHARED:
            raise Refusal(403, "not_yours", "this is for the gateways of the cluster, which show the node's own token")
    elif request.path == "/cluster/drain" and not is_loopback(address_of(request)):
        raise Refusal(403, "not_yours", "a node without a token drains for its own machine only")


def address_of(request: web.Request) -> str:
    """The address that asks, or the one for which a trusted proxy does."""
    forwarded = ",".join(request.headers.getall("X-Forwarded-For", []))
    return client_of(request.remote, forwarded, request.app[EXPOSURE].trusted_proxies)


def asks_of(request: web.Request, queue: bool = False, ticket: str | None = None) -> Asks:
    """How a client asks for a place: from where, and with what its address and its token may use."""
    settings, address, caller = request.app[SESSIONS].settings, address_of(request), request[CALLER]
    if settings.node and caller.name == SHARED:
        caller = told_caller(request.headers.get(CALLER_HEADER)) or caller
    quotas = [Quota(f"address {address}", settings.most_sessions_each, settings.most_offers_each)]
    quotas += token_quotas(caller)
    return Asks(queue, ticket, address, tuple(quotas), caller.limits.pixels)


def token_quotas(caller: Caller) -> list[Quota]:
    """What the holder of a token may use; of one that all share, nothing is counted."""
    if not caller.name:
        return []
    return [Quota(f"token {caller.name}", caller.limits.sessions, caller.limits.rate)]
