import pytest

from server.sessions.telemetry import Recent, SessionFigures, percentile


def test_percentiles_are_values_that_occurred():
    values = list(range(100, 0, -1))
    assert [percentile(values, share) for share in (0, 0.5, 0.95, 1)] == [1, 51, 96, 100]
    assert percentile([], 0.5) is None


def test_what_is_older_than_the_window_is_forgotten_and_the_rest_is_bounded():
    recent = Recent(window=10, limit=5)
    for second in range(20):
        recent.add(second, second)
    assert recent.values(19) == [15, 16, 17, 18, 19]
    assert recent.values(27) == [17, 18, 19]
    assert recent.values(100) == []


def test_a_rate_is_counted_over_the_time_it_spans():
    recent = Recent(window=10)
    assert recent.rate(0) == 0
    for n in range(33):
        recent.add(1, n / 16)
    assert recent.rate(2.0) == pytest.approx(16)


def test_figures_are_plain_data():
    figures = SessionFigures()
    figures.dropped["late"] += 2
    figures.latency_ms.add(7.0, 0.0)
    data = figures.as_dict(1.0)
    assert data["frames"]["dropped"] == {"late": 2}
    assert data["latency_ms"] == {"p50": 7.0, "p95": 7.0, "p99": 7.0}
