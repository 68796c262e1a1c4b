"""A server that is told to end lets its sessions end first, for as long as it was told to."""

import asyncio
import os
import signal

import pytest

from server.api.drain import let_sessions_end


class Session:
    def __init__(self):
        self.told = []

    @property
    def channel(self):
        return self

    def send(self, message):
        self.told.append(message)


class Sessions(list):
    draining = False


@pytest.fixture
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_without_patience_or_without_sessions_the_end_comes_at_once():
    for sessions, patience in ((Sessions([Session()]), 0.0), (Sessions(), 60.0)):
        async with asyncio.timeout(5):
            await let_sessions_end(sessions, patience)
        assert sessions.draining, "it takes no more sessions in any case"


async def test_open_sessions_are_told_and_waited_for(handlers):
    sessions = Sessions([Session(), Session()])
    ending = asyncio.create_task(let_sessions_end(sessions, 60.0))
    await until(lambda: sessions.draining and sessions[1].told)
    assert sessions[0].told == [{"event": "draining", "seconds": 60.0}]
    sessions.pop()
    await asyncio.sleep(0.3)
    assert not ending.done(), "one is left"
    sessions.pop()
    await asyncio.wait_for(ending, 10)


async def test_patience_has_an_end(handlers):
    sessions = Sessions([Session()])
    await asyncio.wait_for(let_sessions_end(sessions, 0.3), 3)
    assert len(sessions) == 1


async def test_a_second_signal_ends_the_wait(handlers):
    sessions = Sessions([Session()])
    ending = asyncio.create_task(let_sessions_end(sessions, 60.0))
    await until(lambda: sessions[0].told)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(ending, 10)
