"""The TCP connections of an HTTP server: how many there may be, and how long one may stay silent. Knows no session.

`ConnectionTable` decides and is pure: time is data, in seconds. `Connection` and `Door` are its thin shell.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

from server.api.errors import error_response

logger = logging.getLogger(__name__)

LINGERING = 2.0
"""seconds in which the rest of a body may still arrive that nobody wants"""
LOOK = 1.0
"""seconds between two looks at whether the server still listens"""


@dataclass
class _Entry:
    address: str
    since: float
    """when it was opened, or when its last request ended"""
    served: bool = False
    """it has carried a request"""
    busy: bool = False
    """a request is being answered"""


@dataclass
class ConnectionTable:
    """The open connections. A newcomer takes the place of one that is silent, when there are too many."""

    most: int
    """connections at a time"""
    each: int = 65536
    """of them, those of one address"""
    head_timeout: float = 10.0
    """seconds from the opening of a connection to the whole head of its first request"""
    idle_timeout: float = 30.0
    """seconds from the end of a request to the whole head of the next"""
    exempt: Callable[[str], bool] = lambda address: False
    """addresses without a limit of their own: this machine, and proxies, behind which many clients are"""
    closed: Counter[str] = field(default_factory=Counter)
    """connections that were closed, by the limit: `most`, `each` or `silent`"""
    _entries: dict[Hashable, _Entry] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._entries)

    def open(self, key: Hashable, address: str, now: float) -> Hashable | None:
        """Adds a connection, and returns the one that must close for it, if any: itself when none is silent."""
        self._entries[key] = _Entry(address, now)
        of_address = [other for other, entry in self._entries.items() if entry.address == address]
        if len(of_address) > self.each and not self.exempt(address):
            return self._loser(of_address, key, "each")
        if len(self._entries) > self.most:
            return self._loser(self._of_busiest_address(), key, "most")
        return None

    def close(self, key: Hashable) -> None:
        """Forgets a connection. One that is not open is no error."""
        self._entries.pop(key, None)

    def begin(self, key: Hashable) -> None:
        """A request came, with its whole head."""
        if key in self._entries:
            self._entries[key].busy = self._entries[key].served = True

    def end(self, key: Hashable, now: float) -> None:
        """The request was answered."""
        if key in self._entries:
            self._entries[key].busy, self._entries[key].since = False, now

    def deadline(self, key: Hashable) -> float | None:
        """When the connection has been silent for too long; None while a request is being answered."""
        entry = self._entries.get(key)
        if entry is None or entry.busy:
            return None
        return entry.since + (self.idle_timeout if entry.served else self.head_timeout)

    def _of_busiest_address(self) -> list[Hashable]:
        """The connections of the address that has the most silent ones."""
        silent = Counter(entry.address for entry in self._entries.values() if not entry.busy)
        [(address, _)] = silent.most_common(1)  # the newcomer itself is silent
        return [key for key, entry in self._entries.items() if entry.address == address]

    def _loser(self, candidates: list[Hashable], newcomer: Hashable, limit: str) -> Hashable:
        """Who closes: the one that has been silent the longest, rather one that never asked for anything."""
        self.closed[limit] += 1
        silent = [key for key in candidates if key != newcomer and not self._entries[key].busy]
        return min(silent, key=lambda key: (self._entries[key].served, self._entries[key].since), default=newcomer)


def connections_within(most: int) -> int:
    """How many connections there may be, `most` at most: three quarters of all descriptors are kept for sessions.

    Asks the system for as many descriptors as it gives.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError) as error:  # a system that calls it unlimited, and gives less
        logger.info("the limit of open files stays as it is: %s", error)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if soft == resource.RLIM_INFINITY else max(4, min(most, soft // 4))


class Connection(web.RequestHandler):
    """aiohttp's connection within the limits of a table. It decompresses nothing: no body may be compressed."""

    __slots__ = ("_table", "_timer")

    def __init__(self, server: web.Server, table: ConnectionTable, loop: asyncio.AbstractEventLoop):
        super().__init__(server, loop=loop, access_log=None, auto_decompress=False, lingering_time=LINGERING)  # type: ignore[arg-type]
        self._table = table
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        loser = self._table.open(self, peer[0] if peer else "", self._loop.time())
        if isinstance(loser, Connection):
            loser.abort()
        self._watch()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._table.close(self)
        self._unwatch()
        super().connection_lost(exc)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What no route of ours answered, in the one form of all errors, and without a traceback a request."""
        if status >= 500:
            self.log_exception("a request failed", exc_info=exc)
            response = error_response(status, "internal", "the server failed at this request")
        else:
            self.logger.debug("no HTTP request: %s", message)
            response = error_response(status, "bad_request", "this is no HTTP request")
        response.headers["Server"] = ""
        response.force_close()
        return response

    @contextmanager
    def serving(self) -> Iterator[None]:
        """While a request is answered, the connection is not silent."""
        self._unwatch()
        self._table.begin(self)
        try:
            yield
        finally:
            self._table.end(self, self._loop.time())
            self._watch()

    def abort(self) -> None:
        """Closes the connection without waiting for anything to be sent."""
        self._unwatch()
        self._table.close(self)
        if self.transport is not None:
            self.transport.abort()

    def _watch(self) -> None:
        deadline = self._table.deadline(self)
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        self._table.closed["silent"] += 1
        self.abort()

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Door:
    """Listens on an address, and again when the listening socket was lost."""

    def __init__(self, server: web.Server, table: ConnectionTable, host: str, port: int):
        self._server = server
        self._table = table
        self._host = host
        self._port = port
        self._listening: list[tuple[asyncio.Server, socket.socket]] = []

    async def open(self) -> int:
        """Listens, and returns the port. Raises OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, *_, address in dict.fromkeys(found):
            bound = socket.create_server((address[0], self._port), family=family, backlog=128)
            self._port = bound.getsockname()[1]
            server = await loop.create_server(lambda: Connection(self._server, self._table, loop), sock=bound)
            self._listening.append((server, bound))
        return self._port

    def close(self) -> None:
        for server, _ in self._listening:
            server.close()
        self._listening.clear()

    async def watch(self) -> None:
        """Ends with an OSError when the server listens no more; when it starts anew, it listens again."""
        if not self._is_open():
            self.close()
            await self.open()
        while self._is_open():  # noqa: ASYNC110 - no event tells of a lost socket
            await asyncio.sleep(LOOK)
        raise OSError("the server does not listen any more")

    def _is_open(self) -> bool:
        return bool(self._listening) and all(listens(bound) for _, bound in self._listening)


def listens(bound: socket.socket) -> bool:
    """Whether connections still arrive at a socket."""
    try:
        return bool(bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False
