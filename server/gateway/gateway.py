"""What the handlers of one gateway share, and how they reach a node. No other gateway needs to know of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import aiohttp
from aiohttp import web

from server.api.access import token_quotas
from server.api.addresses import client_of
from server.api.bodies import read_body
from server.api.keys import CALLER
from server.gateway.forward import Answer, Broken, Forward, NotSent, bearer
from server.gateway.line import Line
from server.gateway.membership import Membership
from server.gateway.placement import RETRIED, Cluster, Node, owner
from server.gateway.probes import Probes
from server.gateway.settings import GatewaySettings
from server.quotas import Quota, Quotas
from server.refusals import Refusal


class Gateway:
    """The nodes, and the ways to them, from startup to cleanup of the application."""

    def __init__(self, settings: GatewaySettings, membership: Membership):
        self.settings = settings
        self.membership = membership
        self.cluster = Cluster()
        self.outcomes: Counter[str] = Counter()
        """offers by what became of them: `opened`, or the code of the refusal"""
        self.quotas = Quotas()
        self.retries = 0
        """offers that one node refused and another was asked"""
        self.probes: Probes
        self.forward: Forward
        self.line: Line

    async def run(self, app: web.Application) -> AsyncIterator[None]:
        """Probes the nodes while the application lives."""
        connector = aiohttp.TCPConnector(limit=0, limit_per_host=self.settings.connections_per_node)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as http:
            self.probes = Probes(self.cluster, self.membership, http, bearer(self.settings.node_token))
            self.forward = Forward(http, self.probes, self.settings.node_token)
            self.line = Line(self.cluster, self.forward)
            task = asyncio.get_running_loop().create_task(self.probes.run())
            yield
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def client(self, request: web.Request) -> str:
        """Whose request it is, for the share of one address in line."""
        forwarded = ",".join(request.headers.getall("X-Forwarded-For", []))
        return client_of(request.remote, forwarded, self.settings.trusted_proxies)

    def check_rate(self, request: web.Request) -> None:
        """Counts an offer. Raises Refusal where its address, or whoever its token names, sends too many."""
        address = Quota(f"address {self.client(request)}", rate=self.settings.most_offers_each)
        quotas = (address, *token_quotas(request[CALLER]))
        if (exceeded := self.quotas.offer(quotas, asyncio.get_running_loop().time())) is not None:
            quota, wait = exceeded
            raise Refusal(429, "too_many_offers", f"{quota.holder} may send {quota.rate:g} offers a second", wait)

    async def send(self, node: Node, request: web.Request, body: bytes) -> Answer:
        """Sends a request that concerns this node alone. Raises Refusal where no answer comes."""
        try:
            return await self.forward.send(node, request, body)
        except (NotSent, Broken) as error:
            raise node_lost(node, error) from error

    async def place(self, request: web.Request, body: bytes, nodes: Iterator[Node]) -> Answer:
        """Sends an offer to one node after the other, until one does not refuse it for want of a place.

        An offer whose connection broke may have opened a session: it is not sent again. Raises Refusal.
        """
        last: Answer | None = None
        for node in nodes:
            self.retries += last is not None
            answer = await self._offer(node, request, body)
            if answer is not None:
                last = answer
                if refusal_code(answer) not in RETRIED:
                    break
        if last is None:
            raise no_node(self.cluster)
        self.outcomes[refusal_code(last) or "opened"] += 1
        return last

    async def _offer(self, node: Node, request: web.Request, body: bytes) -> Answer | None:
        """What one node answers to an offer; None where it could not be reached."""
        now = asyncio.get_running_loop().time()
        self.cluster.sent(node.url, now)
        code = "unreachable"
        try:
            answer = await self.forward.send(node, request, body)
            code = refusal_code(answer)
            return answer
        except NotSent:
            return None
        except Broken as error:
            self.outcomes["node_lost"] += 1
            raise node_lost(node, error) from error
        finally:
            if code:
                self.cluster.refused(node.url, now, code)

    async def from_any(self, request: web.Request, body: bytes = b"") -> web.Response:
        """What any node answers: all of them would answer the same."""
        for node in self.cluster.answering()[:3]:
            try:
                return (await self.forward.send(node, request, body)).response()
            except (NotSent, Broken):
                continue
        raise no_node(self.cluster)


GATEWAY = web.AppKey("gateway", Gateway)


async def to_its_node(request: web.Request) -> web.Response:
    """Hands a request about a session to the node in its id."""
    gateway, resource = request.app[GATEWAY], request.match_info["id"]
    node = gateway.cluster.named(owner(resource))
    if node is None:
        raise no_session(resource)
    return (await gateway.send(node, request, await read_body(request))).response()


async def of_any(request: web.Request) -> web.Response:
    """Hands a request that all nodes answer alike to one of them."""
    return await request.app[GATEWAY].from_any(request)


def refusal_code(answer: Answer) -> str:
    """The code of a node's error; empty for an answer that is none."""
    if answer.status < 400:
        return ""
    try:
        return str(json.loads(answer.body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return f"http_{answer.status}"


def no_node(cluster: Cluster) -> Refusal:
    return Refusal(503, "no_node", f"no node takes sessions now: {cluster.reason()}", retry_after=2)


def node_lost(node: Node, error: Exception) -> Refusal:
    return Refusal(503, "node_lost", f"the node {node.name} did not answer: {error}", retry_after=1)


def no_session(resource: str) -> Refusal:
    return Refusal(404, "no_session", f"no session {resource[:40]!r} is open")
