"""How long to wait before a device that was lost is started again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Backoff:
    """How long to wait before the next start of a device. Pure."""

    limit: int
    """starts in a row that may fail"""
    first: float = 0.1
    factor: float = 4.0
    most: float = 10.0
    failures: int = 0

    def fail(self) -> float | None:
        """Seconds until the next start; None when the device has had its chances."""
        self.failures += 1
        if self.failures > self.limit:
            return None
        return min(self.most, self.first * self.factor ** (self.failures - 1))

    def succeed(self) -> None:
        self.failures = 0
