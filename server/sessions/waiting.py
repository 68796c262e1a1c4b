"""Who waits for a place, and in what order. Pure: `now` and new tickets come in as arguments, time in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

W = TypeVar("W")


@dataclass
class _Waiter(Generic[W]):
    wants: W | None
    """what it asked for last"""
    address: str
    """that took the ticket, whoever shows it now"""
    seen: float
    """when the ticket was last shown"""
    overtaken: int = 0
    """clients behind it that got a place before it"""
    closed_since: float | None = None
    """since when nobody may overtake it any more"""


@dataclass
class WaitingList(Generic[W]):
    """Clients that were refused and ask again: first come, first served, as far as they can be.

    A client holds its place with a ticket, which it must show again within `patience`; a place in the list that
    nobody claims is given up, so that one who went away holds up nobody.

    One who asks for more than there is now lets those behind it pass who ask for less. So that it comes to its turn,
    it lets `overtakers` pass and no more: then places are kept for it as they come free. So that it does not hold up
    the others for ever, that lasts for `turn` seconds; after them it goes to the end of the line.
    """

    new_ticket: Callable[[], str]
    most: int = 32
    """clients that may wait; 0 keeps no list"""
    each: int = 4
    """of one address: else one client could take all places in line"""
    patience: float = 15.0
    """seconds after which a ticket that was not shown is forgotten"""
    overtakers: int = 8
    """clients that may pass one that does not fit"""
    turn: float = 30.0
    """seconds for which places are kept for one that was overtaken so often"""
    _waiters: dict[str, _Waiter[W]] = field(default_factory=dict)
    """by ticket, the first in line first"""

    @property
    def tickets(self) -> list[str]:
        """Of all that wait, the first in line first."""
        return list(self._waiters)

    def position(self, ticket: str | None, now: float) -> int:
        """Clients before this one, and itself: 1 is next. One without a known ticket comes behind all that wait."""
        self._forget(now)
        tickets = list(self._waiters)
        return tickets.index(ticket) + 1 if ticket in self._waiters else len(tickets) + 1

    def before(self, ticket: str | None, now: float, fits: Callable[[W | None], bool]) -> int:
        """Clients whom this one may not overtake: those before it that `fits` now, and one that has its turn."""
        ahead = list(self._waiters)[: self.position(ticket, now) - 1]
        return sum(self._waiters[other].closed_since is not None or fits(self._waiters[other].wants) for other in ahead)

    def wait(self, ticket: str | None, now: float, address: str = "", wants: W | None = None) -> tuple[int, str] | None:
        """Keeps or takes a place in line: its position and its ticket. None when there is none for this address."""
        position = self.position(ticket, now)
        if ticket is None or ticket not in self._waiters:
            if position > self.most or self._held_by(address) >= self.each:
                return None
            ticket = self.new_ticket()
            self._waiters[ticket] = _Waiter(wants, address, now)
        self._waiters[ticket].wants, self._waiters[ticket].seen = wants, now
        return position, ticket

    def serve(self, ticket: str | None, now: float) -> None:
        """A client, in line or not, gets its place: those before it were overtaken."""
        ahead = list(self._waiters)[: self.position(ticket, now) - 1]
        for other in (self._waiters[waiting] for waiting in ahead):
            other.overtaken += 1
            if other.overtaken >= self.overtakers and other.closed_since is None:
                other.closed_since = now
        self.leave(ticket)

    def leave(self, ticket: str | None) -> None:
        """Takes a client off the list, whether it has its session now or gave up. One not on it is no error."""
        if ticket is not None:
            self._waiters.pop(ticket, None)

    def waiting(self, now: float) -> int:
        """Clients that wait."""
        self._forget(now)
        return len(self._waiters)

    def _held_by(self, address: str) -> int:
        return sum(waiter.address == address for waiter in self._waiters.values())

    def _forget(self, now: float) -> None:
        """Drops who went away, and sends to the end of the line who had its turn."""
        self._waiters = {t: waiter for t, waiter in self._waiters.items() if now - waiter.seen <= self.patience}
        for ticket, waiter in list(self._waiters.items()):
            if waiter.closed_since is not None and now - waiter.closed_since > self.turn:
                waiter.overtaken, waiter.closed_since = 0, None
                self._waiters[ticket] = self._waiters.pop(ticket)
