"""Limits on the SCTP association of a peer. aiortc enforces neither its window nor any rate.

The server sends reports and reads no message. So a peer needs little: acknowledgements, and a channel or two.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from aiortc.rtcsctptransport import (
    Chunk,
    DataChunk,
    ForwardTsnChunk,
    RTCSctpTransport,
    SackChunk,
    parse_packet,
)

from server.webrtc.limits import TokenBucket

WINDOW = 64 * 1024
"""bytes of unfinished messages that are kept, and that are advertised to the peer (RFC 9260, 3.3.2)"""
MAX_CHUNKS = 128
"""DATA chunks of unfinished messages that are kept, and how far a TSN may be ahead of the last in order"""
MAX_STREAMS = 4
"""streams, hence data channels, that a peer may open"""
MAX_GAP = 4096
"""TSNs that the gap blocks of one acknowledgement may cover"""
HEADER = 12
"""bytes of the header of a packet"""
PARAMETERS_AT = {1: 20, 2: 20, 4: 4, 5: 4, 6: 4, 9: 4, 130: 4}
"""where the parameters of a chunk begin, by its type: INIT, INIT ACK, HEARTBEAT (ACK), ABORT, ERROR and RE-CONFIG"""
PACKETS, PACKET_BURST = 100.0, 200.0
"""packets per second on average, and at once"""


class SctpGuard:
    """Stands between a DTLS transport and its SCTP transport, and drops what a peer may not send.

    What is dropped is not acknowledged. A peer that keeps within the limits sends it again; for one that does not,
    its own association stops.
    """

    def __init__(
        self,
        transport: RTCSctpTransport,
        now: Callable[[], float],
        guarded: Callable[[Awaitable[None]], Awaitable[None]],
    ):
        """`guarded` awaits the handling of one packet, and catches what a malformed one raises."""
        self.transport = transport
        self.dropped = 0
        """packets that were dropped"""
        self._now = now
        self._guarded = guarded
        self._bucket = TokenBucket(PACKETS, PACKET_BURST)
        transport._advertised_rwnd = WINDOW

    async def _handle_data(self, data: bytes) -> None:
        """The name by which aiortc hands over an SCTP packet."""
        if self._bucket.take(1, self._now()):
            await self._guarded(self._handle(data))
        else:
            self.dropped += 1

    async def _handle(self, data: bytes) -> None:
        """Raises ValueError, or what aiortc raises, on a malformed packet."""
        check_parameters(data)
        if self.admits(parse_packet(data)[3]):
            await self.transport._handle_data(data)
        else:
            self.dropped += 1

    def admits(self, chunks: Sequence[Chunk]) -> bool:
        """Whether every chunk of a packet keeps within the limits, and its streams are among the few."""
        streams = set(self.transport._inbound_streams)
        for chunk in chunks:
            streams |= named_streams(chunk)
        return len(streams) <= MAX_STREAMS and all(self._admits(chunk) for chunk in chunks)

    def _admits(self, chunk: Chunk) -> bool:
        if isinstance(chunk, DataChunk):
            return self._has_room(chunk)
        if isinstance(chunk, SackChunk):
            covered = sum(max(0, last - first + 1) for first, last in chunk.gaps)
            return bool(covered <= MAX_GAP)
        return True

    def _has_room(self, chunk: DataChunk) -> bool:
        """Whether a DATA chunk fits the window."""
        kept = sum(len(stream.reassembly) for stream in self.transport._inbound_streams.values())
        room: int = self.transport._advertised_rwnd
        return self._ahead(chunk.tsn) <= MAX_CHUNKS and kept < MAX_CHUNKS and len(chunk.user_data) <= room

    def _ahead(self, tsn: int) -> int:
        """How far `tsn` is ahead of the last one received in order; negative when it is behind (RFC 1982)."""
        last = self.transport._last_received_tsn
        if last is None:
            return 0
        ahead = (tsn - last) % (1 << 32)
        return ahead if ahead < 1 << 31 else ahead - (1 << 32)


def check_parameters(data: bytes) -> None:
    """Raises ValueError for a parameter shorter than its header (RFC 9260, 3.2.1): aiortc reads one of 0 for ever."""
    at = HEADER
    while at + 4 <= len(data):
        kind, length = data[at], int.from_bytes(data[at + 2 : at + 4])
        if kind in PARAMETERS_AT:
            check_lengths(data[at + PARAMETERS_AT[kind] : at + length])
        at += max(4, length + -length % 4)


def check_lengths(parameters: bytes) -> None:
    at = 0
    while at + 4 <= len(parameters):
        length = int.from_bytes(parameters[at + 2 : at + 4])
        if length < 4:
            raise ValueError(f"an SCTP parameter has {length} bytes, fewer than its header")
        at += length + -length % 4


def named_streams(chunk: Chunk) -> set[int]:
    """The inbound streams that a chunk would create where they are not there."""
    if isinstance(chunk, DataChunk):
        return {chunk.stream_id}
    return {stream for stream, _ in chunk.streams} if isinstance(chunk, ForwardTsnChunk) else set()
