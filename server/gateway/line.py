"""The cluster's waiting line, as a gateway asks for it. One node keeps it, and every gateway knows which."""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import quote

from server.gateway.forward import Broken, Forward, NotSent
from server.gateway.placement import Cluster

RETRY_AFTER = 3.0
"""seconds after which a client in line asks again"""


@dataclass(frozen=True)
class Standing:
    """Where a client stands. A ticket of None: it does not wait, and comes behind those that do."""

    position: int
    before: int
    """of those before it, whom it may not overtake"""
    ticket: str | None


class Line:
    """Asks the node that keeps the line. Without an answer there is no line: nobody is held up by its loss."""

    def __init__(self, cluster: Cluster, forward: Forward):
        self._cluster = cluster
        self._forward = forward

    async def before(self, ticket: str | None, free: int) -> int:
        """How many come before a client; where places are free, only those that they would do for.

        0 where nobody waits, or nobody knows.
        """
        standing = await self._ask({"ticket": ticket, "wait": False})
        if standing is None:
            return 0
        return standing.before if free > 0 else standing.position - 1

    async def wait(self, ticket: str | None, address: str, too_large: bool) -> Standing | None:
        """Keeps or takes a place in line. None where there is none to have.

        `too_large`: there were free places, and none would do for what the client asks for.
        """
        asked: dict[str, object] = {"ticket": ticket, "wait": True, "address": address, "too_large": too_large}
        standing = await self._ask(asked)
        return standing if standing and standing.ticket else None

    async def serve(self, ticket: str | None) -> None:
        """A client, in line or not, got its place: those before it were overtaken."""
        keeper = self._cluster.line_keeper()
        if keeper is not None:
            try:
                await self._forward.ask(keeper, "POST", "/cluster/line/served", {"ticket": ticket})
            except (NotSent, Broken):
                return  # the line is gone with its node

    async def leave(self, ticket: str) -> None:
        """Gives a place in line up. One that is not known is no error."""
        keeper = self._cluster.line_keeper()
        if keeper is not None:
            try:
                await self._forward.ask(keeper, "DELETE", f"/cluster/line/{quote(ticket, safe='')}")
            except (NotSent, Broken):
                return  # the line is gone with its node

    async def _ask(self, body: dict[str, object]) -> Standing | None:
        keeper = self._cluster.line_keeper()
        if keeper is None:
            return None
        try:
            answer = await self._forward.ask(keeper, "POST", "/cluster/line", body)
        except (NotSent, Broken):
            return None
        if answer.status != 200:
            return None
        found = json.loads(answer.body)
        return Standing(int(found["position"]), int(found["before"]), found["ticket"])
