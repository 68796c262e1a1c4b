"""Two real servers and a gateway, each its own process, with real clients: a drain and a death that users survive."""

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import pytest_asyncio
from aiohttp import ClientSession
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from tests.e2e.test_loopback import Client, Numbered

pytestmark = [pytest.mark.asyncio(loop_scope="module")]

NODE = {
    "--port": "0",
    "--weights": "random",
    "--warm-sizes": "128x96",
    "--max-sessions": "2",
    "--admission": "places",
    "--latency-budget": "10",
    "--threads": "1",
    "--log-level": "warning",
}
SILENCE = 2.5
"""seconds without a picture after which the page takes its server for lost"""


class Program:
    """`avis COMMAND`, from the line that tells its address to its end."""

    def __init__(self, process, url):
        self.process, self.url = process, url

    @classmethod
    async def start(cls, *arguments):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server", *arguments), stdout=asyncio.subprocess.PIPE, env=environment
        )
        line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
        return cls(process, line.split()[-1])

    async def end(self):
        if self.process.returncode is None:
            self.process.terminate()
        await self.process.wait()


async def start_node(name):
    options = [word for pair in NODE.items() for word in pair]
    return await Program.start("serve", "--node", name, *options)


class Site:
    def __init__(self, nodes, gateway, http):
        self.nodes, self.gateway, self.http = nodes, gateway, http

    @asynccontextmanager
    async def client(self, first=0, **options):
        client = Client(self.http, self.gateway.url, first, **options)
        await client.open()
        assert client.status == 201, client.answer
        await client.until(lambda: client.numbers)
        client.node = client.answer["id"].partition(".")[0]
        try:
            yield client
        finally:
            await client.vanish()

    async def until_live(self, count):
        async with asyncio.timeout(60):
            while True:
                async with self.http.get(f"{self.gateway.url}/readyz") as reply:
                    if reply.status == 200 and (await reply.json())["nodes"] == count:
                        return
                await asyncio.sleep(0.2)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def site():
    first, second = await asyncio.gather(start_node("a"), start_node("b"))
    nodes = {"a": first, "b": second}
    gateway = await Program.start("gateway", "--port", "0", "--nodes", f"{first.url},{second.url}")
    try:
        async with ClientSession() as http:
            found = Site(nodes, gateway, http)
            await found.until_live(2)
            yield found
    finally:
        await asyncio.gather(gateway.end(), first.end(), second.end())


def longest_gap(times):
    return max((b - a for a, b in pairwise(times)), default=0.0)


def watch(client, times):
    """Notes when each picture comes."""

    async def run():
        seen = 0
        while True:
            client.new.clear()
            await client.new.wait()
            times.extend((len(client.numbers) - seen) * [asyncio.get_running_loop().time()])
            seen = len(client.numbers)

    return asyncio.create_task(run())


async def test_a_drain_moves_a_session_and_its_picture_never_stands_still(site):
    """The client hears of the drain, dials through the gateway, and leaves the old node at the first new picture."""
    times = []
    async with site.client() as old:
        await old.until(lambda: len(old.numbers) > 15)
        watching = [watch(old, times)]
        async with site.http.post(f"{site.nodes[old.node].url}/cluster/drain", json={"seconds": 30}) as reply:
            assert (reply.status, await reply.json()) == (202, {"sessions": 1})
        await old.until(lambda: any(message.get("event") == "draining" for message in old.messages))
        async with site.client(first=512, resume=old.answer["id"]) as new:
            watching.append(watch(new, times))
            assert new.answer["resumed"] is False
            assert new.node != old.node
            await new.until(lambda: len(new.numbers) > 20)
            await old.close()
            await new.until(lambda: len(new.numbers) > 40)
            assert all(number >= 512 for number in new.numbers), "pictures of the old connection"
    for task in watching:
        task.cancel()
    assert longest_gap(sorted(times)) < SILENCE
    async with site.http.delete(f"{site.nodes[old.node].url}/cluster/drain") as reply:
        assert reply.status == 204
    await site.until_live(2)


async def dial(site, path, pc):
    """Connects a standard client at `path`, and returns where its session is."""
    await pc.setLocalDescription(await pc.createOffer())
    headers = {"Content-Type": "application/sdp"}
    async with site.http.post(site.gateway.url + path, data=pc.localDescription.sdp, headers=headers) as reply:
        answer, location = await reply.text(), reply.headers.get("Location", "")
        assert reply.status == 201, answer
    await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    return location


async def test_a_standard_client_publishes_and_another_watches_through_the_gateway(site):
    publisher, player = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
    publisher.addTransceiver(Numbered(0), direction="sendonly")
    receiver = player.addTransceiver("video", direction="recvonly").receiver
    published = await dial(site, "/whip/show?mode=simulate&size=128x96&fps=16", publisher)
    watched = await dial(site, "/whep/show", player)
    async with asyncio.timeout(60):
        sizes = {(frame.width, frame.height) for frame in [await receiver.track.recv() for _ in range(20)]}
    assert sizes == {(128, 96)}
    assert published.split("/")[-1].partition(".")[0] == watched.split("/")[-1].partition(".")[0]
    for location in (watched, published):
        async with site.http.delete(site.gateway.url + location) as reply:
            assert reply.status == 200
    await asyncio.gather(publisher.close(), player.close())


async def test_a_session_of_a_killed_node_goes_on_elsewhere_and_others_lose_nothing(site):
    loop, times = asyncio.get_running_loop(), []
    async with site.client() as one, site.client(first=100) as other:
        assert {one.node, other.node} == {"a", "b"}
        await one.until(lambda: len(one.numbers) > 20)
        watching = watch(other, times)
        count = len(other.numbers)
        site.nodes[one.node].process.send_signal(signal.SIGKILL)
        killed = loop.time()
        await asyncio.sleep(SILENCE)
        async with site.client(first=512, resume=one.answer["id"]) as again:
            back = loop.time() - killed
            assert again.node == other.node
            assert again.answer["resumed"] is False
            await again.until(lambda: len(again.numbers) > 20)
        watching.cancel()
        print(f"restored after {back:.1f} s; longest gap of the other session {longest_gap(times):.2f} s")
        assert back < 10
        assert longest_gap(times) < SILENCE
        numbers = sorted(set(other.numbers[count:]))
        steps = [after - before for before, after in pairwise(numbers)]
        assert max(steps) <= 6, f"half a chunk of the other session is missing: {numbers}"
        assert numbers[-1] - numbers[0] < 1.2 * len(numbers), "a slow machine drops a picture here and there"
    async with site.http.get(f"{site.gateway.url}/sessions/{one.answer['id']}") as reply:
        assert reply.status == 404
