"""Prometheus' own tool on what we export and on the rules that we ship. Debian's package `prometheus` brings it."""

import asyncio
import subprocess
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from server.api.app import create_app
from server.api.keys import SESSIONS
from server.api.metrics import admin_app
from server.settings import read_settings
from server.simulation.process import SimulatedProcess
from server.simulation.simulation import SimulatedDevice

DOCKER = Path(__file__).parents[2] / "docker/prometheus"

pytestmark = pytest.mark.network


@pytest.mark.parametrize(
    "command",
    ["check rules alerts.yml", "test rules alerts_test.yml", "check config --syntax-only prometheus.yml"],
)
def test_promtool_takes_the_rules_and_the_configuration(command):
    run = subprocess.run(["promtool", *command.split()], cwd=DOCKER, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


async def test_promtool_takes_what_the_server_exports():
    app = create_app(read_settings())

    async def start_device():
        return SimulatedProcess(SimulatedDevice(seconds=0.01))

    app[SESSIONS].worker.start_device = start_device
    async with TestClient(TestServer(app)), TestClient(TestServer(admin_app(app[SESSIONS]))) as admin:
        await app[SESSIONS].worker.settled()
        text = await (await admin.get("/metrics")).text()
    command = ["promtool", "check", "metrics"]
    run = await asyncio.to_thread(subprocess.run, command, input=text, capture_output=True, text=True)
    assert run.returncode == 0 and not run.stderr, run.stdout + run.stderr
