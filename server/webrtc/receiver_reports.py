"""Reports to a sender on the loss and the jitter of its streams (RFC 3550, 6.4). Pure: time is data."""

from __future__ import annotations

from collections.abc import Collection

from aiortc.rtcrtpreceiver import StreamStatistics
from aiortc.rtp import RtcpReceiverInfo, RtcpSrPacket, RtpPacket

MOST_32_BITS = 0xFFFFFFFF


class ReceiverReports:
    """Statistics of the streams that are received now: one layer and its retransmissions."""

    def __init__(self) -> None:
        self._streams: dict[int, StreamStatistics] = {}
        self._sender_reports: dict[int, tuple[int, float]] = {}
        """the middle 32 bits of the last sender report's NTP time, and when it arrived; by SSRC"""

    def keep(self, ssrcs: Collection[int | None]) -> None:
        """Forgets every stream but these."""
        self._streams = {ssrc: stream for ssrc, stream in self._streams.items() if ssrc in ssrcs}
        self._sender_reports = {ssrc: seen for ssrc, seen in self._sender_reports.items() if ssrc in ssrcs}

    def count(self, packet: RtpPacket, clock_rate: int) -> None:
        """Counts a packet that arrived."""
        stream = self._streams.get(packet.ssrc)
        if stream is None:
            stream = self._streams[packet.ssrc] = StreamStatistics(clock_rate)
        stream.add(packet)

    def note(self, report: RtcpSrPacket, now: float) -> None:
        """Takes a sender report, from which the sender learns the round trip."""
        if report.ssrc in self._streams:
            self._sender_reports[report.ssrc] = (report.sender_info.ntp_timestamp >> 16 & MOST_32_BITS, now)

    def blocks(self, now: float) -> list[RtcpReceiverInfo]:
        """One report block a stream. Values that a hostile sender drives out of their fields are clamped."""
        return [self._block(ssrc, stream, now) for ssrc, stream in self._streams.items()]

    def _block(self, ssrc: int, stream: StreamStatistics, now: float) -> RtcpReceiverInfo:
        last, arrived = self._sender_reports.get(ssrc, (0, now))
        highest = stream.cycles + (stream.max_seq or 0)
        return RtcpReceiverInfo(
            ssrc=ssrc,
            fraction_lost=min(max(stream.fraction_lost, 0), 255),
            packets_lost=stream.packets_lost,
            highest_sequence=highest & MOST_32_BITS,
            jitter=min(max(stream.jitter, 0), MOST_32_BITS),
            lsr=last,
            dlsr=min(int((now - arrived) * 65536), MOST_32_BITS),
        )
