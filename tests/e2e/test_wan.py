"""The paper's backbone behind the real server: what its ladder and its admission make of a large model."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession

from server.api.app import create_app, listening
from server.api.keys import SESSIONS
from server.loadtest.client import Client, ClientConfig, footage_of
from server.settings import read_settings


@asynccontextmanager
async def serving(seconds, **settings):
    """A server of wan2.1-1.3b with random weights, warm after `seconds` at most: its sessions and its address."""
    settings = read_settings(port=0, model="wan2.1-1.3b", device="cpu", weights="random", threads=1, **settings)
    app = create_app(settings)
    async with listening(settings, app) as url:
        async with asyncio.timeout(seconds):
            await app[SESSIONS].worker.settled()
        worker = app[SESSIONS].worker
        assert worker.state == "ready", worker.reason
        yield app[SESSIONS], url


async def reports(url, enough, seconds, width, height, fps):
    """The reports on a session of a real client, until they are `enough`."""
    found, stop = [], asyncio.Event()

    def tell(message):
        assert message["event"] not in ("refused", "failed"), message
        if "chunk" in message.get("report", {}):
            found.append(message["report"])
        if enough(found):
            stop.set()

    config = ClientConfig(url=url, width=width, height=height, fps=fps, seconds=seconds)
    async with asyncio.timeout(seconds + 30):
        await Client(config, footage_of(config), tell).run(stop)
    return found


async def models(url):
    async with ClientSession() as http, http.get(f"{url}/models") as answer:
        [model] = (await answer.json())["models"]
        return model


def on_rung(rung, reports):
    return [report for report in reports if report["rung"] == rung]


def through_the_model(reports):
    return [report for report in reports if report["rung"] not in ("x_init", "passthrough")]


@pytest.mark.timeout(240)
async def test_a_session_is_restored_by_the_large_model_with_its_own_settings():
    """One layer of full width and four frames a second, so that a busy machine keeps up."""
    settings = {"model_settings": {"layers": 1, "window": 6}, "warm_sizes": ["128x64"], "latency_budget": 20}
    async with serving(120, **settings) as (_, url):
        model = await models(url)
        assert (model["name"], model["solver"]["num_steps"]) == ("wan2.1-1.3b", 2)
        found = await reports(url, lambda found: len(through_the_model(found)) >= 2, 90, 128, 64, fps=4)
        first, second, *_ = through_the_model(found)
        assert first["rung"] == "full" and first["guided"]
        assert {"denoise", "cache", "decode"} <= second["ms"].keys()
        assert max(first["residual"], second["residual"]) < 0.5


@pytest.mark.slow  # how slow the model is depends on the machine
@pytest.mark.timeout(240)
async def test_a_model_that_is_far_too_slow_holds_to_the_measurement_and_keeps_its_device():
    """No chunk goes through the model, since none would come in time; and none passes by what can be done."""
    settings = {"model_settings": {"layers": 4}, "warm_sizes": ["128x96"], "latency_budget": 1.0}
    async with serving(120, **settings) as (sessions, url):
        assert 3 * (await models(url))["chunk_seconds"]["128x96"] > 1.5, "too fast a machine: take more layers"
        found = await reports(url, lambda found: len(on_rung("x_init", found)) >= 5, 90, 256, 144, fps=16)
        assert len(on_rung("x_init", found)) >= 5
        assert len(through_the_model(found)) <= 1, "a device that was passed by for long is tried again"
        assert sessions.worker.restarts == 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_the_full_size_model_restores_a_session():
    """6 GB of random weights; a frame a second, since a chunk takes a CPU several."""
    async with serving(600, warm_sizes=["64x64"], latency_budget=30, step_timeout=120) as (sessions, url):
        found = await reports(url, lambda found: len(through_the_model(found)) >= 2, 200, 96, 96, fps=1)
        assert len(through_the_model(found)) >= 2
        assert sessions.worker.restarts == 0
