"""A peer's association gets the room that it needs, and no more. The real transports, without a network."""

import asyncio
import time

import pytest
from aiortc.rtcsctptransport import (
    SCTP_DATA_FIRST_FRAG,
    SCTP_DATA_LAST_FRAG,
    DataChunk,
    ForwardTsnChunk,
    RTCSctpTransport,
    SackChunk,
    serialize_packet,
)
from google_crc32c import value as crc32c

from server.webrtc.sctp import MAX_CHUNKS, MAX_STREAMS, PACKET_BURST, WINDOW, SctpGuard

WHOLE = SCTP_DATA_FIRST_FRAG | SCTP_DATA_LAST_FRAG


class Dtls:
    """As much of a DTLS transport as SCTP sends through."""

    state, _role = "connected", "server"

    def __init__(self):
        self.sent = []

    async def _send_data(self, data):
        self.sent.append(data)


async def awaited(handling):
    await handling


class Peer:
    """The other end of an association: sends what it likes."""

    def __init__(self, rate_limited=False):
        self.now = 0.0
        self.rate_limited = rate_limited
        self.sctp = RTCSctpTransport(Dtls())
        self.sctp._remote_port = 5000
        self.sctp._last_received_tsn = 0
        self.guard = SctpGuard(self.sctp, lambda: self.now, awaited)

    async def send(self, chunk):
        self.now += 0 if self.rate_limited else 0.1
        tag = self.sctp._local_verification_tag
        await self.guard._handle_data(serialize_packet(5000, 5000, tag, chunk))

    async def send_data(self, tsn, size=100, stream=1, flags=WHOLE):
        chunk = DataChunk(flags)
        chunk.tsn, chunk.stream_id, chunk.stream_seq, chunk.protocol = tsn, stream, 0, 53
        chunk.user_data = b"x" * size
        await self.send(chunk)

    @property
    def kept(self):
        return sum(len(chunk.user_data) for s in self.sctp._inbound_streams.values() for chunk in s.reassembly)


async def test_data_behind_a_hole_is_kept_to_the_window():
    """aiortc kept all of it, and sorted it for each chunk: 8 ms of the loop at 20,000 chunks."""
    peer = Peer()
    for tsn in range(2, 3000):
        await peer.send_data(tsn)
    assert len(peer.sctp._sack_misordered) <= MAX_CHUNKS and peer.kept <= WINDOW
    await peer.send_data(1)
    assert peer.sctp._last_received_tsn >= MAX_CHUNKS, "the hole is filled, and the association goes on"


@pytest.mark.parametrize("size", [1, 200, 1000])
async def test_a_message_without_an_end_is_kept_to_the_window(size):
    peer = Peer()
    for tsn in range(1, 2000):
        await peer.send_data(tsn, size, flags=SCTP_DATA_FIRST_FRAG if tsn == 1 else 0)
    assert peer.kept <= WINDOW and peer.sctp._advertised_rwnd >= 0
    assert len(peer.sctp._inbound_streams[1].reassembly) <= MAX_CHUNKS


async def test_a_peer_opens_few_streams():
    """1,500 data channels were opened and kept."""
    peer = Peer()
    for stream in range(40):
        await peer.send_data(1 + len(peer.sctp._inbound_streams), stream=stream)
    assert len(peer.sctp._inbound_streams) == MAX_STREAMS
    for fresh in (peer, Peer()):
        skip = ForwardTsnChunk()
        skip.cumulative_tsn, skip.streams = 50, [(stream, 0) for stream in range(100, 150)]
        await fresh.send(skip)
        assert len(fresh.sctp._inbound_streams) <= MAX_STREAMS


async def test_an_acknowledgement_that_covers_everything_takes_no_time():
    """290 gap blocks of 65,535 numbers each stopped the loop for seconds."""
    peer, sack = Peer(), SackChunk()
    sack.cumulative_tsn, sack.gaps = peer.sctp._last_sacked_tsn, [(0, 65535)] * 290
    started = time.thread_time()
    await peer.send(sack)
    assert time.thread_time() - started < 0.02 and peer.guard.dropped == 1


@pytest.mark.parametrize("kind, before", [(1, 16), (2, 16), (4, 0), (5, 0), (6, 0), (9, 0), (130, 0)])
async def test_a_parameter_without_a_length_ends_nothing(kind, before):
    """aiortc read it again and again: one packet of 20 bytes stopped the server for ever."""
    peer = Peer()
    body = bytes(before) + b"\0\x0d\0\0"
    packet = bytearray(b"\x13\x88" * 2 + peer.sctp._local_verification_tag.to_bytes(4) + bytes(4))
    packet += bytes([kind, 0]) + (4 + len(body)).to_bytes(2) + body
    packet[8:12] = crc32c(bytes(packet)).to_bytes(4, "little")
    with pytest.raises(ValueError, match="fewer than its header"):
        await peer.guard._handle_data(bytes(packet))


async def test_packets_beyond_the_rate_are_dropped():
    """60 kB messages, 128 a second, took 60 % of a core."""
    peer = Peer(rate_limited=True)
    for tsn in range(1, 1000):
        await peer.send_data(tsn)
    assert peer.sctp._last_received_tsn == PACKET_BURST
    peer.now += 10
    await peer.send_data(int(PACKET_BURST) + 1)
    assert peer.sctp._last_received_tsn == PACKET_BURST + 1, "the association goes on"


async def test_an_honest_message_arrives():
    peer, got = Peer(), []

    async def receive(stream, protocol, data):
        got.append(data)

    peer.sctp._receive = receive
    await peer.send_data(1, 900, flags=SCTP_DATA_FIRST_FRAG)
    await peer.send_data(3, 10, flags=SCTP_DATA_LAST_FRAG)
    await peer.send_data(2, 900, flags=0)
    await asyncio.sleep(0)
    assert got == [b"x" * 1810] and peer.guard.dropped == 0
