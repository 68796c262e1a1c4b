"""An aioice connection that is bound where the settings say and hears only its peer."""

from __future__ import annotations

import asyncio
import itertools
import logging
import struct
from contextlib import suppress
from typing import Any

from aioice import Candidate as IceCandidate
from aioice import Connection, ice, stun
from aioice.candidate import candidate_foundation, candidate_priority

from server.webrtc.bitrate import capacity
from server.webrtc.config import RtcConfig

logger = logging.getLogger(__name__)

PROBES, PROBE_CHECKS, PROBE_PADDING = 2, 24, 763
"""bursts before the first picture, connectivity checks in each, and bytes that make each larger: as many as SOFTWARE
may have (RFC 8489, 14.14), which whoever answers does not look at"""
PROBE_PATIENCE = 0.06
"""seconds after one answer that the next of a burst is waited for: one that was lost does not come"""
UDP_HEADERS = 28
"""bytes of UDP and IPv4 around a datagram"""


class GuardedProtocol(ice.StunProtocol):
    """A media socket that hears connectivity checks from anyone and everything else from the peer only.

    Without it, a stranger's DTLS packet ends a handshake and an empty datagram ends a session.
    """

    strangers: int = 0
    """datagrams dropped because they did not come from the peer, or were no STUN message"""

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        assert isinstance(data, bytes)
        stun_like = len(data) >= 20 and data[0] < 4
        if not stun_like and not self._is_peer(addr):
            self.strangers += 1
            return
        try:
            super().datagram_received(data, addr)
        except (struct.error, IndexError, UnicodeDecodeError):
            self.strangers += 1

    def _is_peer(self, addr: tuple[Any, ...]) -> bool:
        source = (addr[0], addr[1])
        return any(
            pair.remote_addr == source and pair.state == ice.CandidatePair.State.SUCCEEDED
            for pair in self.receiver._check_list
        )


class BoundConnection(Connection):
    """An ICE agent that opens its sockets on given addresses and ports."""

    rtc: RtcConfig

    @classmethod
    def adopt(cls, connection: Connection, config: RtcConfig) -> None:
        """Turns an agent that has not gathered yet into one of ours."""
        connection.__class__ = cls
        assert isinstance(connection, cls)
        connection.rtc = config

    async def capacity(self) -> float | None:
        """Bits per second that the way to the peer carries, as bursts of padded connectivity checks show; or None."""
        found = [capacity(*await self._burst()) for _ in range(PROBES)]
        return max((rate for rate in found if rate is not None), default=None)

    async def _burst(self) -> tuple[list[float], int]:
        """When the checks of one burst were answered, and the size of each on the way, in bytes."""
        pair = self._nominated.get(1)
        if pair is None or self.remote_password is None:
            return [], 0
        key = self.remote_password.encode()
        requests = [self.build_request(pair, nominate=False) for _ in range(PROBE_CHECKS)]
        for request in requests:
            request.attributes["SOFTWARE"] = "avis".ljust(PROBE_PADDING, ".")
        clock = asyncio.get_running_loop().time
        answers: list[float] = []

        async def ask(request: stun.Message) -> None:
            with suppress(stun.TransactionError):
                await pair.protocol.request(request, pair.remote_addr, integrity_key=key, retransmissions=0)
                answers.append(clock())

        waiting = {asyncio.create_task(ask(request)) for request in requests}
        done = waiting
        try:
            while done and waiting:
                patience = PROBE_PATIENCE if answers else None
                done, waiting = await asyncio.wait(waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        return answers, len(bytes(requests[0])) + UDP_HEADERS

    async def get_component_candidates(
        self,
        component: int,
        addresses: list[str],
        timeout: int = 5,  # noqa: ASYNC109 - the library's name
    ) -> list[IceCandidate]:
        """Opens the sockets and asks the STUN and TURN servers, as the library's own does on any port."""
        wanted = list(self.rtc.bind) if self.rtc.bind and addresses else addresses
        if not wanted and self._transport_policy == ice.TransportPolicy.ALL:
            wanted = ["127.0.0.1"]
        opened = [await self._open(component, address) for address in wanted]
        protocols = [protocol for protocol in opened if protocol is not None]
        self._protocols += protocols
        found = [protocol.local_candidate for protocol in protocols]
        asked = self._reflexive(protocols), self._relayed(component)
        found += itertools.chain.from_iterable(await asyncio.gather(*asked))
        for protocol in self._protocols:
            protocol.__class__ = GuardedProtocol
        return found

    async def _open(self, component: int, address: str) -> GuardedProtocol | None:
        """A socket on `address`, on the first free port of the range."""
        loop = asyncio.get_running_loop()
        first, last = self.rtc.udp_ports or (0, 0)
        for port in shuffled(range(first, last + 1), seed=id(self)):
            try:
                transport, protocol = await loop.create_datagram_endpoint(
                    lambda: GuardedProtocol(self), local_addr=(address, port)
                )
            except OSError:
                continue
            host, bound = transport.get_extra_info("sockname")[:2]
            protocol.local_candidate = IceCandidate(
                foundation=candidate_foundation("host", "udp", host),
                component=component,
                transport="udp",
                priority=candidate_priority(component, "host"),
                host=host,
                port=bound,
                type="host",
            )
            return protocol
        logger.warning("no UDP port of %s could be opened on %s", self.rtc.udp_ports or "any", address)
        return None

    async def _relayed(self, component: int) -> list[IceCandidate]:
        """What the TURN server gives us, as far as it answers in time. The library says nothing of a refusal."""
        found: list[IceCandidate] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(self.rtc.gather_timeout):
                found = await super().get_component_candidates(component, [], timeout=60)
        if self.turn_server is not None and not found:
            logger.warning("the TURN server %s gave no address: is it there, is the login right?", self.turn_server)
        return found

    async def _reflexive(self, protocols: list[GuardedProtocol]) -> list[IceCandidate]:
        """What the STUN server says our addresses are, as far as it answers in time."""
        if self.stun_server is None:
            return []
        server = self.stun_server
        ipv4 = [protocol for protocol in protocols if ":" not in protocol.local_candidate.host]
        asked = [asyncio.create_task(ice.server_reflexive_candidate(protocol, server)) for protocol in ipv4]
        if not asked:
            return []
        done, late = await asyncio.wait(asked, timeout=self.rtc.gather_timeout)
        for task in late:
            task.cancel()
        failed = [error for task in done if (error := task.exception())]
        for error in failed:
            if not isinstance(error, OSError | stun.TransactionError):
                raise error
            logger.warning("the STUN server %s gave no address: %r", server, error)
        return [task.result()[0] for task in done if not task.exception()]


def shuffled(ports: range, seed: int) -> list[int]:
    """`ports` from a place that differs between sessions, so that the taken ones are not tried first."""
    start = seed // 64 % len(ports)
    return [*ports[start:], *ports[:start]]
