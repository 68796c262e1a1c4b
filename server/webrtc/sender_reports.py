"""What a sender reports of itself, and the round trip that it learns from the answers (RFC 3550, 6.4.1)."""

from __future__ import annotations

from aiortc.rtp import RtcpReceiverInfo, RtcpSenderInfo, RtpPacket

MOST_32_BITS = 0xFFFFFFFF
SMOOTHING = 0.85
"""share of the earlier round trip that is kept when a new one is measured"""


class SenderReports:
    """Counts of one stream that is sent."""

    def __init__(self) -> None:
        self.round_trip: float | None = None
        """seconds; None before the first report was answered"""
        self._packets = 0
        self._bytes = 0
        self._timestamp = 0
        self._sent_at = 0
        """NTP time, 64 bits, of the packet sent last"""
        self._reported: tuple[int, float] | None = None
        """the middle 32 bits of the last report's NTP time, and when it was sent, in seconds"""

    def count(self, packet: RtpPacket, ntp: int) -> None:
        """Counts a packet that was sent for the first time, at an NTP time of 64 bits."""
        self._packets += 1
        self._bytes += len(packet.payload)
        self._timestamp, self._sent_at = packet.timestamp, ntp

    def report(self, now: float) -> RtcpSenderInfo:
        """The report to send at `now`, in seconds."""
        self._reported = (self._sent_at >> 16 & MOST_32_BITS, now)
        return RtcpSenderInfo(
            ntp_timestamp=self._sent_at,
            rtp_timestamp=self._timestamp,
            packet_count=self._packets & MOST_32_BITS,
            octet_count=self._bytes & MOST_32_BITS,
        )

    def take(self, answer: RtcpReceiverInfo, now: float) -> None:
        """Learns the round trip from the receiver's report that arrived at `now`."""
        if self._reported is None or answer.lsr != self._reported[0] or not answer.dlsr:
            return
        measured = max(0.0, now - self._reported[1] - answer.dlsr / 65536)
        known = self.round_trip
        self.round_trip = measured if known is None else SMOOTHING * known + (1 - SMOOTHING) * measured
