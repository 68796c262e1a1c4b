"""A session's peer connection: aiortc's own with other parts put in. It knows nothing of sessions and chunks.

The parts are receivers that complete frames on the marker, request what is lost and decode within limits; a sender
whose bit rate fits its frame; sockets that are bound where we say and listen to the peer only. This package uses
private names of aiortc and aioice: server/webrtc/versions.py says of which versions.

Five of them are name-mangled, since aiortc has no other place to put a part in:

    _RTCPeerConnection__connect              runs ICE and DTLS; we keep its task, to stop it in `close`
    _RTCPeerConnection__createTransceiver    makes a sender and a receiver; we put ours in their place
    _RTCRtpTransceiver__sender, __receiver   where a transceiver keeps the two
    _RTCPeerConnection__createDtlsTransport  makes a transport; we adopt it before it starts
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
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

from server.refusals import Refusal
from server.webrtc.answer import AnswerOptions, complete_answer
from server.webrtc.candidates import Fragment
from server.webrtc.config import NoMediaPort, RtcConfig
from server.webrtc.dtls import GuardedDtls
from server.webrtc.ice_agent import BoundConnection
from server.webrtc.layers import Layer
from server.webrtc.limits import TokenBucket
from server.webrtc.offer import Offer
from server.webrtc.quality_classes import QualityClasses
from server.webrtc.receiver import AudioReceiver, VideoReceiver
from server.webrtc.sender import VideoSender

logger = logging.getLogger(__name__)

TRICKLED = 64
"""candidates of one connection that are taken after its offer: each makes the server send to an address"""
FRAGMENTS, FRAGMENT_BURST = 5.0, 100.0
"""fragments of candidates that are read a second on average, and at once: a browser sends one for each candidate"""


class PeerConnection(RTCPeerConnection):
    """aiortc's peer connection with our receivers, senders and sockets, for a session's server side."""

    def __init__(self, config: RtcConfig | None = None, classes: QualityClasses | None = None):
        """`classes` are the encoders that this connection's video shares with others."""
        self.config = config or RtcConfig()
        self._classes = classes
        self._connecting: set[asyncio.Task[Any]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._trickled = 0
        self._fragments = TokenBucket(FRAGMENTS, FRAGMENT_BURST)
        self._layers: dict[str, tuple[Layer, ...]] = {}
        """the layers that the offer names, by kind of media"""
        self._stand_ins: dict[int, int] = {}
        self._dtls: list[GuardedDtls] = []
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
        """The answer to `offer`, which sends those of `tracks` that the offer has a section for.

        The "track" event fires meanwhile: a track that depends on an incoming one may be added there.
        Raises Refusal when the stack cannot use the offer, NoMediaPort when there is no socket for it.
        """
        self._layers = {section.kind: section.layers for section in offer.sections}
        self._stand_ins = offer.stand_ins
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
            raise Refusal(422, "unsupported_offer", f"the offer cannot be used: {error}") from error
        if "a=candidate:" not in self.localDescription.sdp:
            raise NoMediaPort("no UDP port is free for media")
        return complete_answer(self.localDescription.sdp, options, offer)

    def may_trickle(self) -> bool:
        """Whether one more fragment of candidates is read now."""
        return self._fragments.take(1, asyncio.get_running_loop().time())

    async def add_candidates(self, fragment: Fragment, mid: str) -> None:
        """Takes trickled candidates for the transport of the m-line `mid`, up to the limit."""
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
        receivers: list[object] = list(self.getReceivers())
        return next((r for r in receivers if isinstance(r, VideoReceiver)), None)

    @property
    def video_sender(self) -> VideoSender | None:
        senders: list[object] = list(self.getSenders())
        return next((s for s in senders if isinstance(s, VideoSender)), None)

    @property
    def fault(self) -> str | None:
        """Why frames of the incoming video are refused, in one sentence; None when they are not."""
        return self.video.fault if self.video is not None else None

    @property
    def path(self) -> str | None:
        """The kinds of address that media goes between, ours first, as in "host-relay"; None before there is a path."""
        for agent in self._agents():
            pair = agent._nominated.get(1)
            if pair is not None:
                return f"{pair.local_candidate.type}-{pair.remote_candidate.type}"
        return None

    def _agents(self) -> list[BoundConnection]:
        agents = (dtls.transport._connection for dtls in self._dtls)
        return [agent for agent in agents if isinstance(agent, BoundConnection)]

    def counters(self) -> dict[str, Any]:
        """What happened on the network so far, for the session's report."""
        receiver, sender = self.video, self.video_sender
        found: dict[str, Any] = {"path": self.path} | (dict(vars(receiver.counters)) if receiver else {})
        if receiver:
            found |= {"frames_refused": receiver.refused, "frames_overrun": receiver.frames_dropped}
            found |= {"foreign_packets": receiver.foreign, "fault": receiver.fault}
        found |= {"malformed_packets": sum(dtls.malformed for dtls in self._dtls)}
        found |= {"flooded_packets": sum(dtls.dropped for dtls in self._dtls)}
        if sender:
            found |= {"retransmitted": sender.retransmitted}
        if sender and (encoder := sender.encoder):
            found |= {"target_bps": encoder.target_bitrate, "encoder_rebuilds": encoder.rebuilds}
            found |= {"capacity_bps": round(encoder.capacity) if encoder.capacity else None}
        return found

    async def close(self) -> None:
        """Ends the connection, also while it is being made. Its sockets are closed then, whatever failed."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(self.config.close_timeout):
                await self._stop_connecting()
                await super().close()
        except Exception as error:  # aiortc names no errors for a connection that it cannot close
            logger.warning("a peer connection did not close in order: %r", error)
        finally:
            self._free()

    async def _stop_connecting(self) -> None:
        """Stops what is still connecting: aiortc would continue, and send from a closed peer connection."""
        for task in self._connecting:
            task.cancel()
        for end in await asyncio.gather(*self._connecting, return_exceptions=True):
            if isinstance(end, Exception):
                logger.warning("a connection that was being made failed as it was closed: %r", end)

    def _free(self) -> None:
        """Closes the sockets and ends the tracks that were never sent: aiortc ends only those that it began to send."""
        for agent in self._agents():
            agent.abort()
        for sender in self.getSenders():
            if sender.track is not None:
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
        sender = VideoSender(sender_track, old.transport, self.config, self._classes) if kind == "video" else old
        receiver_type = VideoReceiver if kind == "video" else AudioReceiver
        receiver = receiver_type(old.transport, self.config, self._layers.get(kind, ()))
        sender._stream_id = old._stream_id
        receiver._set_rtcp_ssrc(sender._ssrc)
        transceiver._RTCRtpTransceiver__sender = sender  # type: ignore[attr-defined]
        transceiver._RTCRtpTransceiver__receiver = receiver  # type: ignore[attr-defined]
        return transceiver

    def _RTCPeerConnection__createDtlsTransport(self) -> RTCDtlsTransport:
        parent: Any = super()
        transport: RTCDtlsTransport = parent._RTCPeerConnection__createDtlsTransport()
        self._dtls.append(GuardedDtls.adopt(transport, self.config, self._stand_ins))
        BoundConnection.adopt(transport.transport._connection, self.config)
        return transport
