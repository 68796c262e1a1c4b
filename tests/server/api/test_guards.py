"""What a page of somebody else's can make a browser do to this server: nothing."""

import asyncio
from hashlib import sha256

import pytest
from aiohttp.test_utils import TestClient, TestServer

from server.api.app import create_app
from server.api.guards import HEADERS
from server.api.keys import SESSIONS, VITALS
from server.settings import read_settings
from server.simulation.process import SimulatedProcess
from server.simulation.simulation import SimulatedDevice

CHANGING = [
    ("POST", "/sessions"),
    ("PATCH", "/sessions/x"),
    ("DELETE", "/sessions/x"),
    ("DELETE", "/queue/x"),
    ("POST", "/whip/cam"),
    ("PATCH", "/whip/cam/x"),
    ("DELETE", "/whip/cam/x"),
    ("POST", "/whep/cam"),
    ("PATCH", "/whep/cam/x"),
    ("DELETE", "/whep/cam/x"),
]
EVIL = "https://evil.example"


@pytest.fixture
async def serve():
    clients = []

    async def serve(**settings):
        app = create_app(read_settings(**settings))

        async def start_device():
            return SimulatedProcess(SimulatedDevice(seconds=0.01))

        app[SESSIONS].worker.start_device = start_device
        client = TestClient(TestServer(app))
        await client.start_server()
        clients.append(client)
        await app[SESSIONS].worker.settled()
        return client

    yield serve
    for client in clients:
        await client.close()


async def code(reply):
    return reply.status, (await reply.json())["error"]["code"]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_a_name_that_is_not_ours_is_a_421_on_every_route(serve, method):
    """A page whose name was made to point here (DNS rebinding) read /stats and opened sessions."""
    http = await serve()
    for path in ("/", "/stats", "/sessions", "/healthz", "/whip/cam", "/nowhere"):
        for host in ("evil.example", "evil.example:8080", "localhost.evil.example", ""):
            reply = await http.request(method, path, headers={"Host": host})
            assert await code(reply) == (421, "wrong_host"), (path, host)


async def test_a_gateway_reaches_its_node_by_any_name_when_it_shows_the_token(serve):
    http = await serve(token="s3cret")
    for shown, status in (("Bearer s3cret", 200), ("Bearer wrong", 421), ("", 421)):
        reply = await http.get("/stats", headers={"Host": "node-0.nodes", "Authorization": shown})
        assert reply.status == status


async def test_our_own_names_and_addresses_are_right(serve):
    http = await serve(public_host="avis.example,other.example:8443")
    ours = [
        "localhost",
        "LOCALHOST:80",
        "127.0.0.1:99",
        "[::1]:8080",
        "192.168.7.7",
        "avis.example",
        "Avis.Example:443",
    ]
    for host in ours:
        assert (await http.get("/healthz", headers={"Host": host})).status == 200, host


@pytest.mark.parametrize("method, path", CHANGING)
@pytest.mark.parametrize("origin", [EVIL, "null", "http://localhost:3000", "http://127.0.0.1.evil.example"])
async def test_a_page_of_another_origin_changes_nothing(serve, method, path, origin):
    http = await serve()
    assert await code(await http.request(method, path, headers={"Origin": origin})) == (403, "foreign_origin")


@pytest.mark.parametrize("method, path", CHANGING)
async def test_our_own_page_and_clients_that_are_no_page_are_heard(serve, method, path):
    http = await serve(public_host="avis.example")
    own = str(http.make_url("/")).rstrip("/")
    for headers in ({}, {"Origin": own}, {"Origin": "https://avis.example"}):
        assert (await http.request(method, path, headers=headers)).status not in (403, 421)


async def test_no_page_of_another_origin_publishes_or_watches_where_nobody_is_asked_for_a_token(serve):
    http = await serve()
    for path in ("/whip/cam", "/whep/cam", "/whip/cam/x"):
        asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Private-Network": "true"}
        headers = {"Origin": EVIL, **asks}
        for reply in (await http.options(path, headers=headers), await http.get(path, headers={"Origin": EVIL})):
            assert not [name for name in reply.headers if name.startswith("Access-Control")]


async def test_where_a_token_is_asked_for_it_says_what_a_page_may_do(serve):
    http = await serve(token="s3cret")
    reply = await http.options("/whip/cam", headers={"Origin": EVIL, "Access-Control-Request-Method": "POST"})
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    assert "Authorization" in reply.headers["Access-Control-Allow-Headers"]
    assert await code(await http.post("/whip/cam", headers={"Origin": EVIL})) == (401, "unauthorized")
    shown = {"Origin": EVIL, "Authorization": "Bearer s3cret"}
    assert await code(await http.post("/whip/cam", headers=shown)) == (415, "bad_content_type")
    assert await code(await http.post("/sessions", headers=shown)) == (403, "foreign_origin")
    preflight = await http.options("/sessions", headers={"Origin": EVIL})
    assert not [name for name in preflight.headers if name.startswith("Access-Control")]


async def test_every_answer_tells_a_browser_its_limits_and_nobody_the_software(serve):
    http = await serve()
    for path in ("/", "/app.js", "/stats", "/nowhere", "/sessions/x"):
        reply = await http.get(path)
        assert HEADERS.items() <= dict(reply.headers).items(), path
        assert "Server" not in reply.headers
    policy = reply.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert reply.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_dead_task_makes_the_server_unready_with_its_reason_and_it_lives_again(serve):
    """One request ended the device's task for good, and /readyz went on saying ready."""
    http = await serve()
    vitals, worker = http.app[VITALS], http.app[SESSIONS].worker
    assert (await http.get("/readyz")).status == 200
    [task] = [task for task in asyncio.all_tasks() if "Sessions.run" in repr(task.get_coro())]
    task.cancel()
    await asyncio.sleep(0.05)
    body = await (await http.get("/readyz")).json()
    assert "device's task died" in body["error"]["message"] and "cancelled" in body["error"]["message"]
    async with asyncio.timeout(20):
        while (await http.get("/readyz")).status != 200:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.05)
    assert worker.state == "ready" and vitals.deaths == {"device's task": 1}


async def test_each_token_has_its_own_limits_and_each_address(serve, tmp_path, offer):
    tokens = tmp_path / "tokens.toml"
    digests = {name: sha256(name.encode()).hexdigest() for name in ("one", "small", "slow")}
    tokens.write_text(
        f'[a]\nsha256 = "{digests["one"]}"\nsessions = 1\n[b]\nsha256 = "{digests["small"]}"\npixels = 4096\n'
        f'[c]\nsha256 = "{digests["slow"]}"\nrate = 0.01\n'
    )
    http = await serve(tokens=tokens, admission="places")

    async def post(token):
        reply = await http.post("/sessions", json=offer, headers={"Authorization": f"Bearer {token}"})
        return reply.status if reply.status == 201 else await code(reply)

    assert [await post("one"), await post("one")] == [201, (429, "too_many_sessions")]
    assert await post("small") == (422, "bad_size")
    assert [await post("slow") for _ in range(3)] == [201, 201, (429, "too_many_offers")]
    assert await post("wrong") == (401, "unauthorized")
    limited = await serve(sessions_each=1, admission="places")
    assert [(await limited.post("/sessions", json=offer)).status for _ in range(2)] == [201, 429]


async def test_an_address_is_that_of_the_client_where_a_trusted_proxy_says_so(serve, offer):
    for trusted, expected in ((("127.0.0.1/32",), [201, 429, 201]), ((), [201, 429, 429])):
        http = await serve(sessions_each=1, admission="places", trusted_proxies=trusted)
        clients = [{"X-Forwarded-For": f"198.51.100.{n}"} for n in (1, 1, 2)]
        assert [(await http.post("/sessions", json=offer, headers=client)).status for client in clients] == expected


async def test_a_session_changes_so_often_and_no_more(serve, offer):
    """Each new operator costs the device a plan: one client's changes took the time of all others."""
    http = await serve()
    url = (await http.post("/sessions", json=offer)).headers["Location"]
    replies = [await http.patch(url, json={"operator": {"kind": "inpainting", "seed": seed}}) for seed in range(20)]
    assert [reply.status for reply in replies[:8]] == [200] * 8
    assert replies[-1].status == 429 and int(replies[-1].headers["Retry-After"]) >= 1
    assert (await http.get(url)).status == 200
