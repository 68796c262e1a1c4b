"""Asks every node for its report, again and again, and tells the cluster what it heard."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Coroutine, Iterable
from typing import Any

import aiohttp

from server.gateway.membership import Membership
from server.gateway.placement import Cluster
from server.gateway.report import Report, read_report

logger = logging.getLogger(__name__)

PERIOD = 0.5
"""seconds between two probes of a node"""
PATIENCE = 0.7
"""seconds that an answer to a probe may take: with two misses a node that hangs is lost after 1.9 s"""
MANY = 50
"""nodes from which on each is probed once a second"""
LIST_PERIOD = 1.0
"""seconds between two looks at the list of nodes"""


class Probes:
    """One task for each node, and one that follows the list of nodes."""

    def __init__(self, cluster: Cluster, membership: Membership, http: aiohttp.ClientSession, headers: dict[str, str]):
        self.cluster = cluster
        self.missed_total = 0
        """probes that got no answer"""
        self._membership = membership
        self._http = http
        self._headers = headers
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._lost: dict[str, asyncio.Event] = {}
        self._round: asyncio.Task[None] | None = None
        self._complaint = ""

    async def run(self) -> None:
        """Probes until cancelled."""
        try:
            while True:
                await self._follow()
                await asyncio.sleep(LIST_PERIOD)
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def refresh(self) -> None:
        """Asks every node that answers once more, now. Callers at the same time share one round."""
        if self._round is None or self._round.done():
            urls = [node.url for node in self.cluster.answering()]
            self._round = asyncio.get_running_loop().create_task(self.ask_all(urls))
        await asyncio.shield(self._round)

    async def ask_all(self, urls: Iterable[str]) -> None:
        """One probe of each of these nodes."""
        await asyncio.gather(*map(self.ask, urls))

    def lost(self, url: str) -> asyncio.Event:
        """Set once the node is lost; a new one when it is back."""
        return self._lost.setdefault(url, asyncio.Event())

    async def _follow(self) -> None:
        """Brings the tasks in line with the list. A list that cannot be read leaves the last one in force."""
        try:
            urls = await self._membership.urls()
        except (OSError, ValueError) as error:
            self._complain(f"the list of nodes cannot be read, the last one stays in force: {error}")
            return
        self._complain("" if urls else "the list of nodes is empty")
        self.cluster.list_urls(urls)
        for url in set(self._tasks) - set(urls):
            self._tasks.pop(url).cancel()
            self._lost.pop(url, asyncio.Event()).set()
        for url in urls:
            if url not in self._tasks or self._tasks[url].done():
                self._tasks[url] = asyncio.get_running_loop().create_task(self._probe(url))

    def _complain(self, text: str) -> None:
        if text and text != self._complaint:
            logger.warning(text)
        self._complaint = text

    async def _probe(self, url: str) -> None:
        """Asks one node again and again. A probe that took long is followed by the next at once."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await self.ask(url)
            period = PERIOD if len(self._tasks) < MANY else 2 * PERIOD
            await asyncio.sleep(max(0.05, began + period - loop.time()))

    async def ask(self, url: str) -> None:
        """One probe of one node, and what it changes."""
        asked = asyncio.get_running_loop().time()
        try:
            report = await self._fetch(url)
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
            self.missed_total += 1
            if self.cluster.missed(url, why(error)):
                logger.warning("node %s is lost: %s", url, why(error))
                self.lost(url).set()
            return
        self._hear(url, report, asked)

    async def _fetch(self, url: str) -> Report:
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with self._http.get(f"{url}/cluster/node", headers=self._headers, timeout=timeout) as reply:
            body = await reply.read()
            if reply.status == 401:
                raise ValueError("it refuses the node token of this gateway")
            if reply.status != 200:
                raise ValueError(f"it answers GET /cluster/node with {reply.status}: it is no node of a cluster")
        return read_report(json.loads(body))

    def _hear(self, url: str, report: Report, asked: float) -> None:
        node = self.cluster.at(url)
        before = node.state if node else None
        self.cluster.heard(url, report, asked)
        if self._lost.get(url, asyncio.Event()).is_set():
            del self._lost[url]
        if node is not None and node.state != before:
            logger.info("node %s at %s is %s%s", report.node, url, node.state, f": {node.why}" if node.why else "")


def why(error: BaseException) -> str:
    """An error of a request as a short text without the address."""
    if isinstance(error, TimeoutError):
        return f"no answer within {PATIENCE:g} s"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        return os.strerror(number) if number and number > 0 else error.os_error.strerror or "no connection"
    return str(error) or type(error).__name__


async def first_of(work: Coroutine[Any, Any, Any], event: asyncio.Event) -> Any:
    """The result of `work`, or None when `event` is set first; `work` is then cancelled."""
    task = asyncio.ensure_future(work)
    waits = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({task, waits}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        waits.cancel()
        if not task.done():
            task.cancel()
        await asyncio.gather(task, waits, return_exceptions=True)
