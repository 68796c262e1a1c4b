"""Who may open a session: decided from measured costs."""

import random
from itertools import pairwise

import pytest

from server.scheduling.admission import Admission, AdmissionConfig, Admit, Refuse, place
from server.scheduling.costs import Workload

SMALL = Workload(model="m", width=256, height=144)
LARGE = Workload(model="m", width=512, height=288)


def device(seconds=0.1, **config):
    admission = Admission(AdmissionConfig(**config))
    admission.costs.calibrate(SMALL, seconds)
    return admission


def fill(admission, workload=SMALL, most=1000, now=0.0):
    """Opens sessions until one is refused; the number that opened and the refusal."""
    for count in range(most):
        answer = admission.decide(workload, now)
        if isinstance(answer, Refuse):
            return count, answer
        admission.open(f"s{count}", workload, now)
    return most, None


def test_sessions_are_admitted_until_the_reserve_of_time_is_reached():
    admission = device(0.01)
    count, refusal = fill(admission)
    assert admission.load(0.0) <= 0.85
    assert admission.load(0.0) + admission.costs.mean_cost(0.0, SMALL) / 0.75 > 0.85
    assert "busy" in refusal.reason
    assert count > 10


def test_chunks_that_come_at_once_must_meet_the_tightest_deadline():
    tight = SMALL.model_copy(update={"budget": 0.25})
    count, refusal = fill(device(0.1), tight)
    assert count == 1
    assert "at once" in refusal.reason


def test_the_first_session_is_admitted_however_slow_the_device():
    count, _ = fill(device(30.0))
    assert count == 1


def test_places_and_bytes_are_bounded_too():
    assert fill(device(1e-4, max_sessions=3))[0] == 3
    admission = device(1e-4, memory_bytes=1000 * 2**20)
    admission.open("a", SMALL, 0.0, 900 * 2**20)
    refusal = admission.decide(SMALL, 0.0, 200 * 2**20)
    assert refusal.reason == "the device has 100 MiB left, the session needs 200"
    assert isinstance(admission.decide(SMALL, 0.0, 100 * 2**20), Admit)


@pytest.mark.parametrize("seed", range(30))
def test_who_is_refused_is_refused_beside_more_sessions_and_on_a_slower_device(seed):
    rng = random.Random(seed)

    def workload():
        return Workload(
            model="m",
            width=rng.choice([128, 256, 512]),
            height=144,
            num_steps=rng.randint(1, 4),
            reinject_every=rng.choice([0, 1, 7]),
            fps=rng.choice([8, 16, 24]),
        )

    few, slow = device(0.02), device(0.04)
    more = device(0.02)
    for index in range(rng.randint(1, 20)):
        session = workload()
        for admission in (few, slow, more):
            admission.open(f"s{index}", session, 0.0)
    more.open("one more", workload(), 0.0)
    new = workload()
    if isinstance(few.decide(new, 0.0), Refuse):
        assert isinstance(more.decide(new, 0.0), Refuse)
        assert isinstance(slow.decide(new, 0.0), Refuse)
    elif isinstance(more.decide(new, 0.0), Admit):
        cheaper = new.model_copy(update={"width": 64, "num_steps": 1})
        assert isinstance(more.decide(cheaper, 0.0), Admit)


def test_a_size_that_was_never_measured_costs_by_its_pixels_and_passes():
    admission = device(0.1)
    assert admission.costs.cost(0.0, LARGE) == pytest.approx(0.4)
    assert admission.costs.cost(0.0, SMALL.model_copy(update={"num_steps": 1})) == pytest.approx(0.1 * 2 / 3)


def test_a_short_chunk_costs_what_warm_up_measured_or_its_share_of_a_long_one():
    costs = device(0.3).costs
    short, larger = (w.model_copy(update={"frames": 4}) for w in (SMALL, LARGE))
    assert costs.cost(0.0, short) == pytest.approx(0.1)
    costs.calibrate(short, 0.12)
    assert costs.cost(0.0, short) == pytest.approx(0.12) and costs.cost(0.0, SMALL) == pytest.approx(0.3)
    assert costs.cost(0.0, larger) == pytest.approx(0.12 * 4), "the nearer length tells more than the nearer size"


def test_of_a_large_model_x_init_costs_what_warm_up_measured_and_no_share_of_a_full_chunk():
    """A fifth of a chunk of 20 s was taken for its cost: no deadline allowed x_init, and every chunk passed through."""
    admission = device(20.0)
    admission.costs.calibrate(SMALL, 0.02, "x_init")
    other = SMALL.model_copy(update={"num_steps": 1})
    for workload in (SMALL, other):
        for guided in (False, True):
            assert admission.costs.cost(0.0, workload, "x_init", guided) == pytest.approx(0.02)
    assert admission.costs.cost(0.0, LARGE, "x_init") == pytest.approx(0.08)
    for chunk in range(20):
        admission.costs.measure(chunk * 0.75, SMALL, 0.02, "x_init")
    assert admission.costs.cost(15.0, SMALL) == pytest.approx(20.0), "a cheap chunk makes no other cheap"


def test_guided_chunks_count_by_how_often_they_come():
    admission = device(0.1)
    admission.costs.calibrate(SMALL, 0.3, guided=True)
    means = [admission.costs.mean_cost(0.0, SMALL.model_copy(update={"reinject_every": n})) for n in (0, 10, 1)]
    assert means == pytest.approx([0.1, 0.12, 0.3])


def test_live_measurements_follow_a_device_that_slows_down_and_recovers():
    admission = device(0.1)
    for chunk in range(20):
        admission.costs.measure(chunk * 0.75, SMALL, 0.2)
    assert admission.costs.cost(15.0, SMALL) == pytest.approx(0.2, rel=0.02)
    assert admission.costs.cost(15.0, LARGE) == pytest.approx(0.8, rel=0.02)
    for chunk in range(20, 30):
        admission.costs.measure(chunk * 0.75, SMALL, 0.1)
    assert admission.costs.cost(22.0, SMALL) == pytest.approx(0.1, rel=0.05)


def test_a_slow_spell_on_a_cheap_rung_does_not_make_that_rung_costly_for_ever():
    """The first chunk on x_init, measured on a device 40 times too slow, was taken for its normal cost."""
    admission = device(0.1)
    for chunk in range(40):
        admission.costs.measure(chunk * 0.75, SMALL, 0.02 * 40, rung="x_init")
    for chunk in range(40, 60):
        admission.costs.measure(chunk * 0.75, SMALL, 0.02, rung="x_init")
    assert admission.costs.cost(45.0, SMALL, "x_init") == pytest.approx(0.02, rel=0.1)
    assert admission.costs.cost(45.0, SMALL) < 0.2


def test_a_device_of_which_nothing_is_heard_is_trusted_again():
    admission = device(0.1)
    for chunk in range(20):
        admission.costs.measure(chunk * 0.75, SMALL, 4.0)
    assert admission.costs.slowness(15.0) > 20
    assert admission.costs.slowness(15.0 + 20.0) < 1.2


def test_a_device_that_nothing_dares_to_use_is_tried_again():
    """Warm-up on a busy machine took 16 s for a chunk: every session passed the device by for ever."""
    admission = device(16.0)
    admission.open("a", SMALL, 100.0)
    admission.set_rung("a", "passthrough")
    assert not admission.room("a", "x_init", 101.0)
    assert admission.room("a", "x_init", 112.0)
    assert admission.costs.cost(112.0, SMALL, "x_init") < 0.5
    admission.costs.measure(112.0, SMALL, 3.0, "x_init", guided=True)
    assert not admission.room("a", "x_init", 112.1), "it is as slow as it was"
    assert isinstance(admission.decide(SMALL, 130.0), Refuse), "no new session is let in on a hope"


def test_a_chunk_after_a_silence_tells_nothing_but_what_it_took():
    """Trust grew with the silence, and the first chunk as fast as ever was then taken for three times too slow:
    five seconds after the device was lost no session came above one_step again."""
    admission = device(0.1)
    admission.open("a", SMALL, 0.0)
    for now in (1.0, 9.0):
        admission.costs.measure(now, SMALL, 0.1)
        assert admission.costs.slowness(now) == pytest.approx(1)


def test_one_chunk_that_took_long_for_once_closes_nothing_for_long():
    """As a crowd left, one x_init took 2.5 s instead of 0.07: for ten seconds the device was passed by."""
    admission = device(0.5)
    admission.costs.calibrate(SMALL, 0.07, "x_init")
    admission.open("a", SMALL, 0.0)
    admission.costs.measure(1.0, SMALL, 0.07, "x_init")
    admission.costs.measure(3.5, SMALL, 2.5, "x_init")
    assert admission.costs.cost(4.0, SMALL, "x_init") < SMALL.budget, "it is tried again at once"
    for chunk in range(5):
        admission.costs.measure(4.25 + 0.75 * chunk, SMALL, 0.07, "x_init")
    assert admission.costs.slowness(7.25) < 1.3


def test_no_rung_is_ever_taken_for_dearer_than_a_better_one():
    """One chunk on no_reinjection took 1.2 s instead of 0.35: it was never tried again, nor what lies above it."""
    admission = device(0.5)
    for chunk in range(3):
        admission.costs.measure(0.75 * chunk, SMALL, 0.5)
        admission.costs.measure(0.75 * chunk + 0.3, SMALL, 1.5, "no_reinjection")
    for guided in (False, True):
        costs = [
            admission.costs.cost(3.0, SMALL, rung, guided) for rung in ("full", "one_step", "no_reinjection", "x_init")
        ]
        assert costs == sorted(costs, reverse=True)


def test_a_device_known_by_kinds_only_that_warm_up_did_not_measure_is_not_misjudged_for_ever():
    """Slowness three times too high and a kind three times too cheap explained each other, and nothing moved again."""
    admission = device(0.1)
    admission.costs._slowness, admission.costs._measured_at = 3.0, 0.0
    for chunk in range(20):
        admission.costs.measure(0.75 * chunk, SMALL, 0.07, "one_step")
    assert admission.costs.slowness(15.0) == pytest.approx(1.0, abs=0.1)


def test_on_an_overloaded_device_a_chunk_is_wanted_sooner_than_its_budget():
    admission = device(0.2)
    crowd(admission, ["full"] * 2)
    assert admission.tightened("s0", 10.0, 0.0) == 10.0
    for index in range(2, 6):
        admission.open(f"s{index}", SMALL, 0.0)
    wanted = 10.0 - SMALL.budget + 1.4 * (SMALL.period + 0.2) - SMALL.period
    assert admission.tightened("s0", 10.0, 0.0) == pytest.approx(wanted)
    dear = device(2.0)
    crowd(dear, ["full"] * 2)
    assert dear.tightened("s0", 10.0, 0.0) == 10.0, "never later than its deadline"


def test_a_device_that_is_tried_in_vain_is_tried_ever_more_seldom():
    admission = device(1.0)
    admission.open("a", SMALL, 0.0)
    admission.set_rung("a", "passthrough")
    now, tries = 0.0, []
    while now < 300:
        now += 0.75
        if admission.room("a", "x_init", now) and admission.costs.cost(now, SMALL, "x_init") < SMALL.budget:
            admission.costs.measure(now, SMALL, 2.0, "x_init")
            tries.append(now)
    waits = [b - a for a, b in pairwise(tries)]
    assert 5 <= len(tries) <= 15
    assert waits[-1] > 4 * waits[0]
    admission.costs.measure(now, SMALL, 0.2, "x_init")
    assert admission.room("a", "x_init", now + 3), "one try that went well makes up for all"


@pytest.mark.parametrize(("seconds", "hoped"), [(3.0, 0.5), (20.0, 20 / 6), (0.3, 0.3)])
def test_a_model_that_was_never_tried_is_taken_for_quicker_until_a_chunk_shows_what_it_takes(seconds, hoped):
    admission = device(seconds)
    admission.costs.calibrate(SMALL, 0.02, "x_init")
    admission.open("a", SMALL, 0.0)

    def stay_low(start, chunks=8):
        for chunk in range(chunks):
            admission.costs.measure(start + 0.75 * chunk, SMALL, 0.02, "x_init")
        return start + 0.75 * (chunks - 1)

    assert admission.costs.cost(0.75, SMALL) == pytest.approx(seconds)
    now = stay_low(0.75)
    assert admission.costs.cost(now, SMALL) == pytest.approx(hoped)
    assert isinstance(admission.decide(SMALL, now), Refuse), "no session is let in on a hope"
    admission.costs.measure(now + 1, SMALL, seconds)
    assert admission.costs.cost(stay_low(now + 1.75), SMALL) == pytest.approx(seconds)


def test_passthrough_tells_nothing_about_the_device():
    admission = device(0.1)
    admission.costs.measure(0.0, SMALL, 0.0, rung="passthrough")
    assert admission.costs.slowness(0.0) == 1


def crowd(admission, rungs):
    for index, rung in enumerate(rungs):
        admission.open(f"s{index}", SMALL, 0.0)
        admission.set_rung(f"s{index}", rung)


def test_there_is_room_above_only_while_the_reserve_holds():
    admission = device(0.1)
    crowd(admission, ["full"] * 4)
    assert admission.fits("s0", 0.0)
    for chunk in range(100):
        admission.costs.measure(0.02 * chunk, SMALL, 0.22)
    assert not admission.fits("s0", 2.0)
    for index in range(4):
        admission.set_rung(f"s{index}", "no_reinjection")
    assert admission.fits("s0", 2.0)
    assert not admission.room("s0", "full", 2.0)


def test_a_session_goes_one_rung_above_the_others_share_at_most_however_low_they_are():
    """Whoever climbed first kept the room: of equal sessions two were on one_step and two on passthrough."""
    admission = device(0.36)
    crowd(admission, ["x_init"] * 4)
    assert admission.level(0.0, 0.85) == "x_init"
    assert admission.room("s0", "no_reinjection", 0.0)
    assert not admission.room("s0", "one_step", 0.0)
    admission.set_rung("s0", "no_reinjection")
    assert not admission.room("s1", "no_reinjection", 0.0), "the room is for one"
    admission.set_rung("s1", "passthrough")
    assert not admission.room("s2", "no_reinjection", 0.0), "the share of one who is low for now is not given away"
    assert admission.room("s1", "x_init", 0.0)


def test_a_session_above_its_share_makes_way_and_one_within_it_need_not():
    admission = device(0.36)
    crowd(admission, ["full", "x_init", "x_init", "x_init"])
    assert not admission.fits("s0", 0.0)
    assert all(admission.fits(f"s{index}", 0.0) for index in (1, 2, 3))


def test_of_a_session_that_takes_one_step_the_share_is_no_rung_that_it_has_not():
    admission = device(0.1)
    one_step = SMALL.model_copy(update={"num_steps": 1})
    admission.costs.calibrate(one_step, 0.33)
    for index in range(2):
        admission.open(f"s{index}", one_step, 0.0)
        admission.set_rung(f"s{index}", "no_reinjection")
    assert admission.load(0.0) == pytest.approx(2 * 0.33 / 0.75), "one step costs what full does, but for guided ones"
    assert admission.level(0.0, 1.0) == "one_step", "which is no_reinjection to both"
    assert admission.fits("s0", 0.0)
    assert not admission.room("s0", "full", 0.0)


def test_a_session_that_is_alone_may_use_the_whole_device():
    admission = device(0.7)
    alone = SMALL.model_copy(update={"reinject_every": 0})
    admission.open("a", alone, 0.0)
    assert admission.room("a", "full", 0.0)
    admission.open("b", alone, 0.0)
    assert not admission.room("a", "full", 0.0)


def test_the_wait_of_a_refused_client_follows_how_long_sessions_last():
    admission = device(0.01, max_sessions=2, retry_after=10)
    assert fill(admission)[1].retry_after == 10
    admission.close("s0", 40.0)
    admission.open("s2", SMALL, 40.0)
    assert admission.decide(SMALL, 41.0).retry_after == pytest.approx(20.0)


def test_closing_gives_the_place_back_and_closing_twice_is_no_error():
    admission = device(0.1, max_sessions=1)
    fill(admission)
    admission.close("s0", 1.0)
    admission.close("s0", 1.0)
    assert admission.load(1.0) == 0
    assert isinstance(admission.decide(SMALL, 1.0), Admit)


def test_a_changed_solver_changes_the_load():
    admission = device(0.1)
    admission.open("a", SMALL, 0.0)
    before = admission.load(0.0)
    admission.change("a", SMALL.model_copy(update={"reinject_every": 1}))
    assert admission.load(0.0) > before


def test_nothing_can_cost_no_time_and_no_session_opens_twice():
    admission = device(0.1)
    with pytest.raises(ValueError, match="more than 0 seconds"):
        admission.costs.calibrate(SMALL, 0.0)
    admission.open("a", SMALL, 0.0)
    with pytest.raises(ValueError, match="open already"):
        admission.open("a", SMALL, 0.0)


def test_a_model_of_which_nothing_was_measured_is_learned_from_its_first_chunk():
    admission = Admission()
    assert isinstance(admission.decide(SMALL, 0.0), Admit)
    admission.costs.measure(0.0, SMALL, 0.25)
    assert admission.costs.cost(0.0, SMALL) == pytest.approx(0.25)


def test_sessions_go_to_the_device_with_the_most_time_left():
    devices = [device(0.05) for _ in range(3)]
    for index in range(9):
        devices[place(devices, SMALL, 0.0)].open(f"s{index}", SMALL, 0.0)
    loads = [one.load(0.0) for one in devices]
    assert max(loads) == pytest.approx(min(loads))


def test_when_every_device_is_full_the_soonest_answer_is_given():
    devices = [device(0.1, max_sessions=1, retry_after=seconds) for seconds in (30, 5, 20)]
    for one in devices:
        one.open("a", SMALL, 0.0)
    assert place(devices, SMALL, 0.0).retry_after == 5
