"""What the tests with clients of other makers share: the whole server in a process of its own, and a TURN server."""

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOKEN = "s3cret"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@asynccontextmanager
async def running(command, **options):
    """A process that is asked to end, and has to."""
    process = await asyncio.create_subprocess_exec(*command, **options)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise


@pytest.fixture
def process():
    return running


@pytest.fixture
def avis(tmp_path):
    """`async with avis(**settings) as url`: `avis serve` with the real tiny model, warm; TOKEN opens WHIP and WHEP."""

    @asynccontextmanager
    async def serve(**settings):
        fixed = {"port": 0, "token": TOKEN, "admission": "places", "bind": ["127.0.0.1"], "warm_sizes": ["128x96"]}
        told = {f"AVIS_{name.upper()}": value for name, value in {**fixed, **settings}.items()}
        plain = {name: value if isinstance(value, str) else json.dumps(value) for name, value in told.items()}
        log = tmp_path / "server.log"
        with log.open("wb") as errors:
            command = [sys.executable, "-m", "server", "serve"]
            pipe = asyncio.subprocess.PIPE
            environment = {**os.environ, **plain}
            async with running(command, cwd=ROOT, stdout=pipe, stderr=errors, env=environment) as server:
                url = None
                async with asyncio.timeout(120):
                    while line := (await server.stdout.readline()).decode():
                        url = line.split()[-1] if "listens on" in line else url
                        if "is ready" in line:
                            break
                assert server.returncode is None and line, log.read_text()
                yield url
        assert "Traceback" not in log.read_text(), log.read_text()

    return serve


@pytest.fixture
def turn(tmp_path):
    """`async with turn(*arguments) as port`: coturn on loopback."""
    program = shutil.which("turnserver")
    if program is None:
        pytest.skip("needs coturn: apt-get install coturn")

    @asynccontextmanager
    async def relay(*arguments):
        port, log = free_port(), tmp_path / "turn.log"
        command = [program, "-n", "-v", "--no-cli", "--no-tls", "--no-dtls", "--realm=avis", "--allow-loopback-peers"]
        command += ["--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", f"--listening-port={port}"]
        command += ["--denied-peer-ip=0.0.0.0-255.255.255.255", "--allowed-peer-ip=127.0.0.1"]
        command += [f"--pidfile={tmp_path}/turn.pid", "--log-file=stdout", f"--userdb={tmp_path}/turn.db"]
        with log.open("wb") as out:
            async with running([*command, *arguments], stdout=out, stderr=out) as process:
                async with asyncio.timeout(10):
                    while not await listens(port):
                        assert process.returncode is None, log.read_text()
                        await asyncio.sleep(0.05)
                yield port

    return relay


async def listens(port):
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
