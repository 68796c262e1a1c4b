"""A peer may send so much on average, and so much at once."""

from server.webrtc.limits import TokenBucket


def test_a_burst_is_allowed_once_and_then_the_average():
    bucket = TokenBucket(rate=10, burst=5)
    assert [bucket.take(1, 0.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert [bucket.take(1, 0.1) for _ in range(2)] == [True, False]
    allowed = sum(bucket.take(1, 1 + n / 1000) for n in range(10_000))
    assert 95 <= allowed <= 110, "10 s at 10 a second, and what was saved before"


def test_what_is_refused_is_not_charged():
    bucket = TokenBucket(rate=1, burst=10)
    assert not bucket.take(11, 0.0) and bucket.take(10, 0.0)


def test_a_clock_that_goes_back_gives_nothing_away():
    bucket = TokenBucket(rate=10, burst=10)
    assert bucket.take(10, 100.0)
    assert not bucket.take(10, 50.0)
