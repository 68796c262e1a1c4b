import random

import pytest

from server.loadtest.growth import growth, per_hour, series
from server.loadtest.result import growth_lines


def sample(at, rss=1e8, fds=30, tasks=5, device=True):
    usage = {"pid": 7, "rss_bytes": rss, "fds": fds, "threads": 4}
    return {"at": at, "tasks": tasks, "processes": {"server": usage, "device": usage if device else None}}


def test_each_figure_of_each_process_is_a_series_and_a_process_that_is_away_leaves_a_hole():
    found = series([sample(0.0), sample(2.0, device=False), {"at": 4.0, "load": 0.5}, sample(6.0)])
    assert found["server_rss_bytes"] == [(0.0, 1e8), (2.0, 1e8), (6.0, 1e8)]
    assert found["device_fds"] == [(0.0, 30.0), (6.0, 30.0)]
    assert found["tasks"] == [(0.0, 5.0), (2.0, 5.0), (6.0, 5.0)]
    assert not any("pid" in name for name in found)


def test_a_leak_is_found_under_noise_and_peaks():
    rng = random.Random(0)
    leaky = [(t, 1e8 + 1000 * t + rng.gauss(0, 3e4) + (5e6 if t % 100 < 4 else 0)) for t in range(0, 1800, 2)]
    assert per_hour(leaky) == pytest.approx(3.6e6, rel=0.05)


def test_what_only_fills_at_the_start_is_no_leak_and_what_ends_is_none_either():
    filling = [(t, min(100, t) + (50 if 2 < t < 999 else 0)) for t in range(0, 1001, 2)]
    assert per_hour(filling) == 0


def test_the_time_before_the_first_client_and_after_the_last_are_told_apart_from_the_time_between():
    found = growth([sample(0.0, fds=20), *(sample(t, fds=60) for t in range(2, 60, 2)), sample(60.0, fds=20)])
    assert found["server_fds"] == {"before": 20, "after": 20, "most": 60, "per_hour": 0}


def test_a_test_of_seconds_tells_no_slope():
    """A load test of six seconds reported -1796.7 tasks an hour."""
    short = growth([sample(0.0), *(sample(t, tasks=20 - t) for t in range(1, 6)), sample(6.0)])
    assert short["tasks"]["per_hour"] is None
    assert "tasks: before 5.0, after 5.0, most 19.0" in growth_lines(short)


def test_of_two_samples_there_is_no_slope():
    assert per_hour([(0.0, 1.0), (2.0, 2.0)]) is None
    assert growth([]) == {}
