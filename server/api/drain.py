"""The end of a server that is told to end while sessions are open: they may go on for a while, and none is opened."""

from __future__ import annotations

import asyncio
import logging
import signal

from server.sessions.sessions import Sessions

logger = logging.getLogger(__name__)

LOOK_EVERY = 0.25
"""seconds"""


async def let_sessions_end(sessions: Sessions, patience: float) -> None:
    """Waits until the open sessions have ended by themselves, for `patience` seconds, or until a second signal.

    `GET /readyz` is a 503 from the first moment on, and each client hears on its data channel how long it may stay.
    """
    sessions.draining = True
    if not patience or not len(sessions):
        return
    loop, hurry = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, hurry.set)
    logger.info("%d sessions may go on for %.0f s; a second signal ends them now", len(sessions), patience)
    for session in sessions:
        session.channel.send({"event": "draining", "seconds": patience})
    until = loop.time() + patience
    while len(sessions) and loop.time() < until and not await is_set_within(LOOK_EVERY, hurry):
        pass


async def is_set_within(seconds: float, event: asyncio.Event) -> bool:
    """Whether the event is set, now or within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
