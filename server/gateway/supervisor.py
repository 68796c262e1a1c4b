"""Keeps one server running on a device, as a process that outlives whoever started it. Knows nothing of Ray.

The server holds a lock on its device for as long as it lives: it inherits the locked file. So no second server is ever
started on a device, and a supervisor that finds the lock taken adopts the server that holds it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import secrets
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from core.errors import UsageError
from server.device.backoff import Backoff

logger = logging.getLogger(__name__)

LISTENS = re.compile(r"^AVIS listens on (\S+)$", re.M)
"""the line of a server that is up"""
START = 120.0
"""seconds that a server may take to listen"""
PROVEN = 30.0
"""seconds that a server has to live for its end to count as the first"""
RESTARTS = 1_000_000
"""a supervisor never gives up: whoever asks it sees how often it had to start"""


@dataclass(frozen=True)
class Server:
    """A running server, as the file beside its lock tells it."""

    name: str
    """its name in the cluster, a new one for each start: ids of an earlier life find nothing"""
    url: str
    pid: int
    born: str
    """when the process began, by the kernel's clock: another process may get the same pid"""

    @property
    def lives(self) -> bool:
        return born(self.pid) == self.born


def default_folder() -> Path:
    """For locks and logs: one for each user, wherever he is logged in, since the lock on a device must be one."""
    return Path(tempfile.gettempdir()) / f"avis-{os.getuid()}"


def check_private(folder: Path) -> None:
    """Makes a folder that nobody else may write to. Raises UsageError where there is one that somebody else could."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise UsageError(f"the folder {folder} cannot be made: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise UsageError(f"the folder {folder} must be yours, and no one else may write to it: try --folder")


def born(pid: int) -> str:
    """The start time of a process, which with its pid names it; empty for one that has ended (a zombie, too)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


class Supervisor:
    """Starts the server of one device, or adopts the one that runs; starts it again when it ends."""

    def __init__(self, folder: Path, device: str, name: str, arguments: Sequence[str], token: str):
        """`folder`: for locks and logs, one for all servers of this machine. `name`: how names of the server begin."""
        if not token:
            raise UsageError("a node of a cluster needs a token: everybody could drain it")
        check_private(folder)
        stem = re.sub(r"[^a-z0-9-]", "-", device)
        self._lock, self._record, self._log = (folder / f"{stem}.{kind}" for kind in ("lock", "json", "log"))
        self._name = name
        self._command = [sys.executable, "-m", "server", "serve", *arguments]
        self._token = token
        self._backoff = Backoff(RESTARTS)
        self._started = 0.0
        self._not_before = 0.0
        self._child: subprocess.Popen[bytes] | None = None
        self.server: Server | None = None
        self.restarts = 0
        self.adopted = False
        """the server was running already, started by another supervisor"""

    def look(self) -> None:
        """What there is to do now: called again and again. Raises UsageError when a new server does not come up."""
        if self._child is not None:
            self._child.poll()  # else a server that ended would stay a zombie
        if self.server is not None and self.server.lives:
            return
        if self.server is not None:
            self._mourn()
        if time.monotonic() >= self._not_before:
            self.server = self._adopt_or_start()

    def stop(self, patience: float = 10.0) -> None:
        """Ends the server: politely, and by force when it takes too long."""
        server, self.server = self.server, None
        if server is not None and server.lives:
            os.kill(server.pid, signal.SIGTERM)
            until = time.monotonic() + patience
            while server.lives and time.monotonic() < until:
                time.sleep(0.05)
            if server.lives:
                os.kill(server.pid, signal.SIGKILL)
        if self._child is not None:
            self._child.wait(patience)

    def _mourn(self) -> None:
        """The server has ended by itself: it is started again, later and later if that goes on."""
        if time.monotonic() - self._started > PROVEN:
            self._backoff.succeed()
        self.server, self.restarts = None, self.restarts + 1
        delay = self._backoff.fail()
        logger.warning("the server %s has ended and starts again in %.1f s", self._name, delay)
        self._not_before = time.monotonic() + delay

    def _adopt_or_start(self) -> Server | None:
        """None while another process holds the device and has not told yet where it listens."""
        with self._lock.open("a+b") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return self._adopt()
            self._record.unlink(missing_ok=True)
            return self._start(lock)

    def _adopt(self) -> Server | None:
        try:
            server = Server(**json.loads(self._record.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        if not server.lives:
            return None
        logger.info("the server %s at %s runs already and is adopted", server.name, server.url)
        self.adopted, self._started = True, time.monotonic()
        return server

    def _start(self, lock: IO[bytes]) -> Server:
        """A new server, in a session of its own: no signal for this process reaches it."""
        name = f"{self._name}-{secrets.token_hex(2)}"
        environment = {**os.environ, "AVIS_NODE": name, "AVIS_TOKEN": self._token}
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=[lock.fileno()],
                start_new_session=True,
            )
        self.adopted, self._started = False, time.monotonic()
        server = Server(name, self._address(self._child), self._child.pid, born(self._child.pid))
        part = self._record.with_suffix(".part")
        part.write_text(json.dumps(asdict(server)))
        part.replace(self._record)
        return server

    def _address(self, child: subprocess.Popen[bytes]) -> str:
        """Waits until the server listens. Raises UsageError with the last line of its log when it ends before."""
        while time.monotonic() - self._started < START:
            text = self._log.read_text(errors="replace")
            if found := LISTENS.search(text):
                return found[1]
            if child.poll() is not None:
                last = text.strip().splitlines()[-1:] or ["it said nothing"]
                self._not_before = time.monotonic() + self._backoff.fail()
                raise UsageError(f"the server ended with code {child.returncode}: {last[0]}")
            time.sleep(0.05)
        child.kill()
        raise UsageError(f"the server did not listen within {START:g} s")
