"""How often and how much each client may ask for. Pure: time is data, in seconds."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass
class TokenBucket:
    """Lets `burst` things happen at once, and `rate` a second after that."""

    rate: float
    burst: float
    _level: float | None = None
    """how many may happen at `_at`; None: nothing happened yet"""
    _at: float = 0.0

    def level(self, now: float) -> float:
        """How many may happen now."""
        if self._level is None:
            return self.burst
        return min(self.burst, self._level + (now - self._at) * self.rate)

    def take(self, now: float) -> float:
        """Has one thing happen, and returns 0; or the seconds until one may, when none may now."""
        level = self.level(now)
        if level < 1:
            return (1 - level) / self.rate
        self._level, self._at = level - 1, now
        return 0.0

    def is_full(self, now: float) -> bool:
        """Whether it is as it was at first, and need not be kept."""
        return self.level(now) >= self.burst


@dataclass(frozen=True)
class Quota:
    """What one holder may use: an address, or whoever a token names."""

    holder: str
    """in words, as in `address 192.0.2.7`"""
    sessions: int | None = None
    """at a time; None is as many as there are"""
    rate: float | None = None
    """sessions that may be opened a second, twice as many at once; None is no limit"""


@dataclass
class Quotas:
    """What all holders use now."""

    most: int = 10_000
    """holders that are remembered"""
    _buckets: dict[str, TokenBucket] = field(default_factory=dict)
    _held: dict[Hashable, tuple[str, ...]] = field(default_factory=dict)
    """the holders of each open session"""

    def offer(self, quotas: tuple[Quota, ...], now: float) -> tuple[Quota, float] | None:
        """Counts an offer; or returns the quota that it exceeds, and the seconds until the next may come."""
        for quota in quotas:
            if quota.rate is None:
                continue
            wait = self._bucket(quota.holder, quota.rate, now).take(now)
            if wait > 0:
                return quota, wait
        return None

    def exceeded(self, quotas: tuple[Quota, ...]) -> Quota | None:
        """The quota of open sessions that one more would exceed."""
        return next((q for q in quotas if q.sessions is not None and self.held(q.holder) >= q.sessions), None)

    def held(self, holder: str) -> int:
        """Sessions that a holder has open."""
        return sum(holder in holders for holders in self._held.values())

    def open(self, session_id: Hashable, quotas: tuple[Quota, ...]) -> None:
        """Counts an open session."""
        self._held[session_id] = tuple(quota.holder for quota in quotas)

    def close(self, session_id: Hashable) -> None:
        """Forgets a session. One that is not open is no error."""
        self._held.pop(session_id, None)

    @property
    def ids(self) -> set[Hashable]:
        """The sessions that are counted."""
        return set(self._held)

    def _bucket(self, holder: str, rate: float, now: float) -> TokenBucket:
        bucket = self._buckets.get(holder)
        if bucket is None or bucket.rate != rate:
            self._forget(now)
            bucket = self._buckets[holder] = TokenBucket(rate, max(2.0, 2 * rate))
        return bucket

    def _forget(self, now: float) -> None:
        """Drops the buckets that are full again; of too many, the one that was asked first."""
        if len(self._buckets) < self.most:
            return
        self._buckets = {holder: bucket for holder, bucket in self._buckets.items() if not bucket.is_full(now)}
        while len(self._buckets) >= self.most:
            del self._buckets[next(iter(self._buckets))]
