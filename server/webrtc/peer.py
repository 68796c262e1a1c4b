"""The WebRTC stack made fit for bad networks. Every private name of aiortc and aioice we touch is in this package.

`PeerConnection` is aiortc's own with other parts put in: a receiver that completes frames on the marker,
asks again for what is lost and decodes within limits; a sender whose bit rate fits its picture; sockets
bound where we say, that hear only the peer. It knows nothing of sessions and chunks. The names are those
of the versions below and no other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCIceCandidate,
    RTCIceServer,
    RTCIceTransportPolicy,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtptransceiver import RTCRtpTransceiver

from server.webrtc.answer import AnswerOptions, complete_answer
from server.webrtc.candidates import Fragment
from server.webrtc.config import NoMediaPort, RtcConfig
from server.webrtc.dtls import GuardedDtls
from server.webrtc.ice_agent import BoundConnection
from server.webrtc.offer import Offer
from server.webrtc.receiver import AudioReceiver, VideoReceiver
from server.webrtc.sdp_lines import OfferRefused
from server.webrtc.sender import VideoSender

logger = logging.getLogger(__name__)

KNOWN_VERSIONS = {"aiortc": "1.16.0", "aioice": "0.13.0"}
TRICKLED = 64
"""candidates of one connection that are taken after its offer: each has the server send to an address"""


def check_versions() -> None:
    """Raises RuntimeError when a library is not the one whose private names this package knows."""
    for package, known in KNOWN_VERSIONS.items():
        if (found := version(package)) != known:
            raise RuntimeError(f"server/webrtc is written for {package} {known}, found {found}")


check_versions()


class PeerConnection(RTCPeerConnection):
    """aiortc's peer connection with our receivers, senders and sockets, for a session's server side."""

    def __init__(self, config: RtcConfig | None = None):
        self.config = config or RtcConfig()
        self._connecting: set[asyncio.Task[Any]] = set()
        self._trickled = 0
        server = RTCIceServer(list(self.config.ice_urls), self.config.ice_username, self.config.ice_credential)
        servers = [server] if self.config.ice_urls else []
        super().__init__(
            RTCConfiguration(
                iceServers=servers,
                bundlePolicy=RTCBundlePolicy.MAX_BUNDLE,
                iceTransportPolicy=RTCIceTransportPolicy.RELAY if self.config.ice_relay else RTCIceTransportPolicy.ALL,
            )
        )

    async def answer(self, offer: Offer, options: AnswerOptions, tracks: Iterable[MediaStreamTrack] = ()) -> str:
        """The answer to `offer`, which sends `tracks` as far as it has a place for them.

        The "track" event fires meanwhile: a track that depends on an incoming one may be added there.
        Raises OfferRefused when the stack cannot use the offer, NoMediaPort when there is no socket for it.
        """
        try:
            await self.setRemoteDescription(RTCSessionDescription(offer.text, "offer"))
            for track in tracks:
                if offer.section(track.kind) is not None:
                    self.addTrack(track)
            await self.setLocalDescription(await self.createAnswer())
        except asyncio.CancelledError:
            raise
        except Exception as error:  # aiortc names no errors for a description that it cannot use
            logger.warning("an offer that passed our checks failed: %r", error)
            raise OfferRefused(422, "unsupported_offer", f"the offer cannot be used: {error}") from error
        if "a=candidate:" not in self.localDescription.sdp:
            raise NoMediaPort("no UDP port is free for media")
        return complete_answer(self.localDescription.sdp, options, offer)

    async def add_candidates(self, fragment: Fragment, mid: str) -> None:
        """Takes trickled candidates for the transport that the m-line `mid` is on, and none beyond the limit."""
        taken = fragment.candidates[: TRICKLED - self._trickled]
        self._trickled += len(taken)
        for found in taken:
            candidate = RTCIceCandidate(
                component=1,
                foundation=found.foundation,
                ip=found.address,
                port=found.port,
                priority=found.priority,
                protocol="udp",
                type=found.kind,
                sdpMid=mid,
            )
            await self.addIceCandidate(candidate)

    @property
    def video(self) -> VideoReceiver | None:
        """The receiver of the incoming video."""
        return next((r for r in self.getReceivers() if isinstance(r, VideoReceiver)), None)

    @property
    def video_sender(self) -> VideoSender | None:
        return next((s for s in self.getSenders() if isinstance(s, VideoSender)), None)

    @property
    def path(self) -> str | None:
        """The kinds of address that media goes between, ours first, as in "host-relay"; None before there is a path."""
        for transceiver in self.getTransceivers():
            pair = transceiver.receiver.transport.transport._connection._nominated.get(1)
            if pair is not None:
                return f"{pair.local_candidate.type}-{pair.remote_candidate.type}"
        return None

    def counters(self) -> dict[str, Any]:
        """What happened on the wire so far, for the session's report."""
        receiver, sender = self.video, self.video_sender
        found: dict[str, Any] = {"path": self.path} | (dict(vars(receiver.counters)) if receiver else {})
        if receiver:
            found |= {"frames_refused": receiver.refused, "frames_overrun": receiver.frames_dropped}
        if sender:
            found |= {"retransmitted": sender.retransmitted}
        if sender and (encoder := sender.encoder):
            found |= {"target_bps": encoder.target_bitrate, "encoder_rebuilds": encoder.rebuilds}
            found |= {"capacity_bps": round(encoder.capacity) if encoder.capacity else None}
        return found

    async def close(self) -> None:
        """Ends the connection, also while it is being made: aiortc would go on, and send from a closed peer."""
        for task in self._connecting:
            task.cancel()
        for end in await asyncio.gather(*self._connecting, return_exceptions=True):
            if isinstance(end, Exception):
                logger.warning("a connection that was being made failed as it was closed: %r", end)
        await super().close()
        for sender in self.getSenders():
            if sender.track is not None:  # aiortc ends those that it began to send
                sender.track.stop()

    async def _RTCPeerConnection__connect(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "aiortc connects in a task of its own"
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        parent: Any = super()
        await parent._RTCPeerConnection__connect()

    def _RTCPeerConnection__createTransceiver(
        self, direction: str, kind: str, sender_track: MediaStreamTrack | None = None
    ) -> RTCRtpTransceiver:
        parent: Any = super()
        transceiver: RTCRtpTransceiver = parent._RTCPeerConnection__createTransceiver(direction, kind, sender_track)
        old = transceiver.sender
        sender = VideoSender(sender_track or kind, old.transport, self.config) if kind == "video" else old
        receiver_type = VideoReceiver if kind == "video" else AudioReceiver
        receiver = receiver_type(kind, old.transport, self.config)
        sender._stream_id = old._stream_id
        receiver._set_rtcp_ssrc(sender._ssrc)
        transceiver._RTCRtpTransceiver__sender = sender  # type: ignore[attr-defined]
        transceiver._RTCRtpTransceiver__receiver = receiver  # type: ignore[attr-defined]
        return transceiver

    def _RTCPeerConnection__createDtlsTransport(self) -> RTCDtlsTransport:
        parent: Any = super()
        transport: RTCDtlsTransport = parent._RTCPeerConnection__createDtlsTransport()
        transport.__class__ = GuardedDtls
        BoundConnection.adopt(transport.transport._connection, self.config)
        return transport
