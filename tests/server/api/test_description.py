"""The contract that is served: every route in it, every message of the data channel in its form, and no request that
it allows or forbids is answered otherwise than it says."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from server.api.app import create_app
from server.api.description import OPERATIONS, openapi
from server.api.keys import SESSIONS
from server.commands.checkup import Checkup
from server.sessions import channel
from server.sessions.channel import TOLD
from server.settings import read_settings
from server.simulation.process import SimulatedProcess
from server.simulation.simulation import SimulatedDevice


@pytest.fixture
async def server():
    app = create_app(read_settings())

    async def start_device():
        return SimulatedProcess(SimulatedDevice(seconds=0.01))

    app[SESSIONS].worker.start_device = start_device
    async with TestServer(app) as server:
        await app[SESSIONS].worker.settled()
        yield server


def test_every_route_is_described():
    app = create_app(read_settings())
    served = {(route.method.lower(), route.resource.canonical) for route in app.router.routes()}
    of_others = {path for _, path in served if path in ("/", "/{file}") or path.startswith("/cluster/")}
    assert {one for one in served if one[1] not in of_others and one[0] != "head"} == set(OPERATIONS)


async def test_both_descriptions_are_served_and_are_schemas(server):
    async with ClientSession() as http:
        async with http.get(server.make_url("/openapi.json")) as reply:
            described = await reply.json()
        async with http.get(server.make_url("/channel.json")) as reply:
            messages = await reply.json()
    assert described == json.loads(json.dumps(openapi())) and described["openapi"] == "3.1.0"
    Draft202012Validator.check_schema(messages)
    for schema in described["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    text = json.dumps(described)
    for reference in set(text.split('"#/components/schemas/')[1:]):
        assert reference.split('"')[0] in described["components"]["schemas"]


async def test_what_a_session_tells_has_the_form_that_is_served(server):
    """Of a real session: chunk reports and events, as they come over the data channel."""
    validator = Draft202012Validator(channel.schema())
    async with ClientSession() as http:
        checkup = Checkup(str(server.make_url("")).rstrip("/"), http)
        try:
            for step in (Checkup.offer, Checkup.ice, Checkup.dtls, Checkup.media):
                await step(checkup)
            server.app[SESSIONS].dispatch.on_state("ready")
        finally:
            await checkup.close()
    assert any("chunk" in message for message in checkup.reports)
    for message in checkup.reports:
        validator.validate(message)
        TOLD.validate_python(message)


@pytest.mark.parametrize("wrong", [{"event": "rung", "rung": "best"}, {"event": "party"}, {"chunk": 1}, {}])
def test_another_form_is_seen(wrong):
    assert not Draft202012Validator(channel.schema()).is_valid(wrong)
    with pytest.raises(ValidationError):
        TOLD.validate_python(wrong)


@pytest.mark.parametrize("phase, least", [("coverage", 500), pytest.param("fuzzing", 100, marks=pytest.mark.slow)])
async def test_no_request_is_answered_otherwise_than_described(server, tmp_path, phase, least):
    """schemathesis: values at the bounds of what the schemas allow, and beyond, on every route; or values by chance."""
    url = str(server.make_url("/openapi.json"))
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = ["run", url, "--max-examples=20", "--seed=7", f"--checks={checks}", f"--phases={phase}"]
    tool = Path(sys.executable).with_name("schemathesis")
    env = {**os.environ, "SCHEMATHESIS_HOOKS": "sdp_serializer", "PYTHONPATH": str(Path(__file__).parent)}
    process = await asyncio.create_subprocess_exec(
        tool,
        *command,
        "--no-color",
        env=env,
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(120):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, output.decode()[-4000:]
    generated, passed = map(int, re.search(rb"(\d+) generated, (\d+) passed", output).groups())
    assert generated == passed > least, output.decode()[-4000:]
    assert not len(server.app[SESSIONS])
