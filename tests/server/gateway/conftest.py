"""Nodes with simulated devices and gateways before them, in one process, over real sockets."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from server.api.app import create_app
from server.api.keys import SESSIONS
from server.gateway.app import create_gateway
from server.gateway.gateway import GATEWAY
from server.gateway.membership import Static
from server.gateway.settings import read_gateway
from server.settings import read_settings
from server.simulation.process import SimulatedProcess
from server.simulation.simulation import SimulatedDevice

TOKEN = "of-the-nodes"


@dataclass
class Running:
    """An application that listens."""

    server: TestServer
    url: str

    @property
    def app(self):
        return self.server.app

    @property
    def sessions(self):
        return self.app[SESSIONS]

    @property
    def cluster(self):
        return self.app[GATEWAY].cluster


async def start_node(stack, name, port=0, **settings):
    """A node whose device is simulated."""
    app = create_app(read_settings(node=name, token=TOKEN, admission="places", **{"max_sessions": 2, **settings}))

    async def start_device():
        return SimulatedProcess(SimulatedDevice(seconds=0.01))

    app[SESSIONS].worker.start_device = start_device
    server = await stack.enter_async_context(TestServer(app, port=port))
    await app[SESSIONS].worker.settled()
    return Running(server, str(server.make_url("")).rstrip("/"))


async def start_gateway(stack, urls, **settings):
    settings = read_gateway(**{"nodes": urls, "token": "of-clients", "node_token": TOKEN, **settings})
    server = await stack.enter_async_context(TestServer(create_gateway(settings, Static(urls))))
    return Running(server, str(server.make_url("")).rstrip("/"))


async def until(condition, seconds=10):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)


@dataclass
class Site:
    """Some nodes, some gateways, and a client of theirs."""

    nodes: list
    gateways: list
    http: ClientSession
    stack: AsyncExitStack

    async def ask(self, method, path, gateway=0, **arguments):
        """(status, headers, JSON or text) of a request to one of the gateways."""
        async with self.http.request(method, self.gateways[gateway].url + path, **arguments) as reply:
            body = await (reply.json() if reply.content_type == "application/json" else reply.text())
            return reply.status, reply.headers, body

    def node(self, name):
        return next(node for node in self.nodes if node.sessions.settings.node == name)

    async def seen(self, state, name, gateway=0, seconds=10):
        """Waits until a gateway knows that a node is in this state."""

        def known():
            return any(n.name == name and n.state == state for n in self.gateways[gateway].cluster.nodes)

        await until(known, seconds)


@asynccontextmanager
async def site(names="abc", gateways=1, **settings):
    async with AsyncExitStack() as stack:
        nodes = [await start_node(stack, name, **settings) for name in names]
        urls = [node.url for node in nodes]
        entries = [await start_gateway(stack, urls) for _ in range(gateways)]
        headers = {"Authorization": "Bearer of-clients"}
        http = await stack.enter_async_context(ClientSession(headers=headers))
        for entry in entries:
            await until(lambda entry=entry: len(entry.cluster.live()) == len(nodes))
        yield Site(nodes, entries, http, stack)
        for node in nodes:
            node.sessions.check_integrity()


@pytest.fixture
async def three():
    async with site() as found:
        yield found
