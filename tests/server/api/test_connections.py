"""Connections are finite: a silent one makes room, and goes by itself after a while."""

import asyncio
import random
import resource
import socket
from contextlib import suppress

import pytest
from aiohttp import web

from server.api import connections
from server.api.connections import Connection, ConnectionTable, Door, connections_within


def table(most=4, each=99, **options):
    return ConnectionTable(most, each, **options)


def test_up_to_the_limit_all_stay():
    t = table()
    assert [t.open(n, "a", 0.0) for n in range(4)] == [None] * 4


def test_beyond_the_limit_the_one_that_is_silent_the_longest_goes():
    t = table()
    for n in range(4):
        t.open(n, "a", float(n))
    assert t.open("new", "a", 5.0) == 0
    t.close(0)
    t.begin(1)
    assert t.open("newer", "a", 6.0) == 2
    assert t.closed == {"most": 2}


def test_one_that_never_asked_goes_before_one_that_did():
    t = table(2)
    t.open("client", "a", 0.0)
    t.begin("client")
    t.end("client", 1.0)
    t.open("idler", "a", 5.0)
    assert t.open("new", "a", 6.0) == "idler"


def test_the_address_with_the_most_silent_connections_gives_one_up():
    t = table(5)
    t.open("honest", "b", 0.0)
    for n in range(4):
        t.open(n, "a", 1.0 + n)
    assert t.open("other", "c", 9.0) == 0


def test_where_all_are_busy_the_newcomer_goes():
    t = table(2)
    for n in range(2):
        t.open(n, "a", 0.0)
        t.begin(n)
    assert t.open("new", "b", 1.0) == "new"


def test_one_address_has_its_share_and_an_exempt_one_has_no_limit():
    t = table(100, each=3, exempt=lambda address: address == "proxy")
    for n in range(3):
        t.open(n, "a", float(n))
    assert t.open(3, "a", 5.0) == 0
    assert t.open("other", "b", 5.0) is None
    assert [t.open(f"p{n}", "proxy", 6.0) for n in range(20)] == [None] * 20


def test_deadlines_begin_at_the_opening_and_at_each_answer():
    t = table(head_timeout=10, idle_timeout=30)
    t.open("c", "a", 5.0)
    assert t.deadline("c") == 15
    t.begin("c")
    assert t.deadline("c") is None
    t.end("c", 20.0)
    assert t.deadline("c") == 50
    t.close("c")
    t.close("c")
    assert t.deadline("c") is None
    t.begin("c")
    t.end("c", 1.0)
    assert len(t) == 0


@pytest.mark.parametrize("seed", range(10))
def test_the_table_is_bounded_whatever_happens(seed):
    rng, t, known = random.Random(seed), table(8, each=5), set()
    for step in range(2000):
        key, choice = rng.randrange(40), rng.random()
        if key not in known and choice < 0.6:
            known.add(key)
            loser = t.open(key, rng.choice("abc"), float(step))
            if loser is not None:
                assert loser in known
                known.discard(loser)
                t.close(loser)
        elif choice < 0.8:
            t.begin(key)
        elif choice < 0.9:
            t.end(key, float(step))
        else:
            known.discard(key)
            t.close(key)
        assert len(t) == len(known) <= 8
        held = [entry.address for entry in t._entries.values()]
        assert all(held.count(address) <= 5 for address in "abc")


def test_descriptors_are_kept_for_sessions(monkeypatch):
    limits = {"now": (1024, 4096)}

    def setrlimit(_, new):
        limits["now"] = new

    monkeypatch.setattr(connections.resource, "getrlimit", lambda _: limits["now"])
    monkeypatch.setattr(connections.resource, "setrlimit", setrlimit)
    assert connections_within(256) == 256
    assert limits["now"] == (4096, 4096), "the server takes what descriptors it can get"
    limits["now"] = (128, 128)
    assert connections_within(256) == 32
    limits["now"] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert connections_within(256) == 256


# --- real sockets ---------------------------------------------------------------------------------------


@web.middleware
async def busy(request, handler):
    assert isinstance(request.protocol, Connection)
    with request.protocol.serving():
        return await handler(request)


@pytest.fixture
async def serve():
    doors, runners = [], []

    async def serve(**options):
        async def slow(request):
            await asyncio.sleep(0.3)
            return web.Response(text="done")

        async def here(request):
            return web.Response(text="here")

        app = web.Application(middlewares=[busy])
        app.router.add_get("/slow", slow)
        app.router.add_get("/", here)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        connection_table = table(**options)
        door = Door(runner.server, connection_table, "127.0.0.1", 0)
        doors.append(door)
        runners.append(runner)
        return await door.open(), connection_table, door

    yield serve
    for door in doors:
        door.close()
    for runner in runners:
        await runner.cleanup()


async def ask(port, path="/", head=b""):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head or f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    try:
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


async def test_a_thousand_silent_sockets_keep_nobody_out(serve):
    """1,000 sockets took all descriptors of the server, and with them its device."""
    port, connection_table, _ = await serve(most=20)
    idle = []
    for _ in range(300):
        idle.append(await asyncio.open_connection("127.0.0.1", port))
    assert b"here" in await ask(port)
    assert len(connection_table) <= 20
    for _, writer in idle:
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET / HT"])
async def test_who_sends_no_whole_head_is_closed(serve, sent):
    port, connection_table, _ = await serve(head_timeout=0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    with suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 3) == b""
    assert len(connection_table) == 0 and connection_table.closed == {"silent": 1}
    writer.close()


async def test_a_head_that_drips_is_no_whole_head(serve):
    port, _, _ = await serve(head_timeout=0.3)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    with pytest.raises(ConnectionError):
        for byte in b"GET / HTTP/1.1\r\nX: " + b"x" * 100:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.02)
    writer.close()


async def test_a_request_that_is_answered_is_never_cut_off_and_an_idle_connection_is(serve):
    port, _, _ = await serve(head_timeout=0.1, idle_timeout=0.1)
    assert b"done" in await ask(port, "/slow")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    with suppress(ConnectionResetError):
        assert b"here" in await asyncio.wait_for(reader.read(), 3), "and then the end"
    writer.close()


async def test_what_is_no_http_is_a_400_in_one_form_and_no_traceback(serve, caplog):
    port, _, _ = await serve()
    for head in (
        b"\x16\x03\x01\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nA b\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A" * 20_000,
    ):
        answer = await ask(port, head=head)
        assert answer.startswith(b"HTTP/1.") and b" 400 " in answer.split(b"\r\n")[0]
        assert b'"code": "bad_request"' in answer
        assert b"aiohttp" not in answer
    assert "Traceback" not in caplog.text


async def test_a_lost_listening_socket_is_noticed_and_opened_again(serve, monkeypatch):
    monkeypatch.setattr(connections, "LOOK", 0.02)
    port, _, door = await serve()
    watch = asyncio.ensure_future(door.watch())
    await asyncio.sleep(0.1)
    assert not watch.done()
    door._listening[0][0].close()
    with pytest.raises(OSError, match="not listen"):
        await asyncio.wait_for(watch, 3)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), 1)
    again = asyncio.ensure_future(door.watch())
    await asyncio.sleep(0.1)
    assert b"here" in await ask(port)
    again.cancel()
