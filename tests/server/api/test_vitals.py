"""A task that must live is told when it dies, and lives again."""

import asyncio

from server.api.vitals import Patience, Vitals

QUICK = Patience(first=0.01, most=0.05, recovery=0.05)


async def until(condition, seconds=5):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


async def kept(run):
    vitals = Vitals(QUICK)
    vitals.keep("worker", run)
    return vitals


async def test_a_task_that_fails_is_told_with_its_reason_started_again_and_well_after_a_while(caplog):
    starts = []

    async def run():
        starts.append(1)
        if len(starts) < 3:
            raise ValueError("as it happens")
        await asyncio.Event().wait()

    vitals = await kept(run)
    await until(lambda: vitals.deaths["worker"] == 2)
    assert vitals.faults == {"worker": "ValueError('as it happens')"}
    await until(lambda: not vitals.faults)
    assert len(starts) == 3
    assert "the worker died" in caplog.text
    await vitals.close()


async def test_a_task_that_ends_or_is_cancelled_by_another_is_dead_as_well():
    tasks = []

    async def run():
        tasks.append(asyncio.current_task())
        if len(tasks) > 1:
            await asyncio.Event().wait()

    vitals = await kept(run)
    await until(lambda: len(tasks) == 2 and not vitals.faults)
    assert vitals.deaths["worker"] == 1
    tasks[1].cancel()
    await until(lambda: vitals.faults == {"worker": "it was cancelled"})
    await until(lambda: not vitals.faults)
    await vitals.close()
    assert all(task.done() for task in tasks)


async def test_one_that_dies_at_once_each_time_does_not_spin():
    starts = []

    async def run():
        starts.append(1)
        raise ValueError

    vitals = await kept(run)
    await asyncio.sleep(0.5)
    assert 3 < len(starts) < 30
    assert vitals.faults
    await vitals.close()


async def test_nothing_is_left_of_tasks_that_were_closed():
    ended = []

    async def run():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    vitals = await kept(run)
    await asyncio.sleep(0.02)
    await vitals.close()
    assert ended == [1]
    assert len(asyncio.all_tasks()) == 1


async def test_a_task_that_was_released_does_not_start_again():
    starts = []

    async def run():
        starts.append(1)
        await asyncio.Event().wait()

    vitals = await kept(run)
    await asyncio.sleep(0.02)
    await vitals.release("worker")
    await vitals.release("worker")
    await asyncio.sleep(0.1)
    assert (starts, vitals.faults) == ([1], {})


def test_the_pause_grows_and_has_a_bound():
    pauses = [Patience().pause(deaths) for deaths in range(1, 2000)]
    assert pauses[0] == 0.1 and pauses == sorted(pauses) and pauses[-1] == 30
