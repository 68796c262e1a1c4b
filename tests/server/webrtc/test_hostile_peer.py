"""A connected peer that sends what no browser sends. Real connections: what is bounded stays bounded, and all ends."""

import asyncio
import os
import socket
import time

import pytest
from aioice import stun
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription, VideoStreamTrack
from aiortc.rtcsctptransport import DataChunk
from aiortc.rtp import RTCP_RTPFB_NACK, RtcpRtpfbPacket

from server.webrtc.answer import AnswerOptions
from server.webrtc.config import RtcConfig
from server.webrtc.ice_agent import MAX_LEARNT, MAX_LEARNT_CHECKS
from server.webrtc.offer import parse_offer
from server.webrtc.peer import PeerConnection
from server.webrtc.sctp import MAX_CHUNKS, MAX_STREAMS
from server.webrtc.sdp_lines import SdpLimits

LOOPBACK = SdpLimits(allow_loopback=True)
LOCAL = RtcConfig(bind=("127.0.0.1",), close_timeout=6.0)


async def until(condition, seconds=15.0):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for is in the stack, which tells nobody
            await asyncio.sleep(0.01)


class Attack:
    """A client of aiortc's own that can send raw RTP, RTCP and SCTP, and the server that it is connected to."""

    def __init__(self, config=LOCAL, edit=lambda sdp: sdp, connect=True):
        self.client = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.server = PeerConnection(config)
        self.edit, self.connect = edit, connect
        self.readers, self.sequence = [], 1000

    async def __aenter__(self):
        self.sender = self.client.addTrack(VideoStreamTrack())
        self.channel = self.client.createDataChannel("report")
        self.server.on("track", self.take)
        await self.client.setLocalDescription(await self.client.createOffer())
        self.offer = parse_offer(self.edit(self.client.localDescription.sdp), LOOPBACK)
        self.answer = await self.server.answer(self.offer, AnswerOptions())
        if self.connect:
            await self.client.setRemoteDescription(RTCSessionDescription(self.answer, "answer"))
            await until(lambda: self.client.connectionState == self.server.connectionState == "connected")
        return self

    async def __aexit__(self, *_):
        await self.server.close()
        await self.client.close()
        for reader in self.readers:
            reader.cancel()
        await asyncio.gather(*self.readers, return_exceptions=True)

    def take(self, track):
        self.server.addTrack(VideoStreamTrack())

        async def read():
            while True:
                await track.recv()

        self.readers.append(asyncio.create_task(read()))

    @property
    def agent(self):
        return self.server._agents()[0]

    @property
    def client_agent(self):
        return self.sender.transport.transport._connection

    @property
    def address(self):
        line = next(line for line in self.answer.splitlines() if line.startswith("a=candidate"))
        return line.split()[4], int(line.split()[5])

    async def send_rtp(self, ssrc, payload=b"\x10" + bytes(20), timestamp=0, marker=False):
        self.sequence += 1
        payload_type = next(c.payload_type for c in self.offer.video.codecs if c.name == "VP8")
        header = bytes([0x80, payload_type | marker << 7]) + (self.sequence & 0xFFFF).to_bytes(2)
        header += timestamp.to_bytes(4) + ssrc.to_bytes(4)
        await self.sender.transport._send_rtp(header + payload)
        if self.sequence % 20 == 0:
            await asyncio.sleep(0.005)  # the sockets of this process are read meanwhile

    async def flushed(self):
        """Everything sent before has been handled by the server."""
        for _ in range(20):
            await asyncio.sleep(0.01)


def sockets():
    """How many sockets this process has open."""
    open_now = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
    return sum(os.readlink(path).startswith("socket") for path in open_now if os.path.lexists(path))


async def test_three_hundred_ssrcs_are_neither_kept_nor_reported_and_the_connection_closes():
    """aiortc could not write a report on more than 255, its task died, and no close ever returned."""
    async with Attack() as attack:
        for ssrc in range(1000, 1300):
            await attack.send_rtp(ssrc)
        await attack.flushed()
        receiver = attack.server.video
        assert receiver.foreign >= 200, "the datagrams did not arrive: the test shows nothing"
        assert len(receiver._reports.blocks(0.0)) <= 2
        started = time.monotonic()
        await attack.server.close()
        assert time.monotonic() - started < 5, "it waited for its close_timeout"
        assert attack.agent._protocols == []


async def test_ssrcs_that_no_offer_named_are_followed_one_at_a_time():
    def unnamed(sdp):
        return "".join(line for line in sdp.splitlines(True) if not line.startswith("a=ssrc"))

    async with Attack(edit=unnamed) as attack:
        for ssrc in range(1000, 1300):
            await attack.send_rtp(ssrc)
        await attack.flushed()
        receiver = attack.server.video
        assert receiver.foreign >= 200 and len(receiver._reports.blocks(0.0)) <= 2
        assert receiver.counters.packets < 50


async def test_a_connection_whose_receiver_never_stops_frees_its_sockets(caplog):
    """The close was given up after 10 s, and the sockets stayed as long as the client answered consent checks."""

    async def never():
        await asyncio.Event().wait()

    before = sockets()
    config = RtcConfig(bind=("127.0.0.1",), close_timeout=0.2)
    async with Attack(config) as attack:
        attack.server.video.stop = never
        await attack.server.close()
        address = attack.address
        await asyncio.sleep(0.05)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(address)
        del attack.server.video.stop
        await attack.server.video.stop()
    await asyncio.sleep(0.05)
    assert sockets() <= before
    assert "did not close in order" in caplog.text


async def test_data_behind_a_hole_is_bounded():
    """25,000 chunks behind a hole took 8 ms of the loop each."""
    async with Attack() as attack:
        await until(lambda: attack.channel.readyState == "open")
        sctp = attack.client.sctp
        for number in range(400):
            chunk = DataChunk()
            chunk.flags, chunk.stream_id, chunk.stream_seq, chunk.protocol, chunk.user_data = 0, 1, 0, 53, b"x" * 200
            chunk.tsn = (sctp._local_tsn + 3 + number) & 0xFFFFFFFF
            await sctp._send_chunk(chunk)
            if number % 50 == 0:
                await asyncio.sleep(0.02)
        await attack.flushed()
        assert 0 < len(attack.server.sctp._sack_misordered) <= MAX_CHUNKS
        assert attack.server.counters()["flooded_packets"] > 100


async def test_few_data_channels_are_opened():
    channels = []
    async with Attack() as attack:
        attack.server.on("datachannel", channels.append)
        await until(lambda: attack.channel.readyState == "open")
        for number in range(20):
            attack.client.createDataChannel(f"channel {number}")
        await asyncio.sleep(0.3)
        assert len(attack.server.sctp._inbound_streams) == MAX_STREAMS
        assert len(channels) <= MAX_STREAMS


async def test_requests_for_thousands_of_packets_are_answered_within_limits():
    """250 requests of 4,097 numbers a second took 60 % of a core."""
    async with Attack() as attack:
        await until(lambda: attack.server.video_sender is not None and attack.server.video_sender.encoder is not None)
        ssrc = attack.server.video_sender._ssrc
        request = RtcpRtpfbPacket(fmt=RTCP_RTPFB_NACK, ssrc=1, media_ssrc=ssrc)
        request.lost = list(range(4097))
        before, handled = attack.server.video_sender.retransmitted, []
        repeat = attack.server.video_sender._retransmit

        async def count(number):
            handled.append(number)
            await repeat(number)

        attack.server.video_sender._retransmit = count
        for number in range(250):
            await attack.sender.transport._send_rtp(bytes(request))
            if number % 25 == 0:
                await asyncio.sleep(0.01)
        await attack.flushed()
        assert attack.server.counters()["flooded_packets"] > 50, "few arrived: the test shows nothing"
        assert len(handled) <= 250 * 100 and attack.server.video_sender.retransmitted - before < 100


async def test_a_frame_without_an_end_is_dropped_and_named():
    """Each packet of it was kept: 1.3 kB and 14 us, until the session was idle for 10 s."""
    config = RtcConfig(bind=("127.0.0.1",), reception={"max_parts": 64})
    async with Attack(config) as attack:
        (layer,) = attack.offer.video.layers
        await until(lambda: attack.server.video.counters.packets > 0)
        attack.sequence = attack.server.video._assembler._highest & 0xFFFF
        for number in range(300):
            await attack.send_rtp(layer.ssrc, timestamp=77)
            if number % 50 == 0:
                await asyncio.sleep(0.01)
        await attack.flushed()
        receiver = attack.server.video
        assert receiver.counters.oversized >= 1 and len(receiver._assembler._parts) <= 64
        assert "64 packets" in attack.server.fault


async def test_what_only_looks_like_stun_is_dropped():
    """A stranger's garbage waited in an unbounded queue until DTLS was there to read it: 36 MiB in 5 s."""
    async with Attack(connect=False) as attack:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for first in range(4):
                for _ in range(25):
                    sock.sendto(bytes([first, 1, 0, 0]) + b"A" * 1396, attack.address)
                await asyncio.sleep(0.02)
            await attack.flushed()
        (protocol,) = attack.agent._protocols
        assert attack.agent._queue.qsize() == 0 and protocol.strangers >= 50


async def test_a_stranger_who_does_not_know_our_name_gets_no_answer():
    """Each request was read twice and answered with an error that is larger, to an address that may be forged."""
    async with Attack(connect=False) as attack:
        request = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
        signed = signed_check(attack.agent, attack.client_agent.local_username)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            for _ in range(20):
                sock.sendto(bytes(request), attack.address)
            await attack.flushed()
            with pytest.raises(BlockingIOError):
                sock.recv(2000)
            sock.sendto(bytes(signed), attack.address)
            await attack.flushed()
            assert stun.parse_message(sock.recv(2000)).message_class == stun.Class.RESPONSE
        (protocol,) = attack.agent._protocols
        assert protocol.strangers == 20


async def test_a_flood_of_checks_of_the_peer_is_answered_within_limits_and_the_call_goes_on():
    """3,000 signed checks a second, each answered, let everybody else wait for 35 ms."""
    async with Attack() as attack:
        pair = attack.client_agent._nominated[1]
        sent = []
        for number in range(2000):
            check = signed_check(attack.agent, attack.client_agent.local_username)
            sent.append(check)
            pair.protocol.send_stun(check, pair.remote_addr)
            if number % 50 == 0:
                await asyncio.sleep(0.005)
        await attack.flushed()
        assert attack.agent.flooded > 1000
        assert attack.client.connectionState == attack.server.connectionState == "connected"


async def test_the_datagrams_that_wait_for_dtls_are_bounded(monkeypatch):
    monkeypatch.setattr("server.webrtc.ice_agent.MAX_WAITING", 20)
    async with Attack(connect=False) as attack:
        for _ in range(100):
            attack.agent.data_received(bytes(1200), 1)
        assert attack.agent._queue.qsize() == 20 and attack.agent.overrun == 80


def signed_check(agent, remote_ufrag):
    message = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
    message.attributes["USERNAME"] = f"{agent.local_username}:{remote_ufrag}"
    message.attributes["PRIORITY"] = 1
    message.attributes["ICE-CONTROLLING"] = 1
    message.add_message_integrity(agent.local_password.encode())
    return message


class Sink:
    """Counts what is sent to each address."""

    def __init__(self, protocol):
        self.counts = {}
        protocol.transport = self
        self.close = lambda: protocol.connection_lost(None)

    def sendto(self, data, addr):
        self.counts[addr] = self.counts.get(addr, 0) + 1


@pytest.mark.parametrize("source", ["9.9.9.9", "10.1.2.3"])
async def test_signed_checks_from_forged_sources_are_answered_with_few_packets(source):
    """A session's owner could have 6 packets sent to anybody for one of its own."""
    config = RtcConfig(bind=("127.0.0.1",), limits=SdpLimits(allow_private=False))

    def no_candidates(sdp):
        return "".join(line for line in sdp.splitlines(True) if not line.startswith(("a=candidate", "a=end-of")))

    async with Attack(config, no_candidates, connect=False) as attack:
        await until(lambda: attack.agent._early_checks_done)
        (protocol,) = attack.agent._protocols
        real = protocol.transport
        sink = Sink(protocol)
        for port in range(1, 401):
            message = signed_check(attack.agent, attack.offer.ufrag)
            attack.agent.request_received(message, (source, port), protocol)
        for _ in range(200):
            attack.agent.request_received(signed_check(attack.agent, attack.offer.ufrag), (source, 1), protocol)
        await asyncio.sleep(0.8)
        checks = sum(sink.counts.values()) - 600
        assert len(attack.agent.remote_candidates) <= MAX_LEARNT
        assert checks <= 2 * MAX_LEARNT_CHECKS
        assert (checks == 0) == source.startswith("10."), "private addresses are not probed here"
        protocol.transport = real


async def test_a_peer_that_fails_every_check_is_given_up():
    """Each role conflict made the agent start the check again, without an end."""
    async with Attack(connect=False) as attack:
        with pytest.raises(stun.TransactionTimeout):
            for _ in range(1000):
                attack.agent.allowed_retransmissions(("127.0.0.1", 9))
