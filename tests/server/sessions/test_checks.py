"""Operators are held to sizes on threads of their own, and not too many at once."""

import asyncio
import threading

import pytest

from server.refusals import Refusal
from server.sessions.checks import MOST, THREADS, OperatorChecks


class Slow:
    """An operator whose check takes as long as `go` is not set."""

    def __init__(self):
        self.go, self.threads = threading.Event(), set()

    def check_size(self, height, width):
        self.threads.add(threading.current_thread().name)
        self.go.wait(10)


class Wrong:
    def check_size(self, height, width):
        raise ValueError(f"{width}x{height} does not fit")


@pytest.fixture
def checks():
    checks = OperatorChecks()
    yield checks
    checks.close()


async def test_so_many_are_checked_at_once_and_no_more_on_threads_of_their_own(checks):
    slow, default = Slow(), asyncio.get_running_loop()
    tasks = [asyncio.create_task(checks.check(slow, (96, 64))) for _ in range(MOST)]
    await asyncio.sleep(0)
    with pytest.raises(Refusal, match="too many operators") as refused:
        await checks.check(slow, (96, 64))
    assert refused.value.status == 503
    assert await default.run_in_executor(None, lambda: "pictures go on") == "pictures go on"
    slow.go.set()
    await asyncio.gather(*tasks)
    assert len(slow.threads) <= THREADS and all(name.startswith("avis-check") for name in slow.threads)
    await checks.check(slow, (96, 64))


async def test_who_goes_away_while_a_check_runs_frees_its_place_when_it_ends(checks):
    slow = Slow()
    task = asyncio.create_task(checks.check(slow, (96, 64)))
    await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.wait([task])
    assert len(checks._under_way) == 1, "it still runs"
    slow.go.set()
    async with asyncio.timeout(5):
        while checks._under_way:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_what_does_not_fit_is_a_422_and_without_a_size_there_is_nothing_to_hold_it_to(checks):
    with pytest.raises(Refusal, match="96x64 does not fit"):
        await checks.check(Wrong(), (96, 64))
    await checks.check(Wrong(), None)
