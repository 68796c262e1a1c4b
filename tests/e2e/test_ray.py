"""Three nodes on a real Ray cluster, with real clients: servers outlive their actors and Ray itself."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time

import psutil
import pytest
from aiohttp import ClientSession

from server.gateway.supervisor import born
from tests.e2e.test_cluster import SILENCE, Program, Site, longest_gap, watch

pytest.importorskip("ray", reason='Ray is not installed: pip install "avis-server[cluster]"')

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]

TOKEN = "of-the-nodes"
SERVE = ["--port", "0", "--weights", "random", "--warm-sizes", "128x96", "--max-sessions", "2", "--threads", "1"]
SERVE += ["--admission", "places", "--latency-budget", "10"]
START_WAIT = "120"
"""seconds that a raylet may take to start: Ray's own 30 are too few on a busy machine"""


@pytest.fixture
def ray_token(tmp_path, monkeypatch):
    path = tmp_path / "ray-token"
    path.write_text("0123456789abcdef" * 4)
    for name, value in {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(path),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": START_WAIT,
        "PYTHONPATH": os.getcwd(),
    }.items():
        monkeypatch.setenv(name, value)


class RayCluster:
    """Ray's processes, under one that we started."""

    def __init__(self, process, address):
        self.process, self.address = process, address

    @classmethod
    async def start(cls):
        """With one retry: a raylet gives up on a busy machine."""
        for _ in range(2):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.e2e.ray_cluster"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
            async for line in process.stdout:
                if line.startswith(b"AVIS test cluster at"):
                    return cls(process, line.decode().split()[-1])
            await process.wait()
        pytest.fail("Ray did not start")

    async def kill(self, spared):
        """Kills every process of Ray at once, but for the servers in `spared` and what they started."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        kept = {pid for pid in spared}
        kept |= {child.pid for pid in spared for child in psutil.Process(pid).children(recursive=True)}
        for process in family:
            if process.pid not in kept:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.kill()
        await self.process.wait()

    async def end(self):
        if self.process.returncode is None:
            self.process.stdin.close()
            await self.process.wait()


async def avis(*words):
    """Runs a command to its end: its exit code and what it wrote."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "server", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 240)
    return process.returncode, out.decode(), err.decode()


async def up(cluster, tmp_path):
    """Has a server on each machine; what `avis cluster up` tells of them."""
    common = ["--address", cluster.address, "--folder", str(tmp_path / "run"), "--node-token", TOKEN]
    code, _, err = await avis("cluster", "up", *common, "--json", str(tmp_path / "up.json"), "--", *SERVE)
    assert code == 0, err
    file = str(tmp_path / "nodes")
    code, _, err = await avis("cluster", "watch", *common, "--nodes-file", file, "--once", "--autoscale", "--", *SERVE)
    assert code == 0, err
    return json.loads((tmp_path / "up.json").read_text())["nodes"]


@contextlib.asynccontextmanager
async def behind_a_gateway(tmp_path):
    words = ["--port", "0", "--nodes-file", str(tmp_path / "nodes"), "--node-token", TOKEN, "--token", "secret"]
    gateway = await Program.start("gateway", *words)
    try:
        async with ClientSession(headers={"Authorization": "Bearer secret"}) as http:
            yield Site({}, gateway, http)
    finally:
        await gateway.end()


async def test_servers_on_ray_are_restarted_outlive_their_actors_and_ray_and_are_adopted(ray_token, tmp_path):
    cluster = await RayCluster.start()
    pids = set()
    try:
        nodes = await up(cluster, tmp_path)
        assert len({node["name"] for node in nodes}) == 3
        pids |= {node["pid"] for node in nodes}
        async with behind_a_gateway(tmp_path) as site:
            await site.until_live(3)
            await a_killed_server_is_restarted(site, nodes, cluster, tmp_path)
            nodes = await up(cluster, tmp_path)
            pids |= {node["pid"] for node in nodes}
            await site.until_live(3)
            cluster = await a_dead_ray_is_not_noticed(site, nodes, cluster, tmp_path)
    finally:
        await cluster.end()
        for pid in pids:
            if born(pid):
                os.kill(pid, signal.SIGKILL)


async def a_killed_server_is_restarted(site, nodes, cluster, tmp_path):
    """Its session goes on elsewhere; the actor starts a server again, under a new name."""
    async with site.client() as one:
        await one.until(lambda: len(one.numbers) > 20)
        victim = next(node for node in nodes if node["name"] == one.node)
        os.kill(victim["pid"], signal.SIGKILL)
        killed = time.monotonic()
        await asyncio.sleep(SILENCE)
        async with site.client(first=512, resume=one.answer["id"]) as again:
            print(f"restored after {time.monotonic() - killed:.1f} s")
            assert again.node != one.node and again.answer["resumed"] is False


async def a_dead_ray_is_not_noticed(site, nodes, cluster, tmp_path):
    """All of Ray is killed while a session runs; a new Ray adopts the servers that ran on."""
    times = []
    async with site.client() as client:
        watching = watch(client, times)
        await cluster.kill({node["pid"] for node in nodes})
        await asyncio.sleep(15)
        assert all(born(node["pid"]) for node in nodes), "a server died with Ray"
        print(f"longest gap with Ray dead {longest_gap(times):.2f} s in {times[-1] - times[0]:.0f} s")
        assert longest_gap(times) < 2.0
        cluster = await RayCluster.start()
        adopted = await up(cluster, tmp_path)
        watching.cancel()
    assert {node["pid"] for node in adopted} == {node["pid"] for node in nodes}
    assert all(node["adopted"] for node in adopted)
    return cluster
