import asyncio
import gc
import gzip
import os
import resource
import time
from collections import Counter

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from core.operators.config import SuperResolutionConfig
from server import descriptors
from server.api.app import bound, create_app
from server.api.auth import Doorkeeper
from server.api.endpoints import WEB, nameless
from server.api.keys import SESSIONS
from server.refusals import Refusal
from server.scheduling.admission import Refuse
from server.sessions.config import SessionState
from server.sessions.negotiation import negotiate
from server.settings import read_settings
from server.simulation.process import SimulatedProcess
from server.simulation.simulation import SimulatedDevice

GARBAGE = [b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b"{" * 5000, b"[" * 100_000, b'{"seed": %s}' % (b"9" * 5000)]
GARBAGE += [
    b'{"panels": [%s0]}' % (b"0," * 100_000),
    b'{"solver": {%s"x": 0}}' % b"".join(b'"%d": 0,' % i for i in range(20_000)),
]

BAD_FIELDS = [
    ({"sdp": None}, "sdp"),
    ({"sdp": 7}, "sdp"),
    ({"type": "answer"}, "type"),
    ({"operator": {}}, "operator"),
    ({"operator": {"kind": "blurr"}}, "blurr"),
    ({"operator": {"kind": "gaussian_blur", "sigma": -1}}, "sigma"),
    ({"operator": {"kind": "gaussian_blur", "sigm": 1}}, "sigm"),
    ({"operator": {"kind": "inpainting", "keep": "NaN"}}, "keep"),
    ({"operator": {"kind": "mask", "png": "AAAA"}}, "png"),
    ({"operator": {"kind": "kernel", "taps": True}}, "taps"),
    ({"operator": {"kind": "kernel", "taps": [[True]]}}, "taps"),
    ({"mode": "both"}, "mode"),
    ({"latency": "none"}, "latency"),
    ({"fps": 0}, "fps"),
    ({"fps": "fast"}, "fps"),
    ({"fps": 50}, "fps"),
    ({"size": "big"}, "big"),
    ({"size": "100x100"}, "100x100"),
    ({"size": "16x16"}, "16x16"),
    ({"size": "4096x4096"}, "4096x4096"),
    ({"size": [416, 240, 3]}, "size"),
    ({"size": [float("inf"), 240]}, "size"),
    ({"size": [None, {}]}, "size"),
    ({"fps": float("nan")}, "fps"),
    ({"solver": {"gamma": float("inf")}}, "gamma"),
    ({"solver": {"num_steps": 99}}, "solver.num_steps: expected less than or equal to"),
    ({"solver": {"tier": "sharp", "condition": False}}, "tier sharp needs condition=true"),
    ({"solver": {"steps": 1}}, "steps"),
    ({"solver": {"t0": 1}}, "t0"),
    ({"solver": [1]}, "solver"),
    ({"panels": []}, "panels"),
    ({"panels": ["restored"] * 9}, "panels"),
    ({"panels": ["restaured"]}, "restaured"),
    ({"mode": "incoming", "panels": ["original", "restored"]}, "original in mode simulate only"),
    ({"seed": -1}, "seed"),
    ({"model": "huge"}, "huge"),
    ({"colour": "red"}, "colour"),
]


@pytest.fixture
async def http():
    settings = read_settings(max_sessions=2, max_body=400_000)
    app = create_app(settings)
    sessions = app[SESSIONS]

    async def start_device():
        return SimulatedProcess(SimulatedDevice(seconds=0.01))

    sessions.worker.start_device = start_device
    async with TestClient(TestServer(app)) as client:
        await sessions.worker.settled()
        client.sessions = sessions
        yield client
        sessions.check_integrity()


def idle_app(**settings):
    """An application whose device never comes up."""
    app = create_app(read_settings(**settings))
    app[SESSIONS].worker.start_device = asyncio.Event().wait
    return app


async def refused(reply, status, word=""):
    """The error of a reply, which must have the one form that there is."""
    body = await reply.json()
    assert reply.status == status, body
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "retryable"}
    assert body["error"]["retryable"] is ("Retry-After" in reply.headers)
    assert word in body["error"]["message"]
    return body["error"]


async def test_a_session_is_opened_asked_changed_and_ended(http, offer):
    reply = await http.post("/sessions", json=offer)
    answer = await reply.json()
    assert reply.status == 201
    assert reply.headers["Location"] == f"/sessions/{answer['id']}"
    assert answer["type"] == "answer"
    assert "a=setup:passive" in answer["sdp"]
    assert "x-google-start-bitrate" in answer["sdp"]
    assert "VP8" in answer["sdp"]
    url = reply.headers["Location"]
    report = await (await http.get(url)).json()
    assert (report["id"], report["state"], report["rung"]) == (answer["id"], "connecting", "full")
    reply = await http.patch(url, json={"operator": {"kind": "inpainting"}, "solver": {"num_steps": 3}})
    assert (reply.status, await reply.json()) == (200, {"applies_from_chunk": 0})
    report = await (await http.get(url)).json()
    assert (report["operator"]["kind"], report["solver"]["num_steps"]) == ("inpainting", 3)
    assert (await http.delete(url)).status == 204
    for method in (http.get, http.delete):
        await refused(await method(url), 404)
    await refused(await http.patch(url, json={}), 404)
    assert len(http.sessions) == 0
    assert http.sessions.dispatch.admission._open == {}
    http.sessions.check_integrity()


@pytest.mark.parametrize("body", GARBAGE, ids=lambda body: repr(body[:10]))
async def test_a_body_that_is_no_json_object_is_a_400(http, body):
    headers = {"Content-Type": "application/json"}
    await refused(await http.post("/sessions", data=body, headers=headers), 400)


async def test_clients_that_leave_in_the_middle_of_a_body_leave_one_line_and_no_traceback(caplog):
    """Each left 40 lines of one."""
    caplog.set_level("INFO")
    async with bound(idle_app(), "127.0.0.1", 0) as url:
        for target in ["/sessions", "/whip/cam"] * 10:
            _, writer = await asyncio.open_connection("127.0.0.1", URL(url).port)
            kind = "application/json" if target == "/sessions" else "application/sdp"
            writer.write(f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n".encode())
            writer.write(b"Content-Length: 9\r\n\r\n{")
            await writer.drain()
            await asyncio.sleep(0.02)
            writer.transport.abort()
        await asyncio.sleep(0.1)
        async with ClientSession() as http:
            assert (await http.get(url + "/healthz")).status == 200
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    assert 1 <= sum("left before its body" in record.message for record in caplog.records) <= 2


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "x", "gzip, identity"])
async def test_a_compressed_body_is_a_415_and_never_unpacked(encoding, caplog):
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    body = gzip.compress(b"{}" + b" " * 10_000_000)
    async with bound(idle_app(), "127.0.0.1", 0) as url, ClientSession() as http:
        reply = await http.post(url + "/sessions", data=body, headers=headers)
        assert (await refused(reply, 415))["code"] == "bad_encoding"
    assert "Traceback" not in caplog.text


async def test_another_content_type_is_a_415_and_too_much_is_a_413(http):
    await refused(await http.post("/sessions", data=b"v=0", headers={"Content-Type": "application/sdp"}), 415)
    await refused(await http.post("/sessions", json={"sdp": "x" * 500_000}), 413)


async def test_every_wrong_field_is_named_in_a_422_and_costs_no_place(http, offer):
    for change, word in BAD_FIELDS:
        body = {name: value for name, value in {**offer, **change}.items() if value is not None}
        await refused(await http.post("/sessions", json=body), 422, word)
    assert len(http.sessions) == 0
    assert http.sessions.dispatch.admission._open == {}


async def test_an_sdp_that_is_no_sdp_is_refused(http, offer):
    for sdp in ("", "<html>", "v=0\r\n", "v=0\r\nm=audio 9 RTP/AVP 0\r\n", "\0" * 100):
        reply = await http.post("/sessions", json={**offer, "sdp": sdp})
        assert 400 <= reply.status < 500
        await refused(reply, reply.status)
    assert len(http.sessions) == 0


async def test_a_wrong_change_is_refused_and_changes_nothing(http, offer):
    url = (await http.post("/sessions", json=offer)).headers["Location"]
    before = (await (await http.get(url)).json())["operator"]
    for change in ({"operator": {"kind": "blurr"}}, {"solver": {"num_steps": 0.5}}, {"size": "256x144"}):
        await refused(await http.patch(url, json=change), 422)
    assert (await (await http.get(url)).json())["operator"] == before


async def test_a_full_server_says_so_and_has_room_again_when_one_ends(http, offer):
    urls = [(await http.post("/sessions", json=offer)).headers["Location"] for _ in range(2)]
    reply = await http.post("/sessions", json=offer)
    assert (await refused(reply, 503))["code"] == "full"
    assert int(reply.headers["Retry-After"]) >= 1
    await http.delete(urls[0])
    assert (await http.post("/sessions", json=offer)).status == 201


async def test_clients_that_wait_get_the_next_places_in_the_order_they_came(http, offer):
    async def ask(**body):
        reply = await http.post("/sessions", json={**offer, **body})
        return reply.status, reply.headers, await reply.json()

    urls = [(await ask())[1]["Location"] for _ in range(2)]
    status, headers, body = await ask(queue=True)
    assert (status, int(headers["Retry-After"]), body["queue"]["position"]) == (503, 3, 1)
    first, second = body["queue"]["ticket"], (await ask(queue=True))[2]["queue"]["ticket"]
    assert (await ask(ticket=second))[2]["queue"] == {"position": 2, "ticket": second}
    await http.delete(urls[0])
    assert (await ask())[0] == 503, "a newcomer overtook those that wait"
    assert (await ask(ticket=second))[0] == 503, "the second overtook the first"
    assert (await ask(queue=True, ticket=first))[0] == 201
    assert (await ask(ticket=second))[2]["queue"] == {"position": 1, "ticket": second}
    await http.delete(urls[1])
    assert (await ask(ticket=second))[0] == 201
    assert (await ask())[2].keys() == {"error"}, "it did not ask to wait"


async def test_a_large_head_of_the_line_lets_those_pass_who_fit_and_is_then_kept_its_place(http, offer, monkeypatch):
    """The first in line asked for more than there was, and all others were refused while the device stood idle."""
    devices, refuse = http.sessions.devices, http.sessions.devices.refuse
    large = {"size": "832x480"}

    def too_large(config, now):
        return Refuse("no room for so large a one", 1.0) if config.size == (832, 480) else refuse(config, now)

    monkeypatch.setattr(devices, "refuse", too_large)
    http.sessions.line.overtakers = 2
    asked = await http.post("/sessions", json={**offer, **large, "queue": True})
    ticket = (await asked.json())["queue"]["ticket"]
    for _ in range(2):
        reply = await http.post("/sessions", json=offer)
        assert reply.status == 201
        await http.delete(reply.headers["Location"])
    await refused(await http.post("/sessions", json=offer), 503)
    monkeypatch.setattr(devices, "refuse", refuse)
    assert (await http.post("/sessions", json={**offer, **large, "ticket": ticket})).status == 201
    assert (await http.post("/sessions", json=offer)).status == 201


async def test_one_address_has_its_share_of_the_line_and_a_header_gives_it_no_more(http, offer):
    [await http.post("/sessions", json=offer) for _ in range(2)]

    async def queued(**headers):
        reply = await http.post("/sessions", json={**offer, "queue": True}, headers=headers)
        return reply.status == 503 and "queue" in await reply.json()

    assert [await queued(**{"X-Forwarded-For": f"198.51.100.{n}"}) for n in range(6)] == 4 * [True] + 2 * [False]


async def test_a_place_in_line_that_nobody_claims_is_given_up(http, offer):
    urls = [(await http.post("/sessions", json=offer)).headers["Location"] for _ in range(2)]
    assert (await http.post("/sessions", json={**offer, "queue": True})).status == 503
    http.sessions.line.patience = 0.01
    await http.delete(urls[0])
    await asyncio.sleep(0.05)
    assert (await http.post("/sessions", json=offer)).status == 201


async def test_a_place_in_line_can_be_given_up(http, offer):
    urls = [(await http.post("/sessions", json=offer)).headers["Location"] for _ in range(2)]
    waiting = await (await http.post("/sessions", json={**offer, "queue": True})).json()
    await http.delete(urls[0])
    assert (await http.post("/sessions", json=offer)).status == 503
    for _ in range(2):  # twice does no harm
        assert (await http.delete(f"/queue/{waiting['queue']['ticket']}")).status == 204
    assert (await http.post("/sessions", json=offer)).status == 201


async def test_a_server_that_is_not_ready_says_why_and_lives(offer):
    app = create_app(read_settings())

    async def no_device():
        raise OSError("no such device")

    app[SESSIONS].worker.start_device = no_device
    async with TestClient(TestServer(app)) as http:
        assert (await http.get("/healthz")).status == 200
        await refused(await http.get("/readyz"), 503)
        reply = await http.post("/sessions", json=offer)
        await refused(reply, 503)
        assert "Retry-After" in reply.headers


async def test_sessions_that_come_and_go_leave_no_descriptor_and_no_task(http, offer):
    async def come_and_go(times):
        for _ in range(times):
            url = (await http.post("/sessions", json=offer)).headers["Location"]
            await http.delete(url)
        await asyncio.wait(http.sessions._tasks or [asyncio.create_task(asyncio.sleep(0))])
        gc.collect()
        return len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())

    settled = await come_and_go(3)
    descriptors, tasks = await come_and_go(30)
    assert descriptors <= settled[0] + 1
    assert tasks <= settled[1] + 1


async def test_the_operators_are_described_with_their_defaults(http):
    described = (await (await http.get("/operators")).json())["operators"]
    kinds = {operator["kind"]: operator for operator in described}
    assert {"super_resolution", "inpainting", "gaussian_blur", "temporal_average", "mask", "denoise"} <= kinds.keys()
    assert kinds["gaussian_blur"]["defaults"]["sigma"] == 3.0
    assert "standard deviation" in kinds["gaussian_blur"]["schema"]["properties"]["sigma"]["description"]


async def test_the_model_and_the_load_are_told(http):
    [model] = (await (await http.get("/models")).json())["models"]
    assert (model["name"], model["state"]) == ("tiny", "ready")
    stats = await (await http.get("/stats")).json()
    assert (stats["device"]["state"], stats["sessions"]) == ("ready", [])
    assert stats["processes"]["server"]["rss_bytes"] > 1e7
    assert stats["tasks"] > 0


GUARDED = [
    ("POST", "/sessions"),
    ("GET", "/sessions/x"),
    ("PATCH", "/sessions/x"),
    ("DELETE", "/sessions/x"),
    ("DELETE", "/queue/x"),
    ("GET", "/ice"),
    ("GET", "/stats"),
    ("GET", "/whip/cam"),
    ("POST", "/whep/cam"),
]


@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_whoever_does_not_show_the_token_opens_sees_and_changes_nothing(method, path):
    """Only WHIP and WHEP asked for it: POST /sessions and the TURN logins of /ice were open to everybody."""
    async with TestClient(TestServer(create_app(read_settings(token="s3cret")))) as http:
        for shown in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
            reply = await http.request(method, path, headers=shown)
            assert (await refused(reply, 401))["code"] == "unauthorized"
            assert reply.headers["WWW-Authenticate"] == "Bearer"
        assert (await http.request(method, path, headers={"Authorization": "bearer s3cret"})).status != 401


OPEN = {"/", "/healthz", "/readyz", "/models", "/operators", "/{file}", "/openapi.json", "/channel.json"}
"""what tells of the server only, and the page itself"""


async def test_no_route_was_forgotten_that_must_ask_for_the_token():
    """Of all there are: also of those that somebody adds without a thought of the token."""
    app = create_app(read_settings(token="s3cret"))
    paths = {resource.canonical for resource in app.router.resources()} - OPEN
    assert {"/sessions", "/ice", "/stats", "/whep/{name}/{id}"} <= paths
    async with TestClient(TestServer(app)) as http:
        for path in (path.replace("{name}", "cam").replace("{id}", "x").replace("{ticket}", "x") for path in paths):
            for method in ("GET", "HEAD", "POST", "PATCH", "DELETE", "PUT"):
                for sent in (path, path + "?x=1", path.replace("s", "%73").replace("i", "%69")):
                    status = (await http.request(method, URL(sent, encoded=True))).status
                    assert status == 401, (method, sent)


def test_a_header_of_any_bytes_is_a_wrong_token_and_no_error():
    assert Doorkeeper("s3cret").find("Bearer s3cret", 0.0) and Doorkeeper("schlüssel").find("bearer  schlüssel", 0.0)
    for wrong in ("", "Bearer", "Bearer ", "Basic s3cret", "Bearer s3cre", "Bearer s3cret.", "Bearer \udcff"):
        assert Doorkeeper("s3cret").find(wrong, 0.0) is None


async def test_the_page_and_what_it_says_of_the_server_need_no_token():
    async with TestClient(TestServer(create_app(read_settings(token="s3cret")))) as http:
        for path in ("/", "/app.js", "/healthz", "/models", "/operators"):
            assert (await http.get(path)).status == 200
        assert (await http.get("/readyz")).status == 503


async def test_nobody_is_told_the_names_of_others_sessions(http, offer):
    """Whoever knows a session's id may change and end it, and /stats told all of them to everybody."""
    session_id = (await (await http.post("/sessions", json=offer)).json())["id"]
    reply = await http.get("/stats")
    assert len((await reply.json())["sessions"]) == 1
    assert session_id not in await reply.text()


async def test_a_page_is_told_the_ice_servers_with_a_login_that_ends():
    settings = read_settings(ice_servers=("stun:a.example", "turn:b.example"), ice_secret="north")
    async with TestClient(TestServer(create_app(settings))) as client:
        reply = await client.get("/ice")
        stun, turn = (await reply.json())["iceServers"]
    assert reply.headers["Cache-Control"] == "no-store"
    assert stun == {"urls": "stun:a.example"} and turn["urls"] == "turn:b.example"
    assert 0 < int(turn["username"].split(":")[0]) - time.time() <= 3600 and turn["credential"]


async def test_the_page_is_served_and_nothing_beside_it(http):
    reply = await http.get("/")
    assert (reply.status, reply.content_type) == (200, "text/html")
    for file in WEB.iterdir():
        reply = await http.get(f"/{file.name}")
        assert (reply.status, await reply.read()) == (200, file.read_bytes()), "a file of the page is not served"
    for path in ("/nothing", "/../pyproject.toml", "/%2e%2e/pyproject.toml", "/..%2fpyproject.toml", "/__init__.py"):
        await refused(await http.get(path), 404)
    await refused(await http.get("/sessions"), 404)


async def test_unknown_paths_and_methods_have_the_same_form_of_error(http):
    await refused(await http.get("/sessions/" + "x" * 500), 404)
    reply = await http.put("/sessions", data=b"")
    await refused(reply, 405)
    assert "POST" in reply.headers["Allow"], "RFC 9110, 15.5.6"


async def test_a_closing_server_takes_no_session(http, offer):
    await http.sessions.close()
    assert (await refused(await http.post("/sessions", json=offer), 503))["code"] == "shutting_down"


async def test_a_session_that_ends_while_it_is_resumed_leaves_no_connection(http, offer, monkeypatch):
    """Nobody closed the new connection, which lived as long as its client liked."""
    sessions, made = http.sessions, []
    session_id = (await (await http.post("/sessions", json=offer)).json())["id"]

    async def negotiate_slowly(pc, *args):
        made.append(pc)
        answer = await negotiate(pc, *args)
        sessions.end(session_id, "it was silent for too long")
        return answer

    monkeypatch.setattr("server.sessions.sessions.negotiate", negotiate_slowly)
    reply = await http.post("/sessions", json={**offer, "resume": session_id})
    assert reply.status == 404
    assert [pc.signalingState for pc in made] == ["closed"]


async def test_a_later_attempt_to_resume_takes_the_place_of_one_under_way(http, offer, monkeypatch):
    """Each of a hundred at once made its connection: 298 descriptors for one session."""
    session_id, made = (await (await http.post("/sessions", json=offer)).json())["id"], []

    async def negotiate_slowly(pc, *args):
        made.append(pc)
        await asyncio.sleep(0.2)
        return await negotiate(pc, *args)

    monkeypatch.setattr("server.sessions.sessions.negotiate", negotiate_slowly)
    replies = await asyncio.gather(*(http.post("/sessions", json={**offer, "resume": session_id}) for _ in range(20)))
    codes = Counter([reply.status for reply in replies])
    assert codes[201] == 1 and codes[409] + codes[429] == 19
    assert len(made) <= codes[409] + 1 < 10, "an attempt is counted before it costs anything"
    session = http.sessions.get(session_id)
    assert session.figures.resumed == 1 and session.pc is made[-1]
    assert {pc.signalingState for pc in made[:-1]} == {"closed"}


async def test_nobody_takes_the_last_descriptors_so_that_those_inside_can_leave(http, offer, monkeypatch):
    """Eight sessions took all of forty: no request was answered any more, not even a DELETE."""
    url = (await http.post("/sessions", json=offer)).headers["Location"]
    open_now, (_, hard) = len(os.listdir("/proc/self/fd")), resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (open_now + descriptors.RESERVE - 4, hard))
    for body in (offer, {**offer, "resume": url.rpartition("/")[2]}):
        assert (await refused(await http.post("/sessions", json=body), 503))["code"] == "exhausted"
    assert (await http.get(url)).status == 200 and (await http.delete(url)).status == 204
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, hard))
    assert (await http.post("/sessions", json=offer)).status == 201
    http.sessions.check_integrity()


async def test_one_change_of_a_session_is_under_way_at_a_time(http, offer, monkeypatch):
    url = (await http.post("/sessions", json=offer)).headers["Location"]
    monkeypatch.setattr(SuperResolutionConfig, "check_size", lambda *_: time.sleep(0.3))
    change = {"operator": {"kind": "super_resolution"}}
    codes = [reply.status for reply in await asyncio.gather(*(http.patch(url, json=change) for _ in range(3)))]
    assert sorted(codes) == [200, 429, 429]
    assert (await http.patch(url, json=change)).status == 200


async def test_an_attempt_to_resume_that_fails_leaves_the_session_as_it_was(http, offer, monkeypatch):
    """Its track was swapped for one of a connection that never came to be, whose end then ended the session."""
    session_id = (await (await http.post("/sessions", json=offer)).json())["id"]
    session = http.sessions.get(session_id)
    before = session.pc, session._track, session.outlet.sound

    async def negotiate_too_late(pc, *args):
        await negotiate(pc, *args)
        raise Refusal(422, "unsupported_offer", "the offer took longer than 10 s to answer")

    monkeypatch.setattr("server.sessions.sessions.negotiate", negotiate_too_late)
    await refused(await http.post("/sessions", json={**offer, "resume": session_id}), 422)
    await asyncio.sleep(0.1)  # the connection that failed has ended by then, and its tracks
    assert http.sessions.get(session_id) is session and session.state is not SessionState.CLOSED
    assert (session.pc, session._track, session.outlet.sound) == before


def test_stats_tell_no_picture_that_a_client_drew_not_even_inside_a_composition():
    operator = {"kind": "compose", "operators": [{"kind": "super_resolution"}, {"kind": "mask", "png": "secret"}]}
    told = nameless({"id": "secret", "operator": operator, "age": 1})
    assert "secret" not in str(told)
    assert told["operator"]["operators"] == [{"kind": "super_resolution"}, {"kind": "mask"}]
