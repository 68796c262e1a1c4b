"""`avis doctor URL`: each step of a connection that fails is named, in words that say what to do."""

import asyncio
import json
import re
import socket

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from server import cli
from server.api.app import create_app
from server.api.keys import SESSIONS
from server.commands import checkup
from server.commands.checkup import examine
from server.scheduling.admission import Refuse
from server.settings import read_settings
from server.simulation.process import SimulatedProcess
from server.simulation.simulation import SimulatedDevice


@pytest.fixture
async def serve():
    """Starts a server with a simulated device; `rewrite` may spoil the SDP of its answers."""
    servers = []

    async def start(rewrite=None, **settings):
        app = create_app(read_settings(**settings))

        async def start_device():
            return SimulatedProcess(SimulatedDevice(seconds=0.01))

        @web.middleware
        async def spoil(request, handler):
            response = await handler(request)
            if rewrite and request.method == "POST" and response.status == 201:
                body = json.loads(response.text)
                response.text = json.dumps({**body, "sdp": rewrite(body["sdp"])})
            return response

        app.middlewares.insert(0, spoil)
        app[SESSIONS].worker.start_device = start_device
        server = TestServer(app)
        await server.start_server()
        servers.append(server)
        await app[SESSIONS].worker.settled()
        return f"http://127.0.0.1:{server.port}", app[SESSIONS]

    yield start
    for server in servers:
        await server.close()


def states(findings):
    return {finding.name: finding.state for finding in findings}


def fault(findings):
    [found] = [finding for finding in findings if finding.state == "fault"]
    assert found is findings[-1], "what follows was not tried"
    return found


async def test_a_server_that_works_passes_every_step_and_is_left_as_it_was(serve):
    url, sessions = await serve()
    findings = await examine(url)
    assert states(findings) == {
        "signalling": "ok", "offer": "ok", "turn": "note", "ice": "ok", "dtls": "ok", "media": "ok", "reports": "ok",
    }, findings  # fmt: skip
    assert not len(sessions)


async def test_nobody_there_is_said_in_words():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        found = fault(await examine(f"http://127.0.0.1:{unused.getsockname()[1]}"))
    assert found.name == "signalling" and "nobody answers" in found.words and "not tried: offer, turn" in found.words


async def test_another_kind_of_server_is_told_from_ours():
    async def healthz(request):
        return web.Response(text="<html>")

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    async with TestServer(app) as server:
        found = fault(await examine(f"http://127.0.0.1:{server.port}"))
    assert found.name == "signalling" and "no AVIS server" in found.words


async def test_a_token_is_asked_for_and_taken(serve):
    url, _ = await serve(token="secret")
    assert "--token" in fault(await examine(url)).words
    assert "--token" in fault(await examine(url, "wrong")).words
    assert "fault" not in states(await examine(url, "secret")).values()


async def test_a_full_server_says_when_to_come_back(serve, monkeypatch):
    url, sessions = await serve(max_sessions=1)
    monkeypatch.setattr(sessions.dispatch, "refuse", lambda *_: Refuse("no place", 7))
    found = fault(await examine(url))
    assert found.name == "offer" and "503" in found.words and "ask again in 7 s" in found.words


async def test_no_path_is_a_fault_of_ice(serve, monkeypatch):
    monkeypatch.setattr(checkup, "CONNECTS", 1.5)

    def unheard(sdp):
        """Addresses of nobody would not do: the server finds its client by itself."""
        return re.sub(r"a=ice-pwd:\S+", "a=ice-pwd:" + "x" * 24, sdp)

    url, sessions = await serve(unheard)
    found = fault(await examine(url))
    assert found.name == "ice" and "no UDP between here and host " in found.words
    assert "--udp-ports" in found.words and not len(sessions)


async def test_keys_that_do_not_fit_are_a_fault_of_dtls(serve):
    """With all the time that there is: on a busy machine a path may take seconds, and the keys come after it."""

    def other_key(sdp):
        return re.sub(r"a=fingerprint:sha-256 \S\S", "a=fingerprint:sha-256 00", sdp)

    url, _ = await serve(other_key)
    assert fault(await examine(url)).name == "dtls"


async def test_frames_that_do_not_come_back_are_a_fault_of_media(serve, monkeypatch):
    monkeypatch.setattr(checkup, "PLAYS", 1.0)

    async def never(self):
        await asyncio.Event().wait()

    monkeypatch.setattr(checkup.SourceTrack, "recv", never)
    url, _ = await serve()
    found = fault(await examine(url))
    assert found.name == "media" and "not one of our frames came to the server" in found.words


async def test_a_turn_server_that_is_not_there_is_noted(serve, monkeypatch):
    monkeypatch.setattr("aioice.stun.RETRY_MAX", 1)  # 1.5 s for each of the two who ask it
    url, _ = await serve(ice_servers=("turn:127.0.0.1:9?transport=udp",), ice_username="u", ice_credential="p")
    found = {finding.name: finding for finding in await examine(url)}
    assert found["turn"].state == "note" and "gave no address" in found["turn"].words


def test_a_url_that_is_none_is_wrong_usage(capsys):
    assert cli.main(["doctor", "ftp://x"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_command_tells_a_fault_by_its_exit_code(capsys):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert cli.main(["doctor", url, "--json", "-"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False and report["findings"][0]["name"] == "signalling"
