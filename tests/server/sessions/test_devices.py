"""Several devices of one server: sessions are spread over them, and move when one is lost."""

import asyncio

import pytest
from aiohttp.test_utils import TestClient, TestServer

from server.api.app import create_app
from server.api.keys import SESSIONS
from server.settings import read_settings
from server.simulation.process import SimulatedProcess
from server.simulation.simulation import SimulatedDevice


class Running:
    def __init__(self, http, sessions):
        self.http, self.sessions = http, sessions
        self.devices = sessions.devices

    def homes(self):
        """How many sessions each device has."""
        return [dispatch.reserved for dispatch in self.devices.all]

    async def lose(self, index, for_good=False):
        """Ends a device's process; `for_good`, no other ever starts."""
        worker = self.devices.all[index].worker
        if for_good:
            worker._backoff.limit = 0
        worker.device.die()
        worker.wake()
        await until(lambda: worker.state != "ready")


async def until(condition, seconds=10):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


@pytest.fixture
def serve():
    """`async with serve(devices="cpu,cpu", ...) as running`: a server on simulated devices."""
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def serve(**settings):
        app = create_app(read_settings(**{"devices": "cpu,cpu", "admission": "places", **settings}))
        sessions = app[SESSIONS]

        async def start_device():
            return SimulatedProcess(SimulatedDevice(seconds=0.01))

        for worker in sessions.devices.workers:
            worker.start_device = start_device
            worker._backoff.first = 0.3
        async with TestClient(TestServer(app)) as http:
            await until(lambda: all(worker.state == "ready" for worker in sessions.devices.workers))
            yield Running(http, sessions)
            sessions.check_integrity()

    return serve


async def open_sessions(running, offer, count):
    replies = [await running.http.post("/sessions", json=offer) for _ in range(count)]
    assert [reply.status for reply in replies] == [201] * count
    return [reply.headers["Location"] for reply in replies]


async def test_sessions_are_spread_over_the_devices_up_to_the_servers_own_number(serve, offer):
    async with serve(max_sessions=5) as running:
        urls = await open_sessions(running, offer, 5)
        assert sorted(running.homes()) == [2, 3]
        reply = await running.http.post("/sessions", json=offer)
        assert (reply.status, (await reply.json())["error"]["code"]) == (503, "full")
        for url in urls:
            assert (await running.http.delete(url)).status == 204
        assert running.homes() == [0, 0]


async def test_a_session_knows_what_its_own_device_has_loaded(serve, offer):
    """A certificate named the first device, whichever restored the session."""
    async with serve(max_sessions=2) as running:
        urls = await open_sessions(running, offer, 2)
        found = [running.devices.loaded(url.rpartition("/")[2]) for url in urls]
        assert {id(loaded) for loaded in found} == {id(worker.loaded) for worker in running.devices.workers}
        assert running.devices.loaded("nobody") is None


async def test_twice_as_many_offers_as_places_at_once_open_exactly_the_places(serve, offer):
    async with serve(max_sessions=4) as running:
        replies = await asyncio.gather(*(running.http.post("/sessions", json=offer) for _ in range(8)))
        assert sorted(reply.status for reply in replies) == [201] * 4 + [503] * 4
        assert running.homes() == [2, 2]


async def test_the_sessions_of_a_lost_device_move_to_the_other_and_new_ones_go_there(serve, offer):
    async with serve(max_sessions=8) as running:
        urls = await open_sessions(running, offer, 4)
        await running.lose(0)
        await until(lambda: running.homes() == [0, 4])
        running.sessions.check_integrity()
        assert (await running.http.get("/readyz")).status == 200, "one device is enough"
        for url in urls:
            assert (await running.http.get(url)).status == 200, "a session was cut off"
        await open_sessions(running, offer, 1)
        assert running.homes() == [0, 5]
        await until(lambda: running.devices.all[0].worker.state == "ready")
        await open_sessions(running, offer, 1)
        assert running.homes() == [1, 5]


async def test_a_session_that_finds_no_room_stays_until_its_device_is_back(serve, offer):
    async with serve(max_sessions=4) as running:
        await open_sessions(running, offer, 4)
        for dispatch in running.devices.all:
            dispatch.settings = dispatch.settings.model_copy(update={"max_sessions": 3})
            dispatch.admission.config = dispatch.admission.config.model_copy(update={"max_sessions": 3})
        await running.lose(0)
        await until(lambda: running.homes() == [1, 3])
        running.sessions.check_integrity()
        await until(lambda: running.devices.all[0].worker.state == "ready")
        assert len(running.sessions) == 4


async def test_room_that_comes_free_goes_to_a_session_of_a_device_that_is_gone_for_good(serve, offer):
    async with serve(max_sessions=4) as running:
        urls = await open_sessions(running, offer, 4)
        for dispatch in running.devices.all:
            dispatch.settings = dispatch.settings.model_copy(update={"max_sessions": 2})
            dispatch.admission.config = dispatch.admission.config.model_copy(update={"max_sessions": 2})
        await running.lose(0, for_good=True)
        assert running.homes() == [2, 2]
        on_second = next(url for url in urls if running.devices._homes[url.split("/")[-1]] is running.devices.all[1])
        assert (await running.http.delete(on_second)).status == 204
        assert running.homes() == [1, 2]


async def test_a_server_is_ready_with_its_first_device_and_failed_only_with_its_last(serve, offer):
    async with serve() as running:
        await running.lose(0, for_good=True)
        assert (await running.http.get("/readyz")).status == 200
        await running.lose(1, for_good=True)
        reply = await running.http.get("/readyz")
        assert reply.status == 503 and "failed" in (await reply.json())["error"]["message"]
        reply = await running.http.post("/sessions", json=offer)
        assert (await reply.json())["error"]["code"] == "no_device"


async def test_stats_tell_of_each_device(serve, offer):
    async with serve() as running:
        await open_sessions(running, offer, 3)
        stats = await (await running.http.get("/stats")).json()
        assert stats["device"]["state"] == "ready"
        assert [device["sessions"] for device in stats["devices"]] == [2, 1]
        models = await (await running.http.get("/models")).json()
        assert models["models"][0]["state"] == "ready"


@pytest.mark.parametrize("devices", ["cpu;cpu", "gpu", "cuda:x", "cuda:0,cuda:0", ",".join(["cpu"] * 65)])
def test_devices_that_are_none_are_one_sentence(devices):
    from core.errors import UsageError

    with pytest.raises(UsageError, match="devices"):
        read_settings(devices=devices)
