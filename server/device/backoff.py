"""How long to wait before a device that was lost is started again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Backoff:
    """How long to wait before the next start of a device. Pure."""

    limit: int
    """starts in a row that may fail before the device counts as failed"""
    first: float = 0.1
    factor: float = 4.0
    most: float = 10.0
    rarest: float = 300.0
    """of a device that failed: its cause may be gone, so it is tried again, at half the rate each time"""
    failures: int = 0

    def fail(self) -> float:
        """Seconds until the next start."""
        self.failures += 1
        if self.given_up:
            return min(self.rarest, self.most * 2.0 ** min(self.failures - self.limit, 30))
        return min(self.most, self.first * self.factor ** min(self.failures - 1, 30))

    @property
    def given_up(self) -> bool:
        """Whether the device has had its chances."""
        return self.failures > self.limit

    def give_up(self) -> None:
        """The device says that it cannot serve: it has no more chances."""
        self.failures = max(self.failures, self.limit)

    def succeed(self) -> None:
        self.failures = 0
