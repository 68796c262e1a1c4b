"""How long the event loop was held: a sleep that ends late tells it."""

from __future__ import annotations

import asyncio

from server.sessions.telemetry import Recent

EVERY = 0.25
"""seconds between two looks"""
WINDOW = 15.0
"""seconds of which the longest delay is told: Prometheus comes by that often at least"""


class LoopLag:
    """Watches the loop that it runs on."""

    def __init__(self) -> None:
        self._delays = Recent(window=WINDOW)

    async def run(self) -> None:
        """Watches until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + EVERY
            await asyncio.sleep(EVERY)
            now = loop.time()
            self._delays.add(max(0.0, now - due), now)

    def longest(self, now: float) -> float:
        """Seconds of the longest delay lately."""
        return max(self._delays.values(now), default=0.0)
