"""A refused request, in the terms of HTTP, and the place in line of a client that waits."""

from __future__ import annotations

from dataclasses import dataclass

from server.quotas import Quota


@dataclass(frozen=True)
class Place:
    """Where a client stands in line."""

    position: int
    """1 is next"""
    ticket: str
    """shown again in the next request, it keeps the place"""


@dataclass(frozen=True)
class Asks:
    """How a client asks for a place."""

    queue: bool = False
    """it waits where there is none"""
    ticket: str | None = None
    """what it was given when it did so before"""
    address: str = ""
    """whose request it is"""
    quotas: tuple[Quota, ...] = ()
    """what whoever asks may use"""
    pixels: int | None = None
    """most pixels of a restored frame that whoever asks may have; None is as many as the server gives anybody"""


class Refusal(Exception):
    """A request that cannot be met, or an offer that cannot be used, in the terms of HTTP."""

    def __init__(
        self, status: int, code: str, message: str, retry_after: float | None = None, place: Place | None = None
    ):
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.place = place
        """in the line of those that wait, for a client that asked for one"""
