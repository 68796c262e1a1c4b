"""An aiortc DTLS transport that survives malformed packets and paces what it sends."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from functools import cached_property

from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtp import is_rtcp

LEAST_PAUSE = 0.002
"""seconds; a shorter sleep costs more than it spreads"""


class GuardedDtls(RTCDtlsTransport):
    """A transport that a malformed packet of the peer does not end, and that sends pictures no faster than they say."""

    malformed: int = 0

    @cached_property
    def paced(self) -> dict[int, Callable[[int, int], float]]:
        """What says how long a packet waits, given its sequence number and size; by the stream's SSRC."""
        return {}

    async def _send_rtp(self, data: bytes) -> None:
        pace = None if is_rtcp(data) else self.paced.get(int.from_bytes(data[8:12]))
        if pace is not None and (pause := pace(int.from_bytes(data[2:4]), len(data))) > LEAST_PAUSE:
            await asyncio.sleep(pause)
        await super()._send_rtp(data)

    async def _handle_rtp_data(self, data: bytes, arrival_time_ms: int) -> None:
        try:
            await super()._handle_rtp_data(data, arrival_time_ms)
        except (struct.error, IndexError, ValueError, KeyError):
            self.malformed += 1

    async def _handle_rtcp_data(self, data: bytes) -> None:
        try:
            await super()._handle_rtcp_data(data)
        except (struct.error, IndexError, ValueError, KeyError):
            self.malformed += 1
