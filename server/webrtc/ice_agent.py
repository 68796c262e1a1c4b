"""The ICE agent: sockets where we say, checks within limits, and no datagram of a stranger."""

from __future__ import annotations

import asyncio
import itertools
import logging
import struct
from collections.abc import Container
from contextlib import suppress
from typing import Any

from aioice import Candidate as IceCandidate
from aioice import Connection, ice, stun
from aioice.candidate import candidate_foundation, candidate_priority

from server.webrtc.bitrate import capacity
from server.webrtc.candidates import probeable
from server.webrtc.config import RtcConfig
from server.webrtc.limits import TokenBucket

logger = logging.getLogger(__name__)

PROBES, PROBE_CHECKS, PROBE_PADDING = 2, 24, 763
"""bursts before the first frame, connectivity checks in each, and bytes of SOFTWARE that make each larger: as many as
RFC 8489, 14.14, allows"""
PROBE_PATIENCE = 0.06
"""seconds to wait for the next answer of a burst, after one answer; the rest counts as lost"""
REQUEST, ANSWERS = b"\x00\x01", (b"\x01\x01", b"\x01\x11")
"""types of STUN messages: a binding request, and its answers (RFC 8489, 5)"""
UDP_HEADERS = 28
"""bytes of UDP and IPv4 around a datagram"""
RETRANSMISSIONS = 3
"""of one connectivity check that is not answered; the library's 6 would last for 32 s"""
LEARNT_RETRANSMISSIONS = 1
"""of one to an address that was learnt; the peer's next check starts another"""
MAX_CHECKS = 200
"""connectivity checks of one connection: each goes to an address that the client names"""
MAX_LEARNT = 8
"""addresses of one connection that are learnt from incoming checks; their senders may be forged"""
MAX_LEARNT_CHECKS = 40
"""checks that go to learnt addresses which have not answered"""
REQUESTS, REQUEST_BURST = 100.0, 300.0
"""connectivity checks of the peer that are answered a second on average, and at once: two bursts with which a peer
probes the path have 48, and a browser sends one each 50 ms"""
MAX_WAITING = 2048
"""datagrams of the peer that may wait for DTLS to read them"""


class GuardedProtocol(ice.StunProtocol):
    """A media socket that takes connectivity checks from anyone, and everything else from the peer only.

    Without it, a stranger's DTLS packet ends a handshake, an empty datagram ends a session, and what only looks like
    STUN fills a queue.
    """

    receiver: BoundConnection
    strangers: int = 0
    """datagrams dropped because they did not come from the peer, were not for this agent, or could not be read"""

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        assert isinstance(data, bytes)
        kind = data[0] if data else 255
        if kind < 4:
            self._check(data, addr)
        elif (20 <= kind < 64 or 128 <= kind < 192) and self._is_peer(addr):  # DTLS or RTP (RFC 7983)
            self.receiver.data_received(data, self.local_candidate.component)
        else:
            self.strangers += 1

    def _check(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Hands on a STUN message. What cannot be read ends here: aiortc would take it for media."""
        if not is_for(data, self.receiver.local_username, self.transactions):
            self.strangers += 1
            return
        if data[:2] == REQUEST and not self.receiver.may_check():
            return
        try:
            stun.parse_message(data)
            super().datagram_received(data, addr)
        except (ValueError, LookupError, struct.error, AssertionError):  # aioice raises these on what is malformed
            self.strangers += 1

    def _is_peer(self, addr: tuple[Any, ...]) -> bool:
        source = (addr[0], addr[1])
        return any(
            pair.remote_addr == source and pair.state == ice.CandidatePair.State.SUCCEEDED
            for pair in self.receiver._check_list
        )

    async def request(
        self,
        request: stun.Message,
        addr: tuple[str, int],
        integrity_key: bytes | None = None,
        retransmissions: int | None = None,
    ) -> tuple[stun.Message, tuple[str, int]]:
        """One transaction. The addresses of connectivity checks come from the client, so these are limited."""
        if retransmissions is None and integrity_key is not None:
            retransmissions = self.receiver.allowed_retransmissions(addr)
        return await super().request(request, addr, integrity_key, retransmissions)


class BoundConnection(Connection):
    """An ICE agent that opens its sockets on given addresses and ports, and sends few checks to strangers."""

    rtc: RtcConfig
    overrun: int = 0
    """datagrams of the peer dropped because too many waited"""
    flooded: int = 0
    """checks of the peer dropped because there were too many"""
    _requests: TokenBucket
    _checks: int = 0
    _learnt_checks: int = 0

    @classmethod
    def adopt(cls, connection: Connection, config: RtcConfig) -> None:
        """Turns an agent that has not gathered yet into one of ours."""
        connection.__class__ = cls
        assert isinstance(connection, cls)
        connection.rtc = config
        connection._requests = TokenBucket(REQUESTS, REQUEST_BURST)

    def abort(self) -> None:
        """Closes the sockets at once, whatever state the agent is in."""
        if self._query_consent_task is not None:
            self._query_consent_task.cancel()
        for pair in self._check_list:
            if pair.task is not None:
                pair.task.cancel()
        for protocol in self._protocols:
            protocol.transport.close()
        self._nominated.clear()
        self._queue.put_nowait(None)  # wakes the DTLS transport, which then ends
        if not self._closed:
            self._closing = self._closed = True
            self._emit_event(ice.ConnectionClosed())

    def data_received(self, data: bytes, component: int) -> None:
        """Queues a datagram for DTLS, within limits: before DTLS starts, nobody reads the queue."""
        if self._queue.qsize() >= MAX_WAITING:
            self.overrun += 1
            return
        super().data_received(data, component)

    def may_check(self) -> bool:
        """Whether a check that names this agent is looked at: to read and to answer one costs 0.1 ms."""
        allowed = self._requests.take(1, asyncio.get_running_loop().time())
        self.flooded += not allowed
        return allowed

    def check_incoming(self, message: stun.Message, addr: tuple[str, int], protocol: ice.StunProtocol) -> None:
        """Takes an authenticated check. Its source may be forged, so unknown addresses are sent few checks."""
        if not self._knows(addr):
            learnt = sum(candidate.type == "prflx" for candidate in self._remote_candidates)
            if learnt >= MAX_LEARNT or probeable(addr[0], self.rtc.limits) is None:
                return
        if self._is_learnt(addr) and not any(map(is_busy, self._pairs(addr))):
            self._learnt_checks += 1
            if self._learnt_checks > MAX_LEARNT_CHECKS:
                return
        super().check_incoming(message, addr, protocol)

    def allowed_retransmissions(self, addr: tuple[str, int]) -> int:
        """How often a check to `addr` may be repeated. Raises stun.TransactionTimeout when none may be sent at all."""
        self._checks += 1
        if self._checks > MAX_CHECKS:
            raise stun.TransactionTimeout
        return LEARNT_RETRANSMISSIONS if self._is_learnt(addr) else RETRANSMISSIONS

    def _candidates_at(self, addr: tuple[str, int]) -> list[IceCandidate]:
        return [c for c in self._remote_candidates if (c._network_host, c.port) == (addr[0], addr[1])]

    def _knows(self, addr: tuple[str, int]) -> bool:
        return bool(self._candidates_at(addr))

    def _is_learnt(self, addr: tuple[str, int]) -> bool:
        """Whether the client never named `addr`."""
        return all(candidate.type == "prflx" for candidate in self._candidates_at(addr))

    def _pairs(self, addr: tuple[str, int]) -> list[ice.CandidatePair]:
        return [pair for pair in self._check_list if pair.remote_addr == (addr[0], addr[1])]

    async def capacity(self) -> float | None:
        """Bits per second that the path to the peer carries, as bursts of padded checks show; None when unknown."""
        found = [capacity(*await self._burst()) for _ in range(PROBES)]
        return max((rate for rate in found if rate is not None), default=None)

    async def _burst(self) -> tuple[list[float], int]:
        """When the checks of one burst were answered, and the size of each on the path, in bytes."""
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
        """Opens the sockets and asks the STUN and TURN servers. The library's own method chooses any port."""
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
        """The TURN server's candidates, if it answers in time. The library does not report a refusal."""
        found: list[IceCandidate] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(self.rtc.gather_timeout):
                found = await super().get_component_candidates(component, [], timeout=60)
        if self.turn_server is not None and not found:
            logger.warning("the TURN server %s gave no address: check its address and the login", self.turn_server)
        return found

    async def _reflexive(self, protocols: list[GuardedProtocol]) -> list[IceCandidate]:
        """Our addresses as the STUN server sees them, if it answers in time."""
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


def is_for(data: bytes, ufrag: str, transactions: Container[bytes]) -> bool:
    """Whether a datagram may be a STUN message for the agent of this user fragment, by a look at its bytes.

    That is a request that names it, or the answer to one of its own. Others would cost a stranger nothing, and us the
    time to read them and to answer an address that may be forged.
    """
    if data[:2] == REQUEST:
        return f"{ufrag}:".encode() in data
    return data[:2] in ANSWERS and data[8:20] in transactions


def is_busy(pair: ice.CandidatePair) -> bool:
    """Whether an incoming check starts none of ours on this pair: one is under way, or was answered."""
    return pair.state in (ice.CandidatePair.State.IN_PROGRESS, ice.CandidatePair.State.SUCCEEDED)


def shuffled(ports: range, seed: int) -> list[int]:
    """`ports` from a start that differs between sessions, so that used ones are not tried first."""
    start = seed // 64 % len(ports)
    return [*ports[start:], *ports[:start]]
