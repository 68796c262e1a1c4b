"""What a session may ask for, held to the server's settings and to the operator. Knows no session."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from core.errors import UsageError
from core.models.table import check_latency
from core.operators.config import OperatorConfig
from server.refusals import Refusal
from server.sessions.config import SessionConfig
from server.settings import Settings
from server.values import show_size

THREADS = 2
"""that check operators: those that carry pictures are left alone"""
MOST = 16
"""operators that are checked or wait for it"""


def check(config: SessionConfig, settings: Settings) -> None:
    """Refuses what no session of a server with these settings may be."""
    if config.fps > settings.max_fps:
        raise Refusal(422, "bad_setting", f"fps may be {settings.max_fps:g} at most here, not {config.fps:g}")
    try:
        check_latency(settings.model, config.latency)
    except UsageError as error:
        raise Refusal(422, "bad_setting", f"latency: {error}") from error
    if config.record != "nothing" and settings.recordings is None:
        raise Refusal(422, "no_recording", "this server keeps no recordings: its setting recordings is unset")
    if config.size is None:
        return
    (width, height), least = config.size, settings.min_side
    if width % 16 or height % 16 or min(width, height) < least or width * height > settings.max_pixels:
        raise Refusal(
            422,
            "bad_size",
            f"a size is a multiple of 16 each way, {least} at least and {settings.max_pixels} pixels in all at "
            f"most, not {show_size(config.size)}",
        )


class OperatorChecks:
    """Holds operators to sizes. Decoding a drawn mask takes a moment, so this has threads of its own, and a bound."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="avis-check")
        self._under_way: set[asyncio.Future[None]] = set()

    async def check(self, operator: OperatorConfig, size: tuple[int, int] | None) -> None:
        """Refuses a size, (width, height), that does not fit the operator, when it is known."""
        if size is None:
            return
        if len(self._under_way) >= MOST:
            raise Refusal(503, "busy", "too many operators are being checked at this moment", retry_after=1)
        loop = asyncio.get_running_loop()
        check = loop.run_in_executor(self._threads, operator.check_size, size[1], size[0])
        self._under_way.add(check)
        check.add_done_callback(self._on_done)
        try:
            await asyncio.shield(check)
        except ValueError as error:
            raise Refusal(422, "bad_operator", str(error)) from error

    def _on_done(self, check: asyncio.Future[None]) -> None:
        """Forgets a check, also where whoever asked for it has gone."""
        self._under_way.discard(check)
        if not check.cancelled():
            check.exception()

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
