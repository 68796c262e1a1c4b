import random

from server.media.sampling import FrameSampler


def slots(sampler, times, delay=0.05):
    """The slots, in order, that frames at `times` take, repeats included."""
    taken = []
    for time in times:
        sample = sampler.accept(time, time + delay)
        if sample.slot is not None:
            taken += range(sample.slot - sample.repeats, sample.slot + 1)
    return taken


def test_a_source_at_the_session_rate_fills_every_slot_once_whatever_its_jitter():
    rng = random.Random(0)
    times = [n / 16 + rng.uniform(-0.02, 0.02) for n in range(500)]
    assert slots(FrameSampler(16), times) == list(range(500))


def test_a_faster_source_is_thinned_and_a_slower_one_repeated_without_a_hole():
    for source in (5, 10, 15, 24, 25, 30, 60):
        taken = slots(FrameSampler(16), [n / source for n in range(source * 10)])
        assert taken == list(range(len(taken)))
        assert abs(len(taken) - 160) <= 4, source


def test_late_and_doubled_frames_are_dropped():
    sampler = FrameSampler(16)
    assert [sampler.accept(t, t).slot for t in (0.0, 0.125, 0.0625, 0.125, 0.1875)] == [0, 2, None, None, 3]


def test_a_long_interruption_is_a_gap_and_nothing_is_made_up_for_it():
    sampler = FrameSampler(16, max_fill=2)
    sampler.accept(0.0, 0.0)
    sample = sampler.accept(5.0, 5.0)
    assert (sample.slot, sample.repeats, sample.gap) == (80, 0, True)


def test_a_stall_of_the_network_is_no_gap_when_no_frame_was_lost():
    sampler = FrameSampler(16)
    times = [n / 16 for n in range(64)]
    arrivals = [t if t < 1 else max(t, 2.5) for t in times]
    samples = [sampler.accept(t, at) for t, at in zip(times, arrivals, strict=True)]
    assert [sample.slot for sample in samples] == list(range(64))
    assert not any(sample.gap for sample in samples)


def test_timestamps_that_jump_are_another_source_that_goes_on_in_time():
    for jump in (47721.86, -300.0):
        sampler = FrameSampler(16)
        assert slots(sampler, [n / 16 for n in range(16)]) == list(range(16))
        sample = sampler.accept(1.0 + jump, 1.05)
        assert (sample.slot, sample.gap) == (16, True)
        after = sampler.accept(1.0625 + jump, 1.1125)
        assert (after.slot, after.repeats, after.gap) == (17, 0, False)


def test_a_source_that_runs_ahead_of_time_gets_no_more_than_the_session_rate():
    sampler = FrameSampler(16, tolerance=2)
    accepted = [sampler.accept(n / 16, n / 64).slot for n in range(4 * 160)]
    kept = sum(slot is not None for slot in accepted)
    assert kept <= 160 + 2 * 16 + 1
