"""The ladder of one session: down when a deadline slips, up when deadlines hold."""

import random

import pytest

from server.scheduling.ladder import RUNGS, Ladder, above, below, rungs_of

COSTS = dict(zip(RUNGS, [0.4, 0.3, 0.2, 0.05, 0.0], strict=True))


def test_the_rungs_go_down_to_passthrough_and_up_to_full_one_by_one():
    assert RUNGS == ("full", "one_step", "no_reinjection", "x_init", "passthrough")
    assert [below(rung) for rung in RUNGS] == [*RUNGS[1:], "passthrough"]
    assert [above(rung) for rung in RUNGS] == ["full", *RUNGS[:-1]]


def test_a_chunk_starts_on_the_best_rung_that_meets_its_deadline():
    for slack, expected in ((0.5, "full"), (0.35, "one_step"), (0.25, "no_reinjection"), (0.1, "x_init")):
        assert Ladder().choose(10.0, 10.0 + slack, COSTS.__getitem__) == expected
    assert Ladder().choose(10.0, 9.0, COSTS.__getitem__) == "passthrough"


def test_a_chunk_that_opens_a_stream_never_passes_the_device_by():
    assert Ladder().choose(10.0, 0.0, COSTS.__getitem__, lowest="x_init") == "x_init"
    assert Ladder(rung="passthrough").choose(10.0, 0.0, COSTS.__getitem__, lowest="x_init") == "x_init"


@pytest.mark.parametrize("seed", range(10))
def test_a_chunk_never_starts_above_its_sessions_rung_nor_beyond_its_deadline(seed):
    rng = random.Random(seed)
    ladder = Ladder(rung=rng.choice(RUNGS))
    for now in range(200):
        rung, slack = ladder.rung, rng.uniform(-0.2, 0.6)
        chosen = ladder.choose(now, now + slack, COSTS.__getitem__)
        assert RUNGS.index(chosen) >= RUNGS.index(rung)
        assert chosen == "passthrough" or COSTS[chosen] <= slack
        ladder.observe(now, rng.uniform(-0.5, 0.5), room=rng.random() < 0.5, fits=rng.random() < 0.9)


def test_one_slip_costs_one_rung_and_never_more():
    ladder = Ladder()
    for expected in (*RUNGS[1:], "passthrough"):
        assert ladder.observe(0.0, 0.2) == expected


def test_one_step_is_no_rung_of_a_session_that_takes_one_step_anyway():
    assert rungs_of(1) == ("full", "no_reinjection", "x_init", "passthrough")
    assert rungs_of(2) == RUNGS
    ladder = Ladder(rungs=rungs_of(1))
    assert ladder.choose(10.0, 10.35, COSTS.__getitem__) == ladder.rung == "no_reinjection"
    assert ladder.next_up == "full"


def test_a_session_that_is_changed_to_one_step_leaves_the_rung_that_is_none_and_climbs_past_it():
    ladder = Ladder(rung="one_step", since=0.0)
    ladder.adapt(1)
    assert ladder.rung == "full"
    ladder.observe(0.0, 0.2)
    ladder.adapt(2)
    assert (ladder.rung, ladder.next_up) == ("no_reinjection", "one_step")


def test_a_device_that_does_not_keep_up_costs_a_rung_before_a_deadline_slips():
    assert Ladder().observe(0.0, -0.5, fits=False) == "one_step"


def test_deadlines_that_hold_bring_full_quality_back_within_five_seconds():
    ladder, now = Ladder(rung="passthrough", since=0.0), 0.0
    while ladder.rung != "full":
        now += 0.75
        ladder.observe(now, -0.5)
        assert now <= 5, "full quality did not come back in time"
    assert now >= 4 * ladder.hold, "the ladder climbed without holding"


def test_a_deadline_that_is_only_just_met_neither_costs_nor_gains_a_rung():
    ladder = Ladder(rung="one_step", since=0.0)
    assert {ladder.observe(now * 0.75, -0.01) for now in range(100)} == {"one_step"}


def test_without_room_on_the_device_a_session_stays_where_it_is():
    ladder = Ladder(rung="x_init", since=0.0)
    assert {ladder.observe(now * 0.75, -0.5, room=False) for now in range(100)} == {"x_init"}


def test_a_slip_starts_the_wait_for_the_next_rung_anew():
    ladder = Ladder(rung="x_init", since=0.0)
    ladder.observe(0.8, -0.01)  # close
    assert ladder.observe(1.4, -0.5) == "x_init"
    assert ladder.observe(1.6, -0.5) == "no_reinjection"


def test_a_session_that_must_pass_can_still_climb():
    """A chunk chosen at `passthrough` reset the wait, so that a session there stayed for ever."""
    ladder = Ladder(rung="passthrough", since=0.0)
    for now in range(1, 4):
        ladder.choose(now, now + 0.75, COSTS.__getitem__)
        ladder.observe(now, -0.75)
    assert ladder.rung != "passthrough"
