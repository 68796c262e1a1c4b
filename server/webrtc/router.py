"""Where the packets of one transport go: by payload type to a receiver, by SSRC to a sender.

aiortc's own router remembers every SSRC that it ever saw. This one remembers none: the receiver of a payload type
decides which SSRC it follows.
"""

from __future__ import annotations

from aiortc import rtp
from aiortc.rtcdtlstransport import RtpReceiver, RtpSender


class Router:
    """Stands in for aiortc's `RtpRouter`, with the same methods."""

    def __init__(self, stand_ins: dict[int, int] | None = None) -> None:
        """`stand_ins` maps payload types of the peer to those that its receivers use."""
        self._stand_ins = stand_ins or {}
        self.receivers: set[RtpReceiver] = set()
        self._senders: dict[int, RtpSender] = {}
        self._by_payload_type: dict[int, RtpReceiver] = {}

    def register_receiver(
        self, receiver: RtpReceiver, ssrcs: list[int], payload_types: list[int], mid: str | None = None
    ) -> None:
        self.receivers.add(receiver)
        self._by_payload_type |= dict.fromkeys(payload_types, receiver)

    def unregister_receiver(self, receiver: RtpReceiver) -> None:
        self.receivers.discard(receiver)
        self._by_payload_type = {pt: other for pt, other in self._by_payload_type.items() if other is not receiver}

    def register_sender(self, sender: RtpSender, ssrc: int) -> None:
        self._senders[ssrc] = sender

    def unregister_sender(self, sender: RtpSender) -> None:
        self._senders = {ssrc: other for ssrc, other in self._senders.items() if other is not sender}

    def route_rtp(self, packet: rtp.RtpPacket) -> RtpReceiver | None:
        packet.payload_type = self._stand_ins.get(packet.payload_type, packet.payload_type)
        return self._by_payload_type.get(packet.payload_type)

    def route_rtcp(self, packet: rtp.AnyRtcpPacket) -> set[RtpReceiver | RtpSender]:
        """The receivers and senders that `packet` concerns. Receivers know which SSRC is theirs."""
        found: set[RtpReceiver | RtpSender] = set()
        if isinstance(packet, rtp.RtcpSrPacket | rtp.RtcpByePacket):
            found |= self.receivers
        found |= {self._senders[ssrc] for ssrc in reported(packet) if ssrc in self._senders}
        return found


def reported(packet: rtp.AnyRtcpPacket) -> list[int]:
    """The SSRCs of the streams that a packet reports on, or requests something from."""
    if isinstance(packet, rtp.RtcpRrPacket | rtp.RtcpSrPacket):
        return [report.ssrc for report in packet.reports]
    if isinstance(packet, rtp.RtcpPsfbPacket) and packet.fmt == rtp.RTCP_PSFB_APP:
        return remb_ssrcs(packet.fci)
    if isinstance(packet, rtp.RtcpPsfbPacket | rtp.RtcpRtpfbPacket):
        return [packet.media_ssrc]
    return []


def remb_ssrcs(fci: bytes) -> list[int]:
    """The SSRCs of a bandwidth estimate (REMB); none when it cannot be read. Their media SSRC is always 0."""
    try:
        return rtp.unpack_remb_fci(fci)[1]
    except ValueError:
        return []
