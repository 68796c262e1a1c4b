"""Two real device processes of one server: when one is killed, its session goes on with the other."""

import asyncio
import os
import signal

from aiohttp import ClientSession

from server.api.app import create_app, listening
from server.api.keys import SESSIONS
from server.settings import read_settings
from tests.e2e.test_cluster import longest_gap, watch
from tests.e2e.test_loopback import FPS, HEIGHT, WIDTH, Client


async def test_a_session_of_a_killed_device_goes_on_with_the_other_at_once():
    settings = read_settings(
        port=0,
        devices="cpu,cpu",
        weights="random",
        warm_sizes=[f"{WIDTH}x{HEIGHT}"],
        admission="places",
        latency_budget=10,
        threads=1,
    )
    app, times = create_app(settings), []
    async with listening(settings, app) as url, ClientSession() as http:
        sessions = app[SESSIONS]
        async with asyncio.timeout(90):
            await asyncio.gather(*(worker.settled() for worker in sessions.devices.workers))
        client = await Client(http, url).open()
        assert client.status == 201, client.answer
        await client.until(lambda: len(client.numbers) > 20)
        watching = watch(client, times)
        home = next(dispatch for dispatch in sessions.devices.all if dispatch.reserved)
        os.kill(home.worker.pid, signal.SIGKILL)
        await client.until(lambda: home.reserved == 0)
        moved = len(client.reports())
        await client.until(lambda: any(report["guided"] for report in client.reports()[moved:]))
        count = len(client.numbers)
        await client.until(lambda: len(client.numbers) > count + FPS)
        watching.cancel()
        _, report = await client.report()
        sessions.check_integrity()
        await client.close()
    print(f"longest gap {longest_gap(times):.2f} s; {report['device_losses']} device lost")
    assert report["device_losses"] == 1
    assert longest_gap(times) < 2.5
