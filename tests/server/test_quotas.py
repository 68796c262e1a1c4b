"""How often and how much one client may ask for, with a clock of our own."""

from server.quotas import Quota, Quotas, TokenBucket


def test_a_bucket_gives_its_burst_at_once_and_then_its_rate():
    bucket = TokenBucket(rate=2, burst=3)
    assert [bucket.take(100.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert bucket.take(100.5) == 0
    assert bucket.take(100.5) > 0
    assert [bucket.take(900.0) for _ in range(4)] == [0, 0, 0, 0.5]


def test_over_any_time_no_more_pass_than_burst_and_rate_say():
    bucket = TokenBucket(rate=5, burst=10)
    passed = sum(bucket.take(step / 100) == 0 for step in range(1000))
    assert 58 <= passed <= 60


def test_offers_are_counted_by_holder_and_the_wait_is_told():
    quotas, a, b = Quotas(), (Quota("address a", rate=1),), (Quota("address b", rate=1),)
    assert [quotas.offer(a, 0.0) for _ in range(2)] == [None, None]
    assert quotas.offer(a, 0.0) == (a[0], 1.0)
    assert quotas.offer(b, 0.0) is None
    assert quotas.offer((Quota("address c"),) * 3, 0.0) is None


def test_open_sessions_are_counted_by_holder_until_they_close():
    quotas, two = Quotas(), (Quota("token t", sessions=2), Quota("address a", sessions=9))
    for session in "xy":
        assert quotas.exceeded(two) is None
        quotas.open(session, two)
    assert quotas.exceeded(two) == two[0]
    assert quotas.exceeded(two[1:]) is None
    assert (quotas.held("token t"), quotas.held("address a"), quotas.held("address b")) == (2, 2, 0)
    quotas.close("x")
    quotas.close("x")
    assert quotas.exceeded(two) is None
    assert quotas.ids == {"y"}


def test_no_number_of_addresses_fills_memory():
    quotas = Quotas(most=100)
    for number in range(5000):
        assert quotas.offer((Quota(f"address {number}", rate=1),), 0.0) is None
    assert len(quotas._buckets) <= 100
