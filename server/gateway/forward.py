"""Sends a client's request to a node and its answer back. Decides nothing about which node."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from server.api.auth import CALLER_HEADER, SHARED, tell_caller
from server.api.keys import CALLER
from server.gateway.placement import Node
from server.gateway.probes import Probes, first_of, why

CONNECT = 0.7
"""seconds that connecting to a node may take"""
REQUEST = 8.0
"""seconds that a node's answer may take"""

TO_NODE = ("Content-Type", "Content-Encoding", "Accept", "If-Match", "User-Agent", "X-Request-Id")
"""headers of a client's request that a node gets"""
OF_CONNECTION = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server", "te", "trailer", "upgrade"}
)
"""headers of an answer that concern the connection to the node, not the client's"""


class NotSent(Exception):
    """The node could not be reached: nothing was sent, and another node may be asked."""


class Broken(Exception):
    """The node was lost, or did not answer, after the request was sent: it may have taken effect."""


@dataclass(frozen=True)
class Answer:
    """What a node answered."""

    status: int
    headers: CIMultiDict[str]
    body: bytes

    def response(self) -> web.Response:
        return web.Response(status=self.status, headers=self.headers, body=self.body)


class Forward:
    """One client session to all nodes."""

    def __init__(self, http: aiohttp.ClientSession, probes: Probes, node_token: str | None):
        self._http = http
        self._probes = probes
        self._node_token = node_token

    async def send(self, node: Node, request: web.Request, body: bytes) -> Answer:
        """Sends a client's request to one node. Raises NotSent or Broken."""
        return await self._send(node, request.method, request.raw_path, body, self._headers(request))

    async def ask(self, node: Node, method: str, path: str, body: Any = None) -> Answer:
        """Sends a request of the gateway's own, with a JSON body or none. Raises NotSent or Broken."""
        data = b"" if body is None else json.dumps(body).encode()
        return await self._send(
            node, method, path, data, {"Content-Type": "application/json", **bearer(self._node_token)}
        )

    async def _send(self, node: Node, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        """A node that is lost meanwhile is not waited for."""
        work = self._request(method, URL(node.url + path, encoded=True), body, headers)
        answer: Answer | None = await first_of(work, self._probes.lost(node.url))
        if answer is None:
            raise Broken(f"the node {node.name} is lost")
        return answer

    async def _request(self, method: str, url: URL, body: bytes, headers: dict[str, str]) -> Answer:
        timeout = aiohttp.ClientTimeout(total=REQUEST, connect=CONNECT)
        try:
            async with self._http.request(
                method, url, headers=headers, timeout=timeout, allow_redirects=False, data=body or None
            ) as reply:
                kept = ((name, value) for name, value in reply.headers.items() if name.lower() not in OF_CONNECTION)
                return Answer(reply.status, CIMultiDict(kept), await reply.read())
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotSent(why(error)) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Broken(f"it did not answer: {why(error)}") from error

    def _headers(self, request: web.Request) -> dict[str, str]:
        """The client's headers that concern the node, who asks, and what lets the gateway in."""
        kept = {name: request.headers[name] for name in TO_NODE if name in request.headers}
        kept["X-Forwarded-For"] = ", ".join([*request.headers.getall("X-Forwarded-For", []), request.remote or ""])
        caller = request.get(CALLER)
        if caller is not None and caller.name not in ("", SHARED):
            kept[CALLER_HEADER] = tell_caller(caller)
        return {**kept, **bearer(self._node_token)}


def bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}
