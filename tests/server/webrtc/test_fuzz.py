"""Whatever bytes arrive, a guard raises nothing, keeps its bounds, and goes on. With a corpus of what once did harm."""

import asyncio
import random
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiortc import RTCCertificate, RTCDtlsTransport, RTCIceGatherer, RTCIceTransport
from aiortc.rtcrtpparameters import (
    RTCRtpCodecParameters,
    RTCRtpDecodingParameters,
    RTCRtpReceiveParameters,
    RTCRtpRtxParameters,
)
from aiortc.rtcsctptransport import RTCSctpTransport
from aiortc.rtp import RtcpRrPacket
from google_crc32c import value as crc32c
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.refusals import Refusal
from server.webrtc.candidates import parse_fragment
from server.webrtc.config import RtcConfig
from server.webrtc.dtls import GuardedDtls
from server.webrtc.ice_agent import BoundConnection, GuardedProtocol
from server.webrtc.offer import parse_offer
from server.webrtc.receiver import VideoReceiver
from server.webrtc.sctp import MAX_CHUNKS, MAX_STREAMS, WINDOW, SctpGuard

EDITS = ["cut", "add", "replace", "twice"]
CORPUS = Path(__file__).parent / "corpus"
OFFER = "\r\n".join(
    [
        "v=0",
        "o=- 1 2 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE 0 1 2",
        "m=video 9 UDP/TLS/RTP/SAVPF 96 97 102",
        "c=IN IP4 0.0.0.0",
        "a=candidate:1 1 udp 2122260223 10.0.0.7 50000 typ host",
        "a=ice-ufrag:4ZcD",
        "a=ice-pwd:2/1muCWoOi3uLifh0NuRHlCm",
        "a=fingerprint:sha-256 " + ":".join(["AB"] * 32),
        "a=setup:actpass",
        "a=mid:0",
        "a=sendrecv",
        "a=rtcp-mux",
        "a=rtpmap:96 VP8/90000",
        "a=rtcp-fb:96 nack pli",
        "a=rtpmap:97 rtx/90000",
        "a=fmtp:97 apt=96",
        "a=rtpmap:102 H264/90000",
        "a=fmtp:102 packetization-mode=1;profile-level-id=640c1f",
        "a=ssrc-group:FID 11 21",
        "a=ssrc:11 cname:x",
        "m=audio 9 UDP/TLS/RTP/SAVPF 111 0",
        "a=mid:1",
        "a=rtcp-mux",
        "a=rtpmap:111 opus/48000/2",
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
        "a=mid:2",
        "a=sctp-port:5000",
        "",
    ]
)
fuzz = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def corpus(name):
    """The inputs of one file, by what they are."""
    rows = (line.split("\t") for line in (CORPUS / f"{name}.tsv").read_text().splitlines())
    return {what: bytes.fromhex(data) for what, data in rows}


def datagrams(name):
    """Inputs of the corpus with some bytes changed, cut or added; and any bytes."""
    known = st.sampled_from(sorted(corpus(name).values()))
    return st.one_of(st.binary(max_size=64), st.builds(mutated, known, st.integers(0, 2**32)))


def mutated(data, seed):
    rng, changed = random.Random(seed), bytearray(data)
    for _ in range(rng.randint(0, 4)):
        at = rng.randint(0, len(changed))
        if rng.random() < 0.6 and at < len(changed):
            changed[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        elif rng.random() < 0.5:
            changed[at:at] = rng.randbytes(rng.randint(1, 8))
        else:
            del changed[at : at + rng.randint(1, 8)]
    return bytes(changed[:1400])


# --- SDP ------------------------------------------------------------------------------------------


def check_offer(text):
    """An offer is refused with one short sentence, or means the same when it is read again."""
    try:
        offer = parse_offer(text)
    except Refusal as refused:
        assert 400 <= refused.status < 500 and len(refused.message) < 300 and "\n" not in refused.message
        return
    again = parse_offer(offer.text)
    assert [s.layers[:1] for s in again.sections] == [s.layers[:1] for s in offer.sections]
    assert (again.candidates, again.fingerprints, again.setup) == (offer.candidates, offer.fingerprints, offer.setup)


@fuzz
@given(st.text(max_size=300))
def test_any_text_is_an_offer_or_is_refused(text):
    check_offer(text)
    check_offer("v=0\r\n" + text)


@fuzz
@given(
    st.lists(st.tuples(st.integers(0, 40), st.text(max_size=30), st.sampled_from(["cut", "add", "replace", "twice"])))
)
def test_an_offer_with_changed_lines_is_an_offer_or_is_refused(changes):
    lines = OFFER.split("\r\n")
    for at, text, kind in changes[:8]:
        at %= len(lines)
        name = lines[at].partition(":")[0]
        new = {"cut": [], "add": [lines[at], text], "replace": [f"{name}:{text}"], "twice": [lines[at]] * 2}
        lines[at : at + 1] = new[kind]
        lines = lines or [""]
    check_offer("\r\n".join(lines))


def test_an_offer_with_a_line_cut_anywhere_is_an_offer_or_is_refused():
    """An a=group without members was a 500."""
    lines = OFFER.split("\r\n")
    for number, line in enumerate(lines):
        for at in range(len(line)):
            for changed in (line[:at], line[:at] + " ", line[:at] + line[at + 1 :]):
                check_offer("\r\n".join([*lines[:number], changed, *lines[number + 1 :]]))


@fuzz
@given(st.text(alphabet=st.sampled_from("ac=:0123456789 .-udphosty\r\n/+%\t"), max_size=200))
def test_any_fragment_is_read_or_refused(text):
    for body in (text, "a=candidate:1 1 udp " + text, "a=ice-ufrag:x\r\n" + text):
        try:
            fragment = parse_fragment(body)
        except Refusal:
            continue
        assert len(fragment.candidates) <= 32


def test_the_offer_that_is_changed_is_one():
    assert parse_offer(OFFER).video.ssrcs == (11, 21)


# --- RTP and RTCP ---------------------------------------------------------------------------------


def video_parameters():
    codec = {"clockRate": 90000, "parameters": {}}
    return RTCRtpReceiveParameters(
        codecs=[
            RTCRtpCodecParameters(mimeType="video/VP8", payloadType=97, **codec),
            RTCRtpCodecParameters(mimeType="video/H264", payloadType=102, **codec),
            RTCRtpCodecParameters(mimeType="video/rtx", clockRate=90000, payloadType=98, parameters={"apt": 97}),
        ],
        encodings=[RTCRtpDecodingParameters(ssrc=11, payloadType=97, rtx=RTCRtpRtxParameters(ssrc=21))],
    )


@contextmanager
def loop_of_its_own():
    with asyncio.Runner() as runner:
        yield runner.run


CERTIFICATE = RTCCertificate.generateCertificate()


async def receive(packets, rtcp=()):
    """A receiver that got these packets through its transport, which is not connected."""
    config = RtcConfig()
    transport = RTCDtlsTransport(RTCIceTransport(RTCIceGatherer(iceServers=[])), [CERTIFICATE])
    dtls = GuardedDtls.adopt(transport, config, {})
    receiver = VideoReceiver(dtls, config)
    await receiver.receive(video_parameters())
    try:
        for data in packets:
            await dtls._handle_rtp_data(data, 0)
        for data in rtcp:
            await dtls._handle_rtcp_data(data)
        assembler = receiver._assembler
        assert len(assembler._missing) <= config.reception.max_hole
        assert len(assembler._packets) <= config.reception.max_waiting + 1
        assert len(assembler._parts) <= config.reception.max_parts
        blocks = receiver._reports.blocks(asyncio.get_running_loop().time())
        assert len(blocks) <= 2 and bytes(RtcpRrPacket(ssrc=1, reports=blocks))
    finally:
        await receiver.stop()
    return dtls


def test_the_corpus_of_rtp_and_rtcp_ends_no_receiver():
    with loop_of_its_own() as run:
        for data in corpus("rtp").values():
            run(receive([data]))
        run(receive(list(corpus("rtp").values()) * 3, list(corpus("rtcp").values())))


@fuzz
@given(st.lists(datagrams("rtp"), max_size=12), st.lists(datagrams("rtcp"), max_size=6))
def test_any_packets_leave_a_receiver_that_stops(packets, rtcp):
    with loop_of_its_own() as run:
        run(receive(packets, rtcp))


@fuzz
@given(
    st.lists(
        st.tuples(
            st.integers(0, 65535), st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([11, 21, 99]),
            st.sampled_from([97, 98, 102, 5]), st.binary(max_size=24),
        ),
        max_size=40,
    )
)  # fmt: skip
def test_well_formed_packets_in_any_order_keep_the_bounds(fields):
    packets = [
        bytes([0x80, payload_type | marker << 7])
        + sequence.to_bytes(2) + timestamp.to_bytes(4) + ssrc.to_bytes(4) + payload
        for sequence, timestamp, marker, ssrc, payload_type, payload in fields
    ]  # fmt: skip
    with loop_of_its_own() as run:
        run(receive(packets))


# --- SCTP -----------------------------------------------------------------------------------------


class Dtls:
    state, _role = "connected", "server"

    async def _send_data(self, data):
        return


async def associate(packets):
    """An association that got these packets."""
    now, errors = [0.0], []

    async def guarded(handling):
        try:
            await handling
        except Exception as error:  # as the transport does, which counts it
            errors.append(error)

    sctp = RTCSctpTransport(Dtls())
    sctp._remote_port, sctp._local_verification_tag, sctp._last_received_tsn = 5000, 7, 0
    guard = SctpGuard(sctp, lambda: now[0], guarded)
    for data in packets:
        now[0] += 0.1
        await guard._handle_data(data)
        kept = [chunk for stream in sctp._inbound_streams.values() for chunk in stream.reassembly]
        assert len(sctp._inbound_streams) <= MAX_STREAMS and len(sctp._sack_misordered) <= MAX_CHUNKS
        assert sum(len(chunk.user_data) for chunk in kept) <= WINDOW
    assert not [error for error in errors if isinstance(error, NameError | TypeError)], "a fault of ours"
    sctp._set_state(sctp.State.CLOSED)


def with_checksum(data):
    """An SCTP packet with the checksum that its bytes need: without it, nothing of it is read."""

    padded = bytearray(data.ljust(12, b"\0"))
    padded[8:12] = bytes(4)
    padded[8:12] = crc32c(bytes(padded)).to_bytes(4, "little")
    return bytes(padded)


def test_the_corpus_of_sctp_ends_no_association():
    with loop_of_its_own() as run:
        run(associate(map(with_checksum, list(corpus("sctp").values()) * 2)))


@fuzz
@given(st.lists(datagrams("sctp"), max_size=12))
def test_any_sctp_packets_keep_the_bounds(packets):
    with loop_of_its_own() as run:
        run(associate(map(with_checksum, packets)))


# --- STUN -----------------------------------------------------------------------------------------


class Socket:
    def sendto(self, data, addr):
        return


async def hear(data):
    """A media socket that got datagrams of a stranger."""
    agent = BoundConnection(ice_controlling=False)
    BoundConnection.adopt(agent, RtcConfig())
    protocol = GuardedProtocol(agent)
    protocol.transport = Socket()
    for datagram in data:
        protocol.datagram_received(datagram, ("192.0.2.7", 9))
    assert agent._queue.empty() and not agent.remote_candidates


@pytest.mark.parametrize("name", ["stun", "rtp", "sctp"])
def test_the_corpus_of_a_stranger_is_not_heard(name):
    with loop_of_its_own() as run:
        run(hear(corpus(name).values()))


@fuzz
@given(st.lists(datagrams("stun"), max_size=12))
def test_any_datagrams_of_a_stranger_raise_nothing_and_wait_nowhere(data):
    with loop_of_its_own() as run:
        run(hear(data))
