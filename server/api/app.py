"""The server: HTTP, sessions and the device put together, started and ended in order."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import uvloop
from aiohttp import web

from core.errors import UsageError
from server import logs
from server.api import cluster, description, whip
from server.api.access import ask_token, doorkeeper_of
from server.api.addresses import is_within
from server.api.connections import ConnectionTable, Door, connections_within
from server.api.drain import let_sessions_end
from server.api.endpoints import routes
from server.api.errors import errors_as_json
from server.api.guards import check_request, say_headers, serving
from server.api.keys import DOORKEEPER, EXPOSURE, PUSHES, REFUSALS, SESSIONS, SOURCES, STREAMS, VITALS
from server.api.metrics import admin_app
from server.api.request_log import INTERVAL, name_requests
from server.api.vitals import Vitals
from server.certificates.keys import read_private
from server.exposure import Exposure
from server.pushes.config import pushes_of
from server.pushes.push import Push
from server.sessions.sessions import Sessions
from server.settings import Settings
from server.sources.config import sources_of
from server.sources.sources import Sources
from server.values import is_loopback
from server.webrtc.versions import check_versions

logger = logging.getLogger(__name__)


def create_app(settings: Settings) -> web.Application:
    """The application. Its sessions and its device live from startup to cleanup.

    Raises RuntimeError when a WebRTC library is not of the known version.
    """
    check_versions()
    middlewares = [name_requests, errors_as_json, check_request, ask_token]
    app = web.Application(middlewares=middlewares, client_max_size=settings.max_body)
    app[SESSIONS] = Sessions(settings)
    app[EXPOSURE] = settings
    app[DOORKEEPER] = doorkeeper_of(settings)
    app[VITALS] = Vitals()
    app[REFUSALS] = logs.Sparing(INTERVAL)
    app.add_routes([*description.routes(), *routes()])
    app.cleanup_ctx.append(run_sessions)
    whip.attach(app)
    app[SOURCES] = Sources(app[STREAMS], sources_of(settings))
    pushes = pushes_of(settings).items()
    app[PUSHES] = {name: Push(name, config, app[STREAMS], app[SOURCES]) for name, config in pushes}
    app.cleanup_ctx.append(run_relays)
    cluster.attach(app)
    app.on_response_prepare.append(say_headers)
    return app


async def run_sessions(app: web.Application) -> AsyncIterator[None]:
    """Runs the device while the application lives; ends sessions first, then the device."""
    sessions = app[SESSIONS]
    app[VITALS].keep("device's task", sessions.run)
    yield
    await sessions.close()
    await app[VITALS].close()


async def run_relays(app: web.Application) -> AsyncIterator[None]:
    """Reads the sources and pushes while the application lives; stops before the streams between them."""
    relays = {f"push {name}": push.run for name, push in app[PUSHES].items()}
    relays |= {f"source {name}": source.run for name, source in app[SOURCES].all.items()}
    for name, run in relays.items():
        app[VITALS].keep(name, run)
    yield
    for name in relays:
        await app[VITALS].release(name)


@asynccontextmanager
async def listening(settings: Settings, app: web.Application) -> AsyncIterator[str]:
    """Serves `app` where its clients look for it, and yields its address."""
    async with bound(app, settings.host, settings.port, connection_table(settings), app[VITALS]) as address:
        yield address


@asynccontextmanager
async def bound(
    app: web.Application,
    host: str,
    port: int,
    table: ConnectionTable | None = None,
    vitals: Vitals | None = None,
) -> AsyncIterator[str]:
    """Serves `app` and yields its address; on the way out, no connection is waited for.

    Its connections stay within the limits of `table`; `vitals` watch whether it listens.
    """
    app.middlewares.insert(0, serving)
    runner = web.AppRunner(app, shutdown_timeout=0.5, handle_signals=False)
    await runner.setup()
    assert runner.server is not None
    watched = vitals or Vitals()
    door = Door(runner.server, table or ConnectionTable(connections_within(256)), host, port)
    try:
        port = await door.open()
        watched.keep(f"listener on port {port}", door.watch)
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
    finally:
        await watched.release(f"listener on port {port}")
        door.close()
        await runner.cleanup()


def connection_table(settings: Exposure) -> ConnectionTable:
    """The limits of one port's connections."""

    def exempt(address: str) -> bool:
        return is_loopback(address) or is_within(address, settings.trusted_proxies)

    return ConnectionTable(
        connections_within(settings.max_connections),
        settings.connections_each,
        settings.head_timeout,
        settings.keepalive_timeout,
        exempt,
    )


@asynccontextmanager
async def administered(settings: Settings, app: web.Application) -> AsyncIterator[str | None]:
    """Serves the admin port beside `app`, where there is to be one, and yields its address."""
    if settings.admin_port is None:
        yield None
        return
    admin = admin_app(app[SESSIONS], settings.public_host, app[SOURCES], app[PUSHES])
    table = connection_table(settings)
    async with bound(admin, settings.admin_host, settings.admin_port, table, app[VITALS]) as address:
        logger.info("metrics at %s/metrics", address)
        yield address


async def serve_until_told(settings: Settings) -> None:
    """Serves until SIGINT, SIGTERM or SIGHUP. Raises UsageError when the device can never serve."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(settings.max_sessions + 4, thread_name_prefix="avis"))
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    app = create_app(settings)
    async with listening(settings, app) as address, administered(settings, app):
        logger.info("listening on %s", address)
        say(f"AVIS listens on {address}")
        devices = app[SESSIONS].devices
        await first_of(loop.create_task(stop.wait()), loop.create_task(devices.settled()))
        if devices.state == "failed":
            raise UsageError(devices.reason or "the device cannot be used")
        if not stop.is_set():
            say(f"AVIS is ready: model {settings.model} on {devices.name}")
        await stop.wait()
        await let_sessions_end(app[SESSIONS], settings.drain_patience)
        logger.info("shutting down")


async def first_of(*tasks: asyncio.Task[object]) -> None:
    """Waits for the first task to end, and cancels the others."""
    _, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()


def say(line: str) -> None:
    """Tells the user something, if anybody still reads what this program writes."""
    try:
        print(line, flush=True)
    except (OSError, ValueError):  # the reader of a pipe has gone
        logger.info("nobody reads: %s", line)


def serve(settings: Settings) -> None:
    """Runs the server until it is told to end.

    Raises UsageError when it would let everybody in without being told, or has a key that is none.
    """
    settings.check_exposure()
    if settings.certificate_key:
        read_private(settings.certificate_key)
    logs.set_up(settings.log_level, settings.log_format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve_until_told(settings))
