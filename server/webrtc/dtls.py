"""The DTLS transport, which no packet of the peer ends, and which takes packets within limits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcsctptransport import RTCSctpTransport
from aiortc.rtp import is_rtcp

from server.webrtc.config import RtcConfig
from server.webrtc.limits import TokenBucket
from server.webrtc.router import Router
from server.webrtc.sctp import SctpGuard

logger = logging.getLogger(__name__)

RTCP_RATE = 16_000
"""bytes of RTCP per second that are taken: a word of it can name 17 lost packets"""


class GuardedDtls(RTCDtlsTransport):
    """A transport that a malformed packet of the peer does not end, nor a flood of them."""

    malformed: int
    """packets that could not be handled"""
    flooded: int
    """packets dropped because there were too many"""
    guard: SctpGuard | None

    @classmethod
    def adopt(cls, transport: RTCDtlsTransport, config: RtcConfig, stand_ins: dict[int, int]) -> GuardedDtls:
        """Turns a transport that has not started yet into one of ours.

        `stand_ins` maps payload types of the peer to those that its receivers and senders use.
        """
        transport.__class__ = cls
        assert isinstance(transport, cls)
        transport.malformed = transport.flooded = 0
        transport.guard = None
        transport._clock = asyncio.get_running_loop().time
        transport._rtp_router = Router(stand_ins)  # type: ignore[assignment]
        transport._wires = {stand_in: wire for wire, stand_in in stand_ins.items()}
        transport._rtp_bucket = TokenBucket(config.max_packets, config.max_packets)
        transport._rtcp_bucket = TokenBucket(RTCP_RATE, RTCP_RATE)
        return transport

    _clock: Callable[[], float]
    _wires: dict[int, int]
    """payload types of the peer, by those that our senders use"""
    _rtp_bucket: TokenBucket
    _rtcp_bucket: TokenBucket

    @property
    def dropped(self) -> int:
        """Packets of the peer dropped because there were more than it may send."""
        return self.flooded + (self.guard.dropped if self.guard else 0)

    async def _send_rtp(self, data: bytes) -> None:
        if self._wires and not is_rtcp(data):
            wire = self._wires.get(data[1] & 0x7F, data[1] & 0x7F)
            data = data[:1] + bytes([data[1] & 0x80 | wire]) + data[2:]
        await super()._send_rtp(data)

    async def _handle_rtp_data(self, data: bytes, arrival_time_ms: int) -> None:
        if not self._rtp_bucket.take(1, self._clock()):
            self.flooded += 1
            return
        await self._guarded(super()._handle_rtp_data(data, arrival_time_ms))

    async def _handle_rtcp_data(self, data: bytes) -> None:
        if not self._rtcp_bucket.take(len(data), self._clock()):
            self.flooded += 1
            return
        await self._guarded(super()._handle_rtcp_data(data))

    def _register_data_receiver(self, receiver: Any) -> None:
        assert isinstance(receiver, RTCSctpTransport)
        self.guard = SctpGuard(receiver, self._clock, self._guarded)
        super()._register_data_receiver(self.guard)

    def _unregister_data_receiver(self, receiver: Any) -> None:
        if self.guard is not None and self.guard.transport is receiver:
            super()._unregister_data_receiver(self.guard)

    async def _guarded(self, handling: Awaitable[None]) -> None:
        """Handles one packet. aiortc names no errors for a malformed one, and any would end the connection."""
        try:
            await handling
        except ConnectionError:
            raise
        except Exception as error:
            self.malformed += 1
            if self.malformed == 1:
                logger.warning("a packet of the peer could not be handled: %r", error)
