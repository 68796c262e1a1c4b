"""Where a gateway learns which nodes there are: a fixed list, a DNS name, or a file that another program keeps."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from core.errors import UsageError

logger = logging.getLogger(__name__)

MOST_NODES = 1000


class Membership(Protocol):
    """Lists the addresses of all nodes. Asked once a second; must not block the event loop."""

    async def urls(self) -> list[str]:
        """Base addresses, as http://10.0.0.1:8080. Raises OSError or ValueError when it cannot tell now."""
        ...


class Static:
    """The nodes of the command line."""

    def __init__(self, urls: Iterable[str]):
        self._urls = list(urls)

    async def urls(self) -> list[str]:
        return self._urls


class Dns:
    """Every address of a name, as a headless service of Kubernetes has one for each pod."""

    def __init__(self, host: str, port: int):
        self.host, self.port = host, port

    async def urls(self) -> list[str]:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise OSError(f"the name {self.host} has no address: {error.strerror}") from error
        hosts = sorted({str(address[0]) for *_, address in found})
        return [f"http://{f'[{host}]' if ':' in host else host}:{self.port}" for host in hosts]


class NodesFile:
    """A file with one address a line, as `avis cluster watch` keeps it. Comments begin with #."""

    def __init__(self, path: Path):
        self.path = path

    async def urls(self) -> list[str]:
        text = await asyncio.get_running_loop().run_in_executor(None, self.path.read_text)
        lines = (line.partition("#")[0].strip() for line in text.splitlines())
        return check_urls([line for line in lines if line])


def check_urls(urls: Iterable[str]) -> list[str]:
    """Addresses without a slash at their end. Raises ValueError with one sentence for what is no address."""
    checked = [check_url(url) for url in urls]
    if len(checked) > MOST_NODES:
        raise ValueError(f"a gateway takes {MOST_NODES} nodes at most, found {len(checked)}")
    twice = next((url for url in checked if checked.count(url) > 1), None)
    if twice is not None:
        raise ValueError(f"the node {twice} is listed twice")
    return checked


def check_url(url: str) -> str:
    """An HTTP address of a node, without a slash at its end. Raises ValueError for anything else."""
    try:
        parts = urlsplit(url)
        proper = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        proper = False
    if not proper or parts.path.strip("/") or parts.query or parts.fragment or parts.username:
        raise ValueError(f"a node is an address as in http://10.0.0.1:8080, not {url[:80]!r}")
    return f"{parts.scheme}://{parts.netloc}"


def membership(nodes: tuple[str, ...], dns: str | None, file: Path | None) -> Membership:
    """The one source of nodes that was named. Raises UsageError unless it is exactly one."""
    named = [bool(nodes), dns is not None, file is not None]
    if sum(named) != 1:
        raise UsageError(
            "expected the nodes in exactly one way: --nodes URL,URL or --nodes-dns HOST:PORT or --nodes-file FILE"
        )
    if dns is not None:
        return Dns(*split_host(dns))
    if file is not None:
        if not file.is_file():
            raise UsageError(f"there is no file {file} with a list of nodes")
        return NodesFile(file)
    try:
        return Static(check_urls(nodes))
    except ValueError as error:
        raise UsageError(str(error)) from error


def split_host(text: str) -> tuple[str, int]:
    """HOST:PORT. Raises UsageError for anything else."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"a DNS name of nodes is HOST:PORT, as in avis-nodes:8080, not {text[:80]!r}")
    return host, int(port)
