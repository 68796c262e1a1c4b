"""The server's end of a device process: starts it, asks it one thing at a time, ends it. Decides nothing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from socket import AF_UNIX, SOCK_STREAM, fromfd, send_fds, socketpair

from server.device.messages import DeviceOptions, Reply, Request
from server.device.shortage import is_shortage
from server.settings import device_environment


class DeviceLost(Exception):
    """The device process ended, or did not answer in time. Whatever it held is gone."""


class DeviceProcess:
    """A running `python -m server.device`. One request at a time; any failure to answer is DeviceLost."""

    def __init__(self, process: asyncio.subprocess.Process, connection: Connection, on_lost: Callable[[], None]):
        self._process = process
        self._connection = connection
        self._socket = fromfd(connection.fileno(), AF_UNIX, SOCK_STREAM)
        """the same, for descriptors: kept, as there may be none left for it when one is to be sent"""
        self._on_lost = on_lost
        self._inbox: asyncio.Queue[Reply] = asyncio.Queue()
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(connection.fileno(), self._on_readable)

    @classmethod
    async def start(cls, options: DeviceOptions, on_lost: Callable[[], None]) -> DeviceProcess:
        """Starts the process and tells it its options. `on_lost` is called once when it ends by itself."""
        ours, theirs = socketpair(AF_UNIX, SOCK_STREAM)
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-m", "server.device", str(theirs.fileno())),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=device_environment(),
                )
            except BaseException:
                ours.close()
                raise
        try:
            device = cls(process, Connection(ours.detach()), on_lost)
        except OSError:  # no descriptor is left for it
            process.kill()
            await process.wait()
            raise
        try:
            device._send(options)
        except BaseException:
            await device.end()
            raise
        return device

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def lost(self) -> bool:
        return self._ended.is_set()

    async def receive(self, patience: float) -> Reply:
        """The next thing the process says. Raises DeviceLost."""
        get = asyncio.ensure_future(self._inbox.get())
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({get, ended}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if get.done():
                return get.result()
            raise DeviceLost("it ended" if self.lost else f"it did not answer within {patience:.1f} s")
        finally:
            get.cancel()
            ended.cancel()

    async def request(self, request: Request, patience: float, descriptor: int | None = None) -> Reply:
        """Sends a request, and a file descriptor after it, and waits for the reply. Raises DeviceLost.

        Raises OSError where the server itself has no memory to send it: then nothing was sent.
        """
        self._send(request)
        if descriptor is not None:
            try:
                send_fds(self._socket, [b"F"], [descriptor])
            except OSError as error:  # it waits for what will never come
                raise DeviceLost(f"it could not be sent a descriptor: {error}") from error
        return await self.receive(patience)

    async def end(self) -> None:
        """Kills the process, which holds nothing that needs saying goodbye to, and waits for its end."""
        self._loop.remove_reader(self._connection.fileno())
        self._ended.set()
        self._connection.close()
        self._socket.close()
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    def _send(self, message: Request | DeviceOptions) -> None:
        try:
            self._connection.send(message)
        except OSError as error:
            if is_shortage(error):
                raise
            raise DeviceLost("it ended") from error

    def _on_readable(self) -> None:
        try:
            self._inbox.put_nowait(self._connection.recv())
        except (EOFError, OSError):
            self._loop.remove_reader(self._connection.fileno())
            self._ended.set()
            self._on_lost()
