"""Packet times come out on one clock that starts at zero, as `ffmpeg -c copy` writes them."""

from fractions import Fraction

import av

from server.files.clock import Clock, Order

BASE = Fraction(1, 90000)


def packet(dts, pts=None, duration=3600, index=0, base=BASE):
    class Stamped:
        """What the clock looks at of a packet: PyAV's has a stream index only inside a container."""

    found = Stamped()
    found.dts, found.pts, found.duration = dts, dts if pts is None else pts, duration
    found.stream_index, found.time_base = index, base
    return found


def corrected(clock, *packets):
    for each in packets:
        clock.correct(each)
    return [each.dts for each in packets]


def test_a_clock_that_starts_anywhere_starts_at_zero():
    start = 20 * 3600
    clock = Clock(start * 1_000_000, jumps=True)
    assert corrected(clock, packet(start * 90000), packet(start * 90000 + 3600)) == [0, 3600]


def test_a_recording_that_restarts_its_clock_follows_the_one_before():
    clock = Clock(jumps=True)
    times = corrected(clock, *(packet(i * 3600) for i in range(10)), *(packet(i * 3600) for i in range(10)))
    assert times == [i * 3600 for i in range(20)]


def test_sound_moves_with_the_pictures_when_the_clock_restarts():
    clock = Clock(jumps=True)
    both = [packet(i * 3600, index=index) for i in (*range(10), *range(10)) for index in (0, 1)]
    times = corrected(clock, *both)
    assert times[::2] == times[1::2] == [i * 3600 for i in range(20)]


def test_a_jump_far_ahead_is_closed_and_a_gap_of_seconds_kept():
    clock = Clock(jumps=True)
    hour = 3600 * 90000
    assert corrected(clock, packet(0), packet(3600 + 5 * 90000)) == [0, 3600 + 5 * 90000]
    assert corrected(clock, packet(hour)) == [3600 + 5 * 90000 + 3600]


def test_a_stream_that_appears_late_on_another_clock_joins_the_common_one():
    clock = Clock(jumps=True)
    assert corrected(clock, packet(0), packet(3600 * 90000, index=1)) == [0, 0]


def test_a_file_whose_clock_may_not_jump_keeps_its_gaps_but_no_impossible_time():
    clock = Clock(jumps=False)
    hour = 3600 * 90000
    assert corrected(clock, packet(0), packet(hour), packet(100 * hour)) == [0, hour, hour + 3600]


def test_a_packet_without_a_time_follows_its_predecessor():
    clock = Clock()
    nameless = packet(None)
    nameless.pts = None
    assert corrected(clock, packet(0), nameless) == [0, 3600]


def test_the_order_of_a_track_always_rises():
    """A repeated time made the muxer refuse the packet, and the work was lost."""
    order, times = Order(), []
    for dts in (0, 1000, 1000, 900, 5000):
        each = av.Packet(b"x")
        each.pts = each.dts = dts
        each.duration, each.time_base = 10, Fraction(1, 1000)
        order.correct(each, 1, Fraction(1, 48000))
        times.append(each.dts)
        assert each.pts >= each.dts
    assert times == [0, 48000, 48001, 48002, 240000]


def test_tracks_are_ordered_each_for_itself():
    order = Order()
    for index in (1, 2):
        each = av.Packet(b"x")
        each.pts = each.dts = 7
        each.time_base = Fraction(1, 1000)
        order.correct(each, index, Fraction(1, 1000))
        assert each.dts == 7
