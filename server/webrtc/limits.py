"""How much a peer may send. Pure: no I/O; time is data, in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TokenBucket:
    """Allows `rate` units a second on average, and `burst` units at once."""

    rate: float
    burst: float
    _tokens: float | None = None
    _filled: float = 0.0

    def take(self, amount: float, now: float) -> bool:
        """Whether `amount` units may pass at `now`. Those that may not are not charged."""
        tokens = self.burst if self._tokens is None else self._tokens
        tokens = min(self.burst, tokens + self.rate * max(0.0, now - self._filled))
        allowed = amount <= tokens
        self._tokens, self._filled = tokens - amount if allowed else tokens, now
        return allowed
