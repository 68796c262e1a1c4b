"""Every refusal as JSON in one form."""

from __future__ import annotations

import math
from typing import Any

from aiohttp import web

from server.api.keys import SESSIONS, Handler
from server.api.request_log import log_refusal
from server.device.shortage import is_shortage
from server.refusals import Place, Refusal


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal in one form. What is left is a fault of ours, and only that is a 500."""
    try:
        return await handler(request)
    except Refusal as refusal:
        count_refusal(request, refusal.status, refusal.code, refusal.message)
        return error_response(refusal.status, refusal.code, refusal.message, refusal.retry_after, refusal.place)
    except (OSError, MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        message = "the server has no descriptors or memory left for this"
        count_refusal(request, 503, "exhausted", f"{message}: {error}")
        return error_response(503, "exhausted", message, 5)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        message = f"{error.reason}: {request.method} {request.path[:80]}"
        count_refusal(request, error.status, code_of(error), message)
        response = error_response(error.status, code_of(error), message)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response


def count_refusal(request: web.Request, status: int, code: str, message: str) -> None:
    """Logs a refusal, and counts one of a request to open something. Each code stands in the source: there are few."""
    log_refusal(request, status, code, message)
    if request.method == "POST":
        request.app[SESSIONS].refusals[code] += 1


def error_response(
    status: int, code: str, message: str, retry_after: float | None = None, place: Place | None = None
) -> web.Response:
    headers = {} if retry_after is None else {"Retry-After": str(math.ceil(retry_after))}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body: dict[str, Any] = {"error": {"code": code, "message": message, "retryable": retry_after is not None}}
    if place is not None:
        body["queue"] = {"position": place.position, "ticket": place.ticket}
    return web.json_response(body, status=status, headers=headers)


def code_of(error: web.HTTPException) -> str:
    known = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "bad_content_type"}
    return known.get(error.status, "bad_request")
