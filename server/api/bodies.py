"""The bodies of requests: read in time, parsed, and validated with one sentence for the first wrong value."""

from __future__ import annotations

import asyncio
import json
from typing import Any, TypeVar

from aiohttp import web
from pydantic import ValidationError

from core.config import Config
from core.contract import SolverConfig
from core.errors import UsageError, explain
from core.models.table import check_tier
from server.json_bounds import check_bounds
from server.refusals import Refusal
from server.sessions import negotiation
from server.sessions.sessions import Sessions
from server.webrtc.sdp_lines import SdpLimits

C = TypeVar("C", bound=Config)

BODY_TIMEOUT = 5.0
"""seconds that a request's body may take to arrive"""


async def read_body(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            return await request.read()
    except TimeoutError as error:
        raise Refusal(400, "slow_body", f"the body did not arrive within {BODY_TIMEOUT:g} s") from error
    except web.RequestPayloadError as error:
        raise Refusal(400, "bad_body", "the body is not what its Content-Encoding says, or broke off") from error
    except ConnectionError as error:
        raise Refusal(400, "bad_body", "the client left before its body was whole") from error


async def read_json(request: web.Request) -> dict[str, Any]:
    """The body of a request, which must be one JSON object."""
    if request.content_type != "application/json":
        raise Refusal(415, "bad_content_type", f"the body must be application/json, not {request.content_type}")
    raw = await read_body(request)
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, a number of thousands of digits, too deep
        raise Refusal(400, "bad_json", f"the body is not JSON: {error}") from error
    try:
        check_bounds(body)
    except ValueError as error:
        raise Refusal(400, "bad_json", f"the body cannot be taken: {error}") from error
    if not isinstance(body, dict):
        raise Refusal(400, "bad_json", f"the body must be a JSON object, not {type(body).__name__}")
    return body


def validate(config: type[C], values: dict[str, Any], within: str = "") -> C:
    """JSON values as a configuration; a 422 with one sentence that names the first wrong one, `within` what it is.

    They are taken as JSON has them: "2" and true are no numbers, 1 is not true.
    """
    try:
        return config.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise Refusal(422, "bad_setting", within + explain(error)) from error


def merged_solver(base: SolverConfig, changes: object, model: str) -> SolverConfig:
    """`base` with some settings changed; a 422 where one is wrong, or is none of the model's."""
    if changes is None:
        return base
    if not isinstance(changes, dict):
        raise Refusal(422, "bad_setting", f"solver: expected an object of settings, found {changes!r:.60}")
    solver = validate(SolverConfig, {**base.model_dump(mode="json"), **changes}, "solver.")
    try:
        check_tier(model, solver.tier)
    except UsageError as error:
        raise Refusal(422, "bad_setting", f"solver.tier: {error}") from error
    return solver


def sdp_limits(sessions: Sessions) -> SdpLimits:
    return negotiation.sdp_limits(sessions.settings)
