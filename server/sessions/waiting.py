"""Who waits for a place, and in what order. Pure: `now` and new tickets come in as arguments, time in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class WaitingList:
    """Clients that were refused and ask again: first come, first served.

    A client holds its place with a ticket, which it must show again within `patience`; a place in the list that
    nobody claims is given up, so that one who went away holds up nobody.
    """

    new_ticket: Callable[[], str]
    most: int = 32
    """clients that may wait; 0 keeps no list"""
    each: int = 4
    """of one address: else one client could take all places in line"""
    patience: float = 15.0
    """seconds after which a ticket that was not shown is forgotten"""
    _seen: dict[str, float] = field(default_factory=dict)
    """when each ticket was last shown, the first in line first"""
    _holders: dict[str, str] = field(default_factory=dict)
    """the address that took each ticket, whoever shows it now"""

    def position(self, ticket: str | None, now: float) -> int:
        """Clients before this one, and itself: 1 is next. One without a known ticket comes behind all that wait."""
        self._forget(now)
        tickets = list(self._seen)
        return tickets.index(ticket) + 1 if ticket in self._seen else len(tickets) + 1

    def wait(self, ticket: str | None, now: float, address: str = "") -> tuple[int, str] | None:
        """Keeps or takes a place in line: its position and its ticket. None when there is none for this address."""
        position = self.position(ticket, now)
        if ticket is None or ticket not in self._seen:
            if position > self.most or list(self._holders.values()).count(address) >= self.each:
                return None
            ticket = self.new_ticket()
            self._holders[ticket] = address
        self._seen[ticket] = now
        return position, ticket

    def leave(self, ticket: str | None) -> None:
        """Takes a client off the list, whether it has its session now or gave up. One not on it is no error."""
        if ticket is not None:
            self._seen.pop(ticket, None)
            self._holders.pop(ticket, None)

    def waiting(self, now: float) -> int:
        """Clients that wait."""
        self._forget(now)
        return len(self._seen)

    def _forget(self, now: float) -> None:
        self._seen = {ticket: seen for ticket, seen in self._seen.items() if now - seen <= self.patience}
        self._holders = {ticket: self._holders[ticket] for ticket in self._seen}
