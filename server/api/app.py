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
from server.api.access import ask_token
from server.api.drain import let_sessions_end
from server.api.endpoints import routes
from server.api.errors import errors_as_json
from server.api.keys import REFUSALS, SESSIONS
from server.api.metrics import admin_app
from server.api.request_log import INTERVAL, name_requests
from server.sessions.sessions import Sessions
from server.settings import Settings
from server.webrtc.versions import check_versions

logger = logging.getLogger(__name__)


def create_app(settings: Settings) -> web.Application:
    """The application. Its sessions and its device live from startup to cleanup.

    Raises RuntimeError when a WebRTC library is not of the known version.
    """
    check_versions()
    app = web.Application(middlewares=[name_requests, errors_as_json, ask_token], client_max_size=settings.max_body)
    app[SESSIONS] = Sessions(settings)
    app[REFUSALS] = logs.Sparing(INTERVAL)
    app.add_routes([*description.routes(), *routes()])
    app.cleanup_ctx.append(run_sessions)
    whip.attach(app)
    cluster.attach(app)
    return app


async def run_sessions(app: web.Application) -> AsyncIterator[None]:
    """Runs the device while the application lives; ends sessions first, then the device."""
    sessions = app[SESSIONS]
    task = asyncio.get_running_loop().create_task(sessions.run())
    task.add_done_callback(report_end)
    yield
    await sessions.close()
    task.cancel()
    await asyncio.wait([task])


def report_end(task: asyncio.Task[None]) -> None:
    """The device's task ends with the server, or when the device has failed for good; all else is a fault."""
    if not task.cancelled() and (error := task.exception()):
        logger.critical("the device's task failed", exc_info=error)


@asynccontextmanager
async def listening(settings: Settings, app: web.Application) -> AsyncIterator[str]:
    """Serves `app` where its clients look for it, and yields its address."""
    async with bound(app, settings.host, settings.port) as address:
        yield address


@asynccontextmanager
async def bound(app: web.Application, host: str, port: int) -> AsyncIterator[str]:
    """Serves `app` and yields its address; on the way out, no connection is waited for."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5, handle_signals=False)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield f"http://{f'[{host}]' if ':' in host else host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def administered(settings: Settings, app: web.Application) -> AsyncIterator[str | None]:
    """Serves the admin port beside `app`, where there is to be one, and yields its address."""
    if settings.admin_port is None:
        yield None
        return
    async with bound(admin_app(app[SESSIONS]), settings.admin_host, settings.admin_port) as address:
        logger.info("metrics at %s/metrics", address)
        yield address


async def serve_until_told(settings: Settings) -> None:
    """Serves until SIGINT or SIGTERM. Raises UsageError when the device can never serve."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(settings.max_sessions + 4, thread_name_prefix="avis"))
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    app = create_app(settings)
    async with listening(settings, app) as address, administered(settings, app):
        logger.info("listening on %s", address)
        print(f"AVIS listens on {address}", flush=True)
        worker = app[SESSIONS].worker
        await first_of(loop.create_task(stop.wait()), loop.create_task(worker.settled()))
        if worker.state == "failed":
            raise UsageError(worker.reason or "the device cannot be used")
        if not stop.is_set():
            print(f"AVIS is ready: model {settings.model} on {worker.device_name}", flush=True)
        await stop.wait()
        await let_sessions_end(app[SESSIONS], settings.drain_patience)
        logger.info("shutting down")


async def first_of(*tasks: asyncio.Task[object]) -> None:
    """Waits for the first task to end, and cancels the others."""
    _, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()


def serve(settings: Settings) -> None:
    """Runs the server until it is told to end."""
    logs.set_up(settings.log_level, settings.log_format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve_until_told(settings))
