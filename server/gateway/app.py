"""The gateway: one address for the clients of many nodes.

Requests go on to the nodes by plain HTTP. Media never come here: a client and its node exchange them directly.
Any number of gateways may stand beside each other; none knows of the others.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvloop
from aiohttp import web

from server import logs
from server.api.access import ask_token, doorkeeper_of
from server.api.app import bound, connection_table
from server.api.endpoints import page
from server.api.guards import check_request, say_headers
from server.api.keys import DOORKEEPER, EXPOSURE, REFUSALS
from server.api.metrics import metrics_app
from server.api.request_log import INTERVAL, name_requests
from server.api.whip import cross_origin
from server.gateway import overview, sessions, streams
from server.gateway.edge import errors_as_json
from server.gateway.gateway import GATEWAY, Gateway
from server.gateway.membership import Membership, membership
from server.gateway.settings import GatewaySettings

logger = logging.getLogger(__name__)


def create_gateway(settings: GatewaySettings, nodes: Membership) -> web.Application:
    """The application of a gateway. It probes its nodes from startup to cleanup."""
    middlewares = [name_requests, cross_origin, errors_as_json, check_request, ask_token]
    app = web.Application(middlewares=middlewares, client_max_size=settings.max_body)
    app[REFUSALS] = logs.Sparing(INTERVAL)
    app[GATEWAY] = Gateway(settings, nodes)
    app[EXPOSURE] = settings
    app[DOORKEEPER] = doorkeeper_of(settings)
    for part in (overview, sessions, streams):
        app.add_routes(part.routes())
    app.add_routes([web.get("/", page), web.get("/{file}", page)])
    app.cleanup_ctx.append(app[GATEWAY].run)
    app.on_response_prepare.append(say_headers)
    return app


async def serve_until_told(settings: GatewaySettings, nodes: Membership) -> None:
    """Serves until SIGINT or SIGTERM."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    app = create_gateway(settings, nodes)
    table = connection_table(settings)
    async with bound(app, settings.host, settings.port, table) as address, administered(settings, app):
        print(f"AVIS gateway listens on {address}", flush=True)
        await stop.wait()


@asynccontextmanager
async def administered(settings: GatewaySettings, app: web.Application) -> AsyncIterator[None]:
    """Serves the admin port beside the gateway, where there is to be one."""
    if settings.admin_port is None:
        yield
        return
    admin = metrics_app([overview.GatewayCollector(app[GATEWAY])], settings.public_host)
    async with bound(admin, settings.admin_host, settings.admin_port) as address:
        logger.info("metrics at %s/metrics", address)
        yield


def serve(settings: GatewaySettings) -> None:
    """Runs the gateway until it is told to end.

    Raises UsageError for a list of nodes that is none, or when it would let everybody in without being told.
    """
    settings.check_exposure()
    nodes = membership(settings.nodes, settings.nodes_dns, settings.nodes_file)
    logs.set_up(settings.log_level, settings.log_format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve_until_told(settings, nodes))
