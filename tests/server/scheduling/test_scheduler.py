"""Which chunk comes next: properties that hold whatever clients send."""

import random

import pytest

from core.chunks import Chunk
from server.scheduling.scheduler import Job, Scheduler, is_due

PERIOD = 0.75


def job(session_id, index, deadline, opening=False):
    return Job(session_id, Chunk(index, []), deadline, None, opening)


def scheduler_of(*session_ids, **options):
    scheduler = Scheduler(**options)
    for session_id in session_ids:
        scheduler.add(session_id, PERIOD)
    return scheduler


def drain(scheduler):
    return list(iter(lambda: scheduler.next(), None))


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_doubled_or_reordered_whatever_happens(seed):
    rng = random.Random(seed)
    scheduler = Scheduler(backlog=rng.randint(1, 4))
    submitted, accounted, indices, taken = set(), [], {}, {}
    for step in range(600):
        now = step * 0.05
        event = rng.random()
        if event < 0.05 and len(indices) < 10:
            session_id = f"s{step}"
            scheduler.add(session_id, PERIOD, rng.choice([0, 3, 7]), now)
            indices[session_id], taken[session_id] = 0, []
        elif event < 0.08 and indices:
            session_id = rng.choice(sorted(indices))
            accounted += scheduler.remove(session_id)
            del indices[session_id]
        elif event < 0.7 and indices:
            session_id = rng.choice(sorted(indices))
            opening = indices[session_id] == 0 or rng.random() < 0.03
            new = job(session_id, indices[session_id], now + rng.uniform(0.1, 1), opening)
            indices[session_id] += 1
            submitted.add(new)
            accounted += scheduler.submit(new)
        elif (next_job := scheduler.next()) is not None:
            taken[next_job.session_id].append(next_job.chunk.index)
            accounted.append(next_job)
        scheduler.check_integrity()
    accounted += drain(scheduler)
    assert len(accounted) == len(set(accounted)), "a job came back twice"
    assert set(accounted) == submitted
    assert all(order == sorted(order) for order in taken.values())


def test_the_earliest_deadline_comes_first_over_sessions():
    scheduler = scheduler_of("a", "b", "c")
    for session_id, deadline in (("a", 3.0), ("b", 1.0), ("c", 2.0)):
        scheduler.submit(job(session_id, 0, deadline))
    assert [taken.session_id for taken in drain(scheduler)] == ["b", "c", "a"]


def test_an_early_deadline_never_overtakes_the_chunk_before_it():
    scheduler = scheduler_of("a", "b")
    scheduler.submit(job("a", 0, 2.0))
    scheduler.submit(job("a", 1, 0.5))
    scheduler.submit(job("b", 0, 1.0))
    assert [(taken.session_id, taken.chunk.index) for taken in drain(scheduler)] == [
        ("b", 0),
        ("a", 0),
        ("a", 1),
    ]


def test_a_full_backlog_sheds_the_oldest_whole_chunk():
    scheduler = scheduler_of("a", backlog=2)
    jobs = [job("a", index, index * PERIOD) for index in range(4)]
    assert [scheduler.submit(one) for one in jobs] == [[], [], [jobs[0]], [jobs[1]]]
    assert drain(scheduler) == jobs[2:]


@pytest.mark.parametrize("backlog", [1, 2, 3])
def test_the_opening_chunk_is_never_shed_for_a_later_one(backlog):
    scheduler = scheduler_of("a", backlog=backlog)
    opening = job("a", 0, 0.0, opening=True)
    scheduler.submit(opening)
    for index in range(1, 10):
        assert opening not in scheduler.submit(job("a", index, index * PERIOD))
        scheduler.check_integrity()
    assert drain(scheduler)[0] is opening


def test_a_new_stream_supersedes_what_waits_of_the_old_one():
    scheduler = scheduler_of("a")
    old = [job("a", 0, 0.0, opening=True), job("a", 1, PERIOD)]
    for one in old:
        scheduler.submit(one)
    new = job("a", 2, 2 * PERIOD, opening=True)
    assert scheduler.submit(new) == old
    assert drain(scheduler) == [new]


def test_a_session_that_sends_four_times_too_much_is_given_only_its_pace_on_an_idle_device():
    scheduler = scheduler_of("flood")
    served = shed = 0
    for index in range(400):
        shed += len(scheduler.submit(job("flood", index, index * PERIOD / 4)))
        served += scheduler.next() is not None
    assert 100 <= served <= 100 / 0.9 + 4
    assert shed == 400 - served


def test_a_session_at_its_pace_loses_nothing_though_its_clock_is_a_twentieth_fast():
    scheduler = scheduler_of("a")
    for index in range(1000):
        assert scheduler.submit(job("a", index, index * PERIOD * 0.95)) == []
        assert scheduler.next() is not None


def test_after_a_stall_the_newest_chunks_are_kept():
    scheduler = scheduler_of("a")
    burst = [job("a", index, 10.0) for index in range(5)]
    for one in burst:
        scheduler.submit(one)
    assert drain(scheduler) == burst[-2:]


def test_chunks_that_come_in_a_burst_wait_behind_what_is_due_of_others():
    """After its network stalled, a session's held up chunks all had one deadline: it had three turns in a row."""
    scheduler = scheduler_of("stalled", "steady")
    for index in range(2):
        scheduler.submit(job("stalled", index, 1.0))
    scheduler.submit(job("steady", 0, 1.2))
    assert [taken.session_id for taken in drain(scheduler)] == ["stalled", "steady", "stalled"]


def test_equal_deadlines_take_turns():
    scheduler = scheduler_of("a", "b")
    winners = []
    for index in range(20):
        for session_id in ("a", "b"):
            scheduler.submit(job(session_id, index, index * PERIOD))
        winners += [taken.session_id for taken in drain(scheduler)]
    assert all({first, second} == {"a", "b"} for first, second in zip(winners[::2], winners[1::2], strict=True))


def test_removal_returns_what_waited_and_forgets_the_session():
    scheduler = scheduler_of("a", "b")
    waiting = job("a", 0, 1.0)
    scheduler.submit(waiting)
    assert scheduler.remove("a") == [waiting]
    assert scheduler.remove("a") == []
    assert scheduler.next() is None
    with pytest.raises(KeyError):
        scheduler.submit(job("a", 1, 1.0))


def test_a_session_is_added_once_and_with_a_period():
    scheduler = scheduler_of("a")
    with pytest.raises(ValueError, match="has a queue already"):
        scheduler.add("a")
    with pytest.raises(ValueError, match="above 0 seconds"):
        scheduler.add("b", 0.0)


@pytest.mark.parametrize("sessions", [2, 4, 7])
def test_sessions_that_open_together_are_guided_at_different_times(sessions):
    scheduler = Scheduler()
    phases = [scheduler.add(f"s{i}", PERIOD, 7, now=0.0) for i in range(sessions)]
    guided = [index for index in range(70) for phase in phases if is_due(index, 7, phase)]
    assert len(guided) == len(set(guided)), "two sessions are guided in the same chunk"


@pytest.mark.parametrize("seed", range(5))
def test_sessions_that_open_at_any_time_are_guided_farther_apart_than_by_chance(seed):
    rng = random.Random(seed)
    opened = [rng.uniform(0, 60) for _ in range(5)]
    scheduler = Scheduler()
    phases = [scheduler.add(f"s{i}", PERIOD, 7, now) for i, now in enumerate(opened)]

    def closest(phases):
        slots = sorted((now - phase * PERIOD) % (7 * PERIOD) for now, phase in zip(opened, phases, strict=True))
        return min(b - a for a, b in zip(slots, [*slots[1:], slots[0] + 7 * PERIOD], strict=True))

    chances = [closest([rng.randrange(7) for _ in opened]) for _ in range(200)]
    assert closest(phases) > sorted(chances)[150]


def test_the_calendar_guides_every_nth_chunk_and_0_guides_none():
    assert [index for index in range(15) if is_due(index, 7, 0)] == [0, 7, 14]
    assert [index for index in range(15) if is_due(index, 7, 2)] == [5, 12]
    assert not any(is_due(index, 0, 0) for index in range(100))
    assert all(is_due(index, 1, 0) for index in range(100))


def test_the_integrity_check_finds_a_stranger_and_a_wrong_order():
    scheduler = scheduler_of("a")
    scheduler.submit(job("a", 1, 1.0))
    scheduler._lanes["a"].queue.append(job("a", 0, 1.0))
    with pytest.raises(AssertionError, match="in the order"):
        scheduler.check_integrity()
    scheduler._lanes["a"].queue.pop()
    scheduler._lanes["a"].queue.append(job("b", 2, 1.0))
    with pytest.raises(AssertionError, match="holds jobs of"):
        scheduler.check_integrity()
