"""What leaves a sender follows the way that it has to go."""

import pytest

from server.webrtc.bitrate import Pacer, RateFollower, Repeats, bitrates, capacity


def test_a_large_picture_is_spread_and_an_ordinary_one_is_not():
    pacer = Pacer()
    ordinary = [pacer.wait(1200, 2_000_000, now=5.0) for _ in range(10)]
    assert max(ordinary) < 1e-9
    large = [pacer.wait(1200, 2_000_000, now=6.0) for _ in range(50)]
    assert large == sorted(large) and large[-1] == pytest.approx(40 * 1200 * 8 / 5_000_000)
    assert pacer.wait(1200, 2_000_000, now=7.0) == 0, "a pause is no debt"


@pytest.mark.parametrize(("way", "seconds"), [(None, 0.212), (1_200_000, 0.431), (700_000, 0.47), (50_000_000, 0.212)])
def test_a_key_frame_leaves_no_faster_than_a_thin_way_takes_it(way, seconds):
    """Behind a queue of a tenth of a second it lost its own end. One that only looked thin still takes the rate."""
    pacer = Pacer()
    waits = [pacer.wait(1250, 800_000, now=5.0, capacity=way) for _ in range(52)]
    assert waits[-1] == pytest.approx(seconds, abs=0.005)


def test_a_packet_is_not_sent_again_while_the_answer_is_on_its_way():
    repeats = Repeats()
    asked = [repeats.copies(7, 2_000_000, 0.34, now=1 + t / 1000) for t in range(0, 340, 60)]
    assert asked == [1, 0, 0, 0, 0, 1], "once, and once more when four fifths of the round trip are over"


def test_over_a_short_way_the_second_answer_is_sent_twice():
    repeats = Repeats()
    assert [repeats.copies(7, 2_000_000, 0.04, now=t) for t in (1.0, 1.05, 1.1)] == [1, 2, 2]


def test_repeats_take_a_quarter_of_the_rate_at_most():
    repeats = Repeats()
    sent = sum(repeats.copies(n, 1_000_000, 0.0, now=n / 1000) for n in range(10_000))
    assert 0.9 * 11 < sent * 1200 * 8 / 250_000 < 11


def test_a_thin_way_is_told_by_how_it_spreads_a_burst():
    answers = [0.3 + n * 1000 * 8 / 1_000_000 for n in range(24)]
    assert capacity(answers, 1000) == pytest.approx(1_000_000)
    assert capacity([0.3 + n * 1e-6 for n in range(24)], 1000) > 100e6
    assert capacity(answers[:5], 1000) is None, "so few say nothing"


@pytest.mark.parametrize("way", [None, 1_000_000, 3_200_000, 50_000_000])
def test_the_first_rate_fits_the_way_and_the_picture(way):
    """2.3 Mbit/s over a way of one let the picture stand for two to three seconds before the rate was down."""
    rates = bitrates(832, 480, 16)
    first = RateFollower(rates, way).choose(0.0)
    assert first == (750_000 if way == 1_000_000 else rates.start)


def test_a_way_that_looked_thin_is_used_when_the_receiver_says_that_it_is_wide():
    follower = RateFollower(bitrates(832, 480, 16), capacity=1_000_000)
    follower.sent = follower.choose(0.0)
    follower.observe(2_000_000)
    assert follower.choose(6.0) == 2_000_000


def test_a_report_of_heavy_loss_lowers_the_rate_at_once():
    """Smoothed like the others, it took three seconds in which the queue was full and no picture came whole."""
    follower = RateFollower(bitrates(832, 480, 16))
    follower.sent = start = follower.choose(0.0)
    follower.lose(0.4)
    assert follower.choose(1.0) == pytest.approx(0.6 * start, abs=1)


def test_a_blackout_halves_the_rate_and_no_more():
    """Its one report of 100 % took the rate to the least there is, for minutes."""
    follower = RateFollower(bitrates(832, 480, 16))
    follower.sent = start = follower.choose(0.0)
    for second, share in enumerate((1.0, 0.0, 0.02, 0.0), start=1):
        follower.lose(share)
        assert follower.choose(second) == start / 2


def test_the_chance_losses_of_a_good_way_do_not_lower_it():
    follower = RateFollower(bitrates(832, 480, 16))
    follower.sent = start = follower.choose(0.0)
    for second, share in enumerate((0.05, 0.13, 0.02, 0.0, 0.13, 0.08, 0.04), start=1):
        follower.lose(share)
        assert follower.choose(second) == start
