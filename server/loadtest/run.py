"""Measures a running server with real WebRTC clients, each in its own process: `avis loadtest URL`.

Every frame that is sent carries its number in its pixels, so that each one that comes back is known: how late
it is, and whether it is the right one. On one machine the clients take their part of its time.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import psutil  # type: ignore[import-untyped]

from core.errors import UsageError
from server.loadtest.client import TELLS_EVERY, ClientConfig, Misbehaviour
from server.loadtest.result import Outcome
from server.loadtest.tally import Limits, Tally, worst

STARTUP = 45.0
"""seconds that a client process may take to start and connect on a busy machine"""
VISIT = 15.0
"""seconds that a session of a cycle has for its first frame"""
AFTERMATH = 1.0
"""seconds after the last client's end in which the server forgets it"""
DEVICE_MODULE = "server.device"


@dataclass
class LoadClient:
    """A client process, and the tally of what it tells."""

    name: str
    process: asyncio.subprocess.Process
    tally: Tally = field(default_factory=Tally)
    reading: asyncio.Task[None] | None = None

    async def read(self) -> None:
        """Takes in the client's lines until it ends."""
        assert self.process.stdout is not None, "the client's standard output is a pipe"
        while line := await self.process.stdout.readline():
            self.tally.take(json.loads(line))
        self.tally.exit_code = await self.process.wait()

    async def tell(self, line: str) -> None:
        """One that has ended hears nothing: its exit code says so."""
        assert self.process.stdin is not None, "the client's standard input is a pipe"
        self.process.stdin.write(line.encode() + b"\n")
        with suppress(ConnectionError):
            await self.process.stdin.drain()

    async def connect(self) -> None:
        await self.tell("connect")

    async def end(self, patience: float) -> None:
        """Asks the client to end, waits, and kills it if it does not."""
        assert self.process.stdin is not None, "the client's standard input is a pipe"
        self.process.stdin.close()
        if self.reading is not None:
            await asyncio.wait({self.reading}, timeout=patience)
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        if self.reading is not None:
            [fault] = await asyncio.gather(self.reading, return_exceptions=True)
            if isinstance(fault, Exception):
                self.tally.failure = f"what it told could not be read: {fault!r}"


class LoadTest:
    """Starts clients, watches them and the server, and ends them all."""

    def __init__(self, base: ClientConfig, limits: Limits):
        self.base = base
        self.limits = limits
        self.outcome = Outcome()
        self._clients: list[LoadClient] = []

    async def steady(self, sessions: int) -> Outcome:
        """A number of sessions at once, for `base.seconds` each."""
        async with self._running():
            await self._start_good(sessions)
            await self._wait()
        return self.outcome

    async def disturbed(self, sessions: int, bad: Misbehaviour) -> Outcome:
        """A number of sessions with one more: well behaved, then misbehaving, then well behaved again.

        Each phase takes `base.seconds`; what the others saw is compared over the phases, so that the client in the
        middle costs the device and this machine the same in each, but for what it does wrong. All client processes
        start before anything is measured: that takes seconds of this machine's time.
        """
        behaviours: tuple[Misbehaviour, ...] = ("none", bad, "none")
        async with self._running():
            companions = [await self._companion(sessions, behaviour) for behaviour in behaviours]
            good = await self._start_good(sessions, seconds=4 * (self.base.seconds + STARTUP))
            for client in companions:
                await self._until(client, lambda tally: tally.ready)
            for client in good:
                await self._opened(client)
            for behaviour, client in zip(behaviours, companions, strict=True):
                await self._phase(behaviour, client)
        return self.outcome

    async def overloaded(self, sessions: int) -> Outcome:
        """One session that is alone, then with the others at once, then alone again; each for `base.seconds`.

        All client processes start before anything is measured: that takes seconds of this machine's time.
        """
        seconds = self.base.seconds
        async with self._running():
            stays = await self._spawn(0, seconds=3 * seconds + 2 * STARTUP)
            crowd = [await self._spawn(index, seconds=seconds + STARTUP) for index in range(1, sessions)]
            for client in (stays, *crowd):
                await self._until(client, lambda tally: tally.ready)
            await self._connect([stays])
            await self._watched("alone", seconds)
            await self._connect(crowd)
            await self._watched("crowd", seconds)
            self.outcome.relieved = time.monotonic()
            await asyncio.gather(*(client.end(self.base.linger + 5) for client in crowd))
            await asyncio.sleep(max(0.0, self.outcome.relieved + seconds - time.monotonic()))
        return self.outcome

    async def killed(self, sessions: int) -> Outcome:
        """A number of sessions, whose server's device process is killed after a third of `base.seconds`."""
        async with self._running() as http:
            for client in await self._start_good(sessions):
                await self._opened(client)
            await asyncio.sleep(self.base.seconds / 3)
            kill_device(await get_json(http, f"{self.base.url}/stats"))
            self.outcome.killed = time.monotonic()
            await self._wait()
        return self.outcome

    async def cycles(self, count: int, at_once: int) -> Outcome:
        """`count` sessions that are opened and closed when their first frame is back, `at_once` beside each other."""
        async with self._running():
            shares = [count // at_once + (index < count % at_once) for index in range(at_once)]
            for index, visits in enumerate(shares):
                client = await self._start(index, visits=visits, seconds=VISIT)
                self.outcome.clients.append(client.tally)
            await self._wait(max(shares) * (VISIT + self.base.connect_timeout))
        return self.outcome

    async def ramp(self, most: int, step: float) -> Outcome:
        """One session more every `step` seconds, until one is refused or the limits do not hold."""
        deadline = time.monotonic() + self.base.seconds
        async with self._running():
            for count in range(1, most + 1):
                client = await self._start(count - 1, seconds=self.base.seconds + STARTUP)
                self.outcome.clients.append(client.tally)
                if not await self._opened(client):
                    ended, reason = time.monotonic(), client.tally.refusal or "the client did not connect"
                    self._step(count, reason, ended - step, ended)
                    break
                began = time.monotonic() + 0.3 * step
                await asyncio.sleep(step)
                ended = await self._told()
                why = self._judge(began, ended)
                self._step(count, why, began, ended)
                if why is not None or time.monotonic() + step > deadline:
                    break
        return self.outcome

    async def _start_good(self, sessions: int, **changes: Any) -> list[LoadClient]:
        clients = [await self._start(index, **changes) for index in range(sessions)]
        self.outcome.clients += [client.tally for client in clients]
        return clients

    async def _connect(self, clients: list[LoadClient]) -> None:
        """Has well-behaved clients that were spawned connect, at once, and waits for their first frames."""
        self.outcome.clients += [client.tally for client in clients]
        for client in clients:
            await client.connect()
        for client in clients:
            await self._opened(client)

    async def _companion(self, index: int, behaviour: Misbehaviour) -> LoadClient:
        """A client for one phase, which is not yet connected. One that vanishes does so half way."""
        seconds = self.base.seconds / 2 if behaviour == "vanish" else self.base.seconds
        client = await self._spawn(index, misbehaviour=behaviour, seconds=seconds)
        if behaviour != "none":
            self.outcome.bad.append(client.tally)
        return client

    async def _phase(self, behaviour: Misbehaviour, companion: LoadClient) -> None:
        """One client more for a while, and what the others saw meanwhile."""
        await companion.connect()
        await self._opened(companion)
        await self._watched(behaviour, self.base.seconds)
        await companion.end(self.base.linger + 5)

    async def _watched(self, companion: str, seconds: float) -> None:
        """What the good clients see for a while, in that company."""
        start = time.monotonic()
        await asyncio.sleep(seconds)
        seen = worst(self.outcome.clients, start, await self._told())
        self.outcome.phases.append({"companion": companion, **seen})

    async def _start(self, index: int, **changes: Any) -> LoadClient:
        client = await self._spawn(index, **changes)
        await client.connect()
        return client

    async def _spawn(self, index: int, **changes: Any) -> LoadClient:
        """Starts a client process, which connects when it is told to."""
        config = self.base.model_copy(update={"tag": index % 256, **changes})
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "server.loadtest.client"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 22,
        )
        client = LoadClient(f"session {index + 1}", process, Tally(tag=config.tag, fps=config.fps))
        self._clients.append(client)
        client.reading = asyncio.create_task(client.read())
        await client.tell(config.model_dump_json())
        return client

    async def _opened(self, client: LoadClient) -> bool:
        """Waits until a client's first frame is back; false when it never comes."""
        return await self._until(client, lambda tally: bool(tally.frames))

    @staticmethod
    async def _until(client: LoadClient, reached: Callable[[Tally], bool]) -> bool:
        deadline = time.monotonic() + STARTUP
        while time.monotonic() < deadline and not client.tally.over:
            if reached(client.tally):
                return True
            await asyncio.sleep(0.1)
        return False

    async def _wait(self, seconds: float | None = None) -> None:
        """Until every client has ended by itself, or should have long ago."""
        patience = (self.base.seconds if seconds is None else seconds) + self.base.linger + STARTUP
        await asyncio.wait({c.reading for c in self._clients if c.reading is not None}, timeout=patience)

    async def _told(self) -> float:
        """Now, once the clients have told all that they saw until now."""
        now = time.monotonic()
        await asyncio.sleep(TELLS_EVERY + 0.25)
        return now

    def _judge(self, start: float, end: float) -> str | None:
        """What does not hold in a window of time, None when all does."""
        complaints = [tally.complaint(self.limits, start, end) for tally in self.outcome.clients]
        return next((complaint for complaint in complaints if complaint is not None), None)

    def _step(self, count: int, why: str | None, start: float, end: float) -> None:
        step = {"sessions": count, "held": why is None, **worst(self.outcome.clients, start, end)}
        self.outcome.steps.append(step if why is None else {**step, "why": why})

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[aiohttp.ClientSession]:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http:
            self.outcome.models = await check_ready(http, self.base.url)
            await self._sample(http)
            watching = asyncio.create_task(self._watch(http))
            try:
                yield http
            finally:
                self.outcome.ended = time.monotonic()
                await asyncio.gather(*(client.end(self.base.linger + 5) for client in self._clients))
                watching.cancel()
                [fault] = await asyncio.gather(watching, return_exceptions=True)
                if isinstance(fault, Exception):
                    raise fault  # without its samples nothing can be said of growth
                await asyncio.sleep(AFTERMATH)
                await self._sample(http)

    async def _watch(self, http: aiohttp.ClientSession) -> None:
        while True:
            await asyncio.sleep(2)
            await self._sample(http)

    async def _sample(self, http: aiohttp.ClientSession) -> None:
        """Notes what the server tells of itself; one that has nothing to tell is left in peace."""
        try:
            stats = await get_json(http, f"{self.base.url}/stats")
        except (aiohttp.ClientError, TimeoutError):
            return
        if "device" in stats:
            told = {name: stats[name] for name in ("processes", "tasks", "frame_memory_bytes") if name in stats}
            sample = {"at": time.monotonic(), "sessions": len(stats.get("sessions", [])), **stats["device"], **told}
            self.outcome.samples.append(sample)


async def check_ready(http: aiohttp.ClientSession, url: str) -> list[Any]:
    """The models of a server that can take sessions. Raises UsageError for one that cannot."""
    try:
        async with http.get(f"{url}/readyz") as response:
            if response.status != 200:
                raise UsageError(f"the server at {url} is not ready: {await reason_of(response)}")
        return list((await get_json(http, f"{url}/models"))["models"])
    except (aiohttp.ClientError, TimeoutError, KeyError) as error:
        raise UsageError(f"no server of this kind answers at {url}: {error}") from error


def kill_device(stats: dict[str, Any]) -> None:
    """Kills the device process of the server that told `stats`. Raises UsageError where it is not on this machine."""
    usage = (stats.get("processes") or {}).get("device")
    if usage is None or DEVICE_MODULE not in command_of(usage["pid"]):
        raise UsageError("the device process of the server is not on this machine: run the test beside the server")
    os.kill(usage["pid"], signal.SIGKILL)


def command_of(pid: int) -> list[str]:
    try:
        return list(psutil.Process(pid).cmdline())
    except psutil.Error:
        return []


async def reason_of(response: aiohttp.ClientResponse) -> str:
    try:
        return str((await response.json())["error"]["message"])
    except (aiohttp.ClientError, ValueError, KeyError, TypeError):
        return f"it answered {response.status}"


async def get_json(http: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with http.get(url) as response:
        response.raise_for_status()
        answer: dict[str, Any] = await response.json()
        return answer
