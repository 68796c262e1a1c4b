"""Tasks that must live as long as the server does. One that ends is told on /readyz, and started again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """When a task that ended starts again, and when it counts as well again, in seconds."""

    first: float = 0.1
    factor: float = 3.0
    most: float = 30.0
    recovery: float = 2.0
    """a task that has run for so long since it ended is well again"""

    def pause(self, deaths: int) -> float:
        """Seconds until the next start, after so many deaths in a row."""
        return min(self.most, self.first * self.factor ** min(deaths - 1, 20))


@dataclass(eq=False)
class Vitals:
    """The tasks that are watched, and what is wrong with each."""

    patience: Patience = field(default_factory=Patience)
    deaths: dict[str, int] = field(default_factory=dict)
    """times that each task has ended, by its name"""
    faults: dict[str, str] = field(default_factory=dict)
    """why each task ended that is not well again yet, by its name"""
    _keepers: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def keep(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Runs `run`, and runs it again whenever it ends, until `release` or `close`."""
        self.deaths[name] = 0
        keeper = asyncio.get_running_loop().create_task(self._keep(name, run), name=f"keeper of {name}")
        self._keepers[name] = keeper

    async def release(self, name: str) -> None:
        """Ends a task, which need not live any more. One that is not kept is no error."""
        keeper = self._keepers.pop(name, None)
        self.faults.pop(name, None)
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])

    async def close(self) -> None:
        """Ends all tasks."""
        for name in list(self._keepers):
            await self.release(name)

    async def _keep(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        row = 0
        while True:
            task = asyncio.ensure_future(run())
            try:
                done, _ = await asyncio.wait([task], timeout=self.patience.recovery)
                if not done:
                    row = 0
                    self.faults.pop(name, None)
                    await asyncio.wait([task])
            finally:
                if not task.done():  # the server ends
                    task.cancel()
                    await asyncio.wait([task])
                elif not task.cancelled():
                    task.exception()  # seen, even where the keeper itself is cancelled at this very moment
            row += 1
            self._mourn(name, task)
            await asyncio.sleep(self.patience.pause(row))

    def _mourn(self, name: str, task: asyncio.Future[None]) -> None:
        error = None if task.cancelled() else task.exception()
        self.deaths[name] += 1
        self.faults[name] = "it was cancelled" if task.cancelled() else repr(error) if error else "it ended"
        logger.critical("the %s died and starts again: %s", name, self.faults[name], exc_info=error)
