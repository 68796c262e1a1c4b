"""Errors of a gateway in the one form."""

from __future__ import annotations

from aiohttp import web

from server.api.errors import code_of, error_response
from server.api.keys import Handler
from server.api.request_log import log_refusal
from server.refusals import Refusal


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal of the gateway's own in the form that nodes use; a node's answers pass as they are."""
    try:
        return await handler(request)
    except Refusal as refusal:
        log_refusal(request, refusal.status, refusal.code, refusal.message)
        return error_response(refusal.status, refusal.code, refusal.message, refusal.retry_after, refusal.place)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        message = f"{error.reason}: {request.method} {request.path[:80]}"
        log_refusal(request, error.status, code_of(error), message)
        response = error_response(error.status, code_of(error), message)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
