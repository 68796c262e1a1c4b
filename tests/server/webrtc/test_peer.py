"""Real peer connections: what arrives is whole, in order and soon; what is hostile is not heard."""

import asyncio
import gc
import itertools
import os
import random
import re
import resource
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import av
import numpy as np
import pytest
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription, VideoStreamTrack
from aiortc.mediastreams import MediaStreamError
from aiortc.rtp import RtpPacket
from av import VideoFrame

from server.webrtc import versions
from server.webrtc.answer import AnswerOptions
from server.webrtc.bitrate import bitrates
from server.webrtc.candidates import parse_fragment
from server.webrtc.config import Arrival, NoMediaPort, RtcConfig
from server.webrtc.decoder import Decoder, FrameQueue, create_decoder, misfit
from server.webrtc.encoder import VideoEncoder, create_vp8_encoder
from server.webrtc.ice_agent import GuardedProtocol
from server.webrtc.offer import parse_offer
from server.webrtc.peer import TRICKLED, PeerConnection
from server.webrtc.reception import EncodedFrame
from server.webrtc.sdp_lines import SdpLimits
from server.webrtc.sender import History

WIDTH, HEIGHT, FPS = 416, 240, 16
TIME_BASE = Fraction(1, 90_000)
LOCAL = RtcConfig(bind=("127.0.0.1",))


def picture(number, width=WIDTH, height=HEIGHT):
    """Moving texture with its number in 16 blocks of the first rows."""
    y = np.full((height * 3 // 2, width), 128, np.uint8)
    texture = np.random.default_rng(3).integers(40, 216, (height // 8, width // 8)).astype(np.uint8)
    y[:height] = np.roll(texture.repeat(8, 0).repeat(8, 1)[:height, :width], 3 * number, 1)
    for bit in range(16):
        y[:16, 16 * bit : 16 * bit + 16] = 235 if number >> bit & 1 else 16
    frame = VideoFrame.from_ndarray(y, "yuv420p")
    frame.pts, frame.time_base = round(number * 90_000 / FPS), TIME_BASE
    return frame


def number_of(frame):
    blocks = frame.to_ndarray()[:16, :256].reshape(16, 16, 16).mean((0, 2))
    return sum(int(level > 128) << bit for bit, level in enumerate(blocks))


class Camera(MediaStreamTrack):
    """Numbered pictures at 16 a second."""

    kind = "video"

    def __init__(self, size=lambda number: (WIDTH, HEIGHT)):
        super().__init__()
        self.size, self.number, self.started, self.left = size, 0, None, {}

    async def recv(self):
        now = time.monotonic()
        self.started = self.started or now
        await asyncio.sleep(max(0.0, self.started + self.number / FPS - now))
        frame = picture(self.number, *self.size(self.number))
        self.left[self.number] = time.monotonic()
        self.number += 1
        return frame


class Way:
    """Takes what a connection sends, and loses or delays some of it; the same with every run."""

    def __init__(self, pc, loss=0.0, delay=0.0, seed=1):
        self.loss, self.delay, self.rng = loss, delay, random.Random(seed)
        (transport,) = pc._RTCPeerConnection__iceTransports
        self.loop, self.send = asyncio.get_running_loop(), transport._send
        self.tasks = set()
        transport._send = self.take

    async def take(self, data):
        if self.rng.random() >= self.loss:
            self.loop.call_later(self.delay, self.forward, data)

    def forward(self, data):
        task = self.loop.create_task(self.arrive(data))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def arrive(self, data):
        try:
            await self.send(data)
        except ConnectionError:
            return


class Thin:
    """What leaves a socket, no faster than a thin way takes it."""

    def __init__(self, transport, bps):
        self.transport, self.bps, self.free = transport, bps, 0.0

    def sendto(self, data, addr):
        loop = asyncio.get_running_loop()
        self.free = max(self.free, loop.time()) + 8 * len(data) / self.bps
        loop.call_at(self.free, self.transport.sendto, data, addr)

    def __getattr__(self, name):
        return getattr(self.transport, name)


def over_thin_way(bps):
    """A client all of whose packets go over a way that takes `bps` bits per second."""
    client = PeerConnection(LOCAL)
    gather = client._RTCPeerConnection__gather

    async def gather_thin():
        await gather()
        (transport,) = client._RTCPeerConnection__iceTransports
        for protocol in transport._connection._protocols:
            protocol.transport = Thin(protocol.transport, bps)

    client._RTCPeerConnection__gather = gather_thin
    return client


class Call:
    """A client that shows its camera and a server that looks."""

    def __init__(self, camera=None, client=None, config=LOCAL):
        self.camera = camera or Camera()
        self.client = client or PeerConnection(LOCAL)
        self.server = PeerConnection(config)
        self.seen, self.tasks = [], []
        self.edit = self.back = lambda text: text

    async def __aenter__(self):
        @self.server.on("track")
        def on_track(track):
            self.tasks.append(asyncio.create_task(self.look(track)))

        self.client.addTrack(self.camera)
        await self.client.setLocalDescription(await self.client.createOffer())
        self.offer = parse_offer(self.edit(self.client.localDescription.sdp), LOOPBACK)
        self.answer = await self.server.answer(self.offer, AnswerOptions())
        await self.client.setRemoteDescription(RTCSessionDescription(self.back(self.answer), "answer"))
        await until(lambda: self.server.connectionState == self.client.connectionState == "connected")
        return self

    async def __aexit__(self, *_):
        await self.client.close()
        await self.server.close()
        await asyncio.gather(*self.tasks)

    async def look(self, track):
        try:
            while True:
                frame = await track.recv()
                self.seen.append((time.monotonic(), number_of(frame), frame))
        except MediaStreamError:
            return

    @property
    def numbers(self):
        return [number for _, number, _ in self.seen]

    def longest_gap(self):
        return max(b[0] - a[0] for a, b in itertools.pairwise(self.seen))


LOOPBACK = SdpLimits(allow_loopback=True)


async def until(condition, seconds=30.0):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for is in the stack, which tells nobody
            await asyncio.sleep(0.02)


def test_a_picture_arrives_before_the_next_one_leaves():
    """The library waits for the next picture to know that one is whole: 62 ms at 16 a second."""

    async def run():
        async with Call() as call:
            await until(lambda: len(call.seen) > 40)
        delays = sorted(at - call.camera.left[number] for at, number, _ in call.seen)
        assert delays[len(delays) // 2] < 1 / FPS

    asyncio.run(run())


def test_loss_is_repaired_and_pictures_stay_whole_and_in_order():
    async def run():
        async with Call() as call:
            await until(lambda: len(call.seen) > 3)
            Way(call.client, loss=0.05, delay=0.02, seed=7)
            Way(call.server, loss=0.05, delay=0.02, seed=8)
            await until(lambda: call.server.counters()["recovered"] > 2)
            await asyncio.sleep(0.5)
        counters = call.server.counters()
        assert counters["recovered"] > 0, "the way lost nothing: the test shows nothing"
        assert call.numbers == sorted(set(call.numbers))
        assert len(call.numbers) >= 0.7 * call.camera.number, "the rest is under way when a busy machine ends"
        assert call.longest_gap() < 3.0
        for _, number, frame in call.seen:
            assert psnr(frame, picture(number)) > 25, "a damaged picture was shown"

    asyncio.run(run())


@pytest.mark.parametrize("bps", [400_000, 10e9])
def test_the_first_picture_fits_the_way_that_it_goes(bps):
    """A rate for wide ways filled the queue of a thin one before anybody could say so."""

    async def run():
        async with Call(client=over_thin_way(bps)) as call:
            await until(lambda: len(call.seen) > 3)
            return call.client.counters(), call.client.video_sender.encoder.target_bitrate

    counters, first = asyncio.run(run())
    start = bitrates(WIDTH, HEIGHT, FPS).start
    assert counters["encoder_rebuilds"] == 1
    if bps > 1e9:
        assert first == start and counters["capacity_bps"] > 1.5 * start
    else:
        assert counters["capacity_bps"] == pytest.approx(bps, rel=0.25) and first < 0.9 * bps < start


def test_a_video_that_is_closed_while_its_way_is_looked_at_ends(caplog):
    async def run():
        async with Call(client=over_thin_way(100_000)) as call:
            await until(lambda: call.client.video_sender.encoder is not None)
            await asyncio.sleep(0.05)
            assert call.client.video_sender.encoder.capacity is None, "the path was too wide: the test shows nothing"
        return len(asyncio.all_tasks()), call.camera.number

    assert asyncio.run(run()) == (1, 0)
    assert "failed" not in caplog.text


def test_a_blackout_ends_with_a_key_frame_and_a_frame_that_says_what_is_lost():
    async def run():
        async with Call() as call:
            await until(lambda: len(call.seen) > 3)
            way = Way(call.client)
            way.loss = 1.0
            await asyncio.sleep(1.5)
            way.loss, ended = 0.0, time.monotonic()
            await until(lambda: call.seen[-1][0] > ended, 2.0)
            after = next(entry for entry in call.seen if entry[0] > ended)
            await asyncio.sleep(0.3)
        assert after[0] - ended < 1.5
        assert isinstance(after[2].opaque, Arrival) and after[2].opaque.lost
        assert [frame.opaque.lost for _, _, frame in call.seen].count(True) == 1

    asyncio.run(run())


def test_an_unpatched_client_is_served_too():
    async def run():
        async with Call(client=RTCPeerConnection(RTCConfiguration(iceServers=[]))) as call:
            await until(lambda: len(call.seen) > 5)

    asyncio.run(run())


def test_video_comes_and_goes_under_payload_types_below_96():
    """The stack cannot keep them, so others stand in for them, and no packet on the network shows it."""

    async def run():
        call = Call(client=RTCPeerConnection(RTCConfiguration(iceServers=[])))
        low = {97: 35, 98: 36}

        def renumbered(text, numbers):
            for old, new in numbers.items():
                text = re.sub(rf"(a=(?:rtpmap|fmtp|rtcp-fb):|apt=|m=video .*? ){old}\b", rf"\g<1>{new}", text)
                text = re.sub(rf"(m=video[^\r]* ){old}\b", rf"\g<1>{new}", text)
            return text

        call.edit, call.back = lambda text: renumbered(text, low), lambda text: renumbered(text, {35: 97, 36: 98})
        sent = []
        async with call:
            transport = call.client.getSenders()[0].transport
            send = transport._send_rtp

            async def as_35(data):
                kind = data[1] & 0x7F
                sent.append(kind)
                low_kind = data[:1] + bytes([data[1] & 0x80 | low.get(kind, kind)]) + data[2:]
                await send(data if 192 <= data[1] <= 208 else low_kind)

            transport._send_rtp = as_35
            await until(lambda: len(call.seen) > 5)
        assert 97 in sent and set(call.offer.stand_ins) == {35, 36}

    asyncio.run(run())


def test_the_size_of_a_picture_may_change_at_any_time():
    sizes = [(416, 240), (256, 128), (832, 480), (272, 416)]

    async def run():
        async with Call(Camera(lambda number: sizes[number // 8 % 4])) as call:
            await until(lambda: len(call.seen) > 40)
        assert {(frame.width, frame.height) for _, _, frame in call.seen} == set(sizes)
        assert call.longest_gap() < 3.0 and call.server.counters()["given_up"] == 0

    asyncio.run(run())


def test_frames_that_nobody_takes_are_bounded():
    """The library kept every decoded frame: 10 MB a second."""

    async def run():
        call = Call(config=RtcConfig(bind=("127.0.0.1",), max_frames=4))
        async with call:
            await until(lambda: len(call.seen) > 2)
            call.tasks[0].cancel()
            await asyncio.sleep(1.5)
            assert call.server.video.frames_dropped > 5
            call.tasks.clear()
            track, [*before] = call.server.video.track, call.seen
            next_one, after = [await track.recv() for _ in range(2)]
        assert number_of(next_one) > before[-1][1] + 5
        assert next_one.opaque.lost and not after.opaque.lost

    asyncio.run(run())


def test_frames_dropped_for_want_of_room_are_told_by_the_next_one():
    """They were counted and nothing else: what stood in for them was taken for measured."""

    def frame(number):
        made = picture(number)
        made.opaque = Arrival(0.0, lost=False)
        return made

    frames = FrameQueue(2)
    for number in range(5):
        frames.offer(frame(number))
    taken = [frames.get_nowait() for _ in range(2)]
    assert [(number_of(one), one.opaque.lost) for one in taken] == [(3, True), (4, False)]
    for end in (frame(5), frame(6), None, None):
        frames.offer(end)
    assert [frames.get_nowait() for _ in range(2)] == [None, None] and frames.dropped == 5


def test_after_a_frame_that_cannot_be_decoded_nothing_is_shown_that_refers_to_it():
    async def run():
        loop, frames, errors = asyncio.get_running_loop(), FrameQueue(9), []
        decoder = Decoder(RtcConfig())
        context = create_vp8_encoder(WIDTH, HEIGHT, 1_000_000)
        made = [bytes(p) for n in range(4) for p in context.encode(picture(n))]
        context = create_vp8_encoder(WIDTH, HEIGHT, 1_000_000)
        made += [bytes(p) for p in context.encode(picture(4))]
        made[1] = b"\x11" * 8
        for number, data in enumerate(made):
            sent = EncodedFrame(data, 5625 * number, 96, number in (0, 4), False, 0.0)
            assert decoder.offer(codec("VP8"), sent)
        decoder.start(loop, frames, lambda: errors.append(1))
        shown = [await frames.get() for _ in range(2)]
        await loop.run_in_executor(None, decoder.stop)
        assert [(number_of(one), one.opaque.lost) for one in shown] == [(0, False), (4, True)]
        assert errors == [1] and decoder.refused == 3

    asyncio.run(run())


def test_closing_leaves_nothing_behind():
    async def once():
        async with Call() as call:
            await until(lambda: len(call.seen) > 1)
        await asyncio.sleep(0)
        return asyncio.all_tasks()

    async def run():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        await once()
        before = threading.active_count(), len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())
        for _ in range(3):
            await once()
        gc.collect()
        await asyncio.sleep(0.1)
        assert (
            threading.active_count(),
            len(os.listdir("/proc/self/fd")),
            len(asyncio.all_tasks()),
        ) == before

    asyncio.run(run())


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 21])
def test_a_connection_closed_while_it_is_being_made_is_not_made_after_all(turns, caplog):
    """The library went on connecting after close(): its sender and receiver then ran for ever, or its task failed."""

    async def run():
        client, server = PeerConnection(LOCAL), PeerConnection(LOCAL)
        client.addTrack(Camera())
        client.createDataChannel("report")
        server.addTrack(Camera())
        await client.setLocalDescription(await client.createOffer())
        offer = parse_offer(client.localDescription.sdp, LOOPBACK)
        answer = await server.answer(offer, AnswerOptions())
        await client.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        dtls = server.getSenders()[0].transport
        while dtls.state == "new":  # noqa: ASYNC110 - every turn of the loop counts here
            await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        await server.close()
        await client.close()
        await asyncio.sleep(0.2)
        left = [task.get_coro().__qualname__ for task in asyncio.all_tasks() - {asyncio.current_task()}]
        assert not left
        gc.collect()

    asyncio.run(run())
    assert "never retrieved" not in caplog.text


def test_a_track_whose_connection_is_closed_before_it_stands_ends():
    """Whoever read it waited for ever: a test hung, and each lost attempt to resume a session left a task."""

    async def run():
        client, pc = RTCPeerConnection(RTCConfiguration(iceServers=[])), PeerConnection(LOCAL)
        readers = []
        pc.on("track", lambda track: readers.append(asyncio.ensure_future(track.recv())))
        for kind in ("video", "audio"):
            client.addTransceiver(kind)
        await client.setLocalDescription(await client.createOffer())
        await pc.answer(parse_offer(client.localDescription.sdp, LOOPBACK), AnswerOptions())
        await pc.close()
        await client.close()
        async with asyncio.timeout(5):
            ends = await asyncio.gather(*readers, return_exceptions=True)
        assert [type(end) for end in ends] == [MediaStreamError] * 2

    asyncio.run(run())


# --- sockets --------------------------------------------------------------------------------------


def test_media_ports_are_of_the_range_and_an_exhausted_range_is_told():
    async def run():
        config = RtcConfig(bind=("127.0.0.1",), udp_ports=(45870, 45871))
        calls = [Call(config=config), Call(config=config)]
        for call in calls:
            await call.__aenter__()
        lines = [line for call in calls for line in call.answer.splitlines() if line.startswith("a=candidate")]
        assert {line.split()[5] for line in lines} == {"45870", "45871"}
        assert {line.split()[4] for line in lines} == {"127.0.0.1"}
        third = PeerConnection(config)
        with pytest.raises(NoMediaPort):
            await third.answer(calls[0].offer, AnswerOptions())
        await third.close()
        for call in calls:
            await call.__aexit__()
        fourth = PeerConnection(config)
        assert "127.0.0.1 4587" in await fourth.answer(calls[0].offer, AnswerOptions())
        await fourth.close()

    asyncio.run(run())


def test_a_machine_without_a_network_still_serves_itself(monkeypatch):
    """With loopback alone the library had no candidate, and its session hung."""
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda use_ipv4, use_ipv6: [])

    async def run():
        pc = PeerConnection()
        client = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        client.addTransceiver("video")
        await client.setLocalDescription(await client.createOffer())
        answer = await pc.answer(parse_offer(client.localDescription.sdp), AnswerOptions())
        assert " 127.0.0.1 " in answer
        await pc.close()
        await client.close()

    asyncio.run(run())


def test_strangers_are_not_heard_before_or_after_the_handshake():
    """A stranger's DTLS packet ended the handshake, and an empty one the whole session."""
    alert = bytes.fromhex("15fefd00000000000000000002") + b"\x02\x28"
    hello = bytes.fromhex("16fefd0000000000000000003a") + os.urandom(58)
    hostile = [b"", b"\x00", alert, hello, b"\x80\x60" + os.urandom(40), os.urandom(700)]
    hostile.append(b"\x00\x01\x00\x04\x21\x12\xa4\x42" + os.urandom(12) + b"\x00\x06\xff\xff")

    async def run():
        call = Call()
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        stop = asyncio.Event()

        async def attack():
            await until(lambda: "a=candidate" in getattr(call, "answer", ""))
            line = next(line for line in call.answer.splitlines() if line.startswith("a=candidate"))
            while not stop.is_set():
                for data in hostile:
                    sock.sendto(data, (line.split()[4], int(line.split()[5])))
                await asyncio.sleep(0.005)

        attacker = asyncio.create_task(attack())
        async with call:
            await until(lambda: len(call.seen) > 30)
            (transport,) = call.server._RTCPeerConnection__iceTransports
            (protocol,) = transport._connection._protocols
            assert isinstance(protocol, GuardedProtocol) and protocol.strangers > 100
        stop.set()
        await attacker
        sock.close()
        assert call.longest_gap() < 3.0

    asyncio.run(run())


def test_a_malformed_packet_of_the_peer_ends_nothing():
    """A header extension of the wrong length went through the transport's task and closed the connection."""
    extensions = [b"1\x00\x01\x30\xff\x00\x00", b"2\x00\x01\x12\xff\xfe\xfd"]

    async def run():
        async with Call() as call:
            await until(lambda: len(call.seen) > 3)
            (dtls,) = call.client._RTCPeerConnection__dtlsTransports
            header = b"\x90\x61\x00\x01\x00\x00\x00\x01\xde\xad\xbe"
            for extension in extensions:
                await dtls._send_rtp(header + extension[:1] + b"\xbe\xde" + extension[1:] + b"x")
            seen = len(call.seen)
            await until(lambda: len(call.seen) > seen + 5)
            (guarded,) = call.server._RTCPeerConnection__dtlsTransports
            assert guarded.malformed > 0

    asyncio.run(run())


def test_a_track_that_was_never_sent_ends_with_its_connection():
    """It stayed among those that a session's pictures go to, one for each attempt to resume that failed."""

    async def run():
        client, pc = RTCPeerConnection(RTCConfiguration(iceServers=[])), PeerConnection(LOCAL)
        client.addTransceiver("video")
        await client.setLocalDescription(await client.createOffer())
        track = VideoStreamTrack()
        await pc.answer(parse_offer(client.localDescription.sdp), AnswerOptions(), [track])
        assert track.readyState == "live"
        await pc.close()
        assert track.readyState == "ended"
        await client.close()

    asyncio.run(run())


def test_trickled_candidates_are_taken():
    async def run():
        client, pc = RTCPeerConnection(RTCConfiguration(iceServers=[])), PeerConnection(LOCAL)
        client.addTransceiver("video")
        await client.setLocalDescription(await client.createOffer())
        sdp = client.localDescription.sdp
        lines = [line for line in sdp.splitlines(True) if line.startswith(("a=candidate", "a=end-of"))]
        offer = parse_offer("".join(line for line in sdp.splitlines(True) if line not in lines))
        assert offer.candidates == ()
        await pc.answer(offer, AnswerOptions())
        await pc.add_candidates(parse_fragment("".join(lines)), offer.sections[0].mid)
        (transport,) = pc._RTCPeerConnection__iceTransports
        assert transport.getRemoteCandidates() != []
        many = [f"a=candidate:9 1 udp 5 10.9.{n // 250}.{n % 250 + 1} 9999 typ host\r\n" for n in range(320)]
        for start in range(0, len(many), 32):
            await pc.add_candidates(parse_fragment("".join(many[start : start + 32])), offer.sections[0].mid)
        assert len(transport.getRemoteCandidates()) == TRICKLED, "a client had the server send wherever it liked"
        await pc.close()
        await client.close()

    asyncio.run(run())


# --- codecs ---------------------------------------------------------------------------------------


def encoded(frame):
    return EncodedFrame(frame, 0, 97, key=True, lost=False, arrival=0.0)


def codec(name="VP8"):
    return type("Codec", (), {"name": name})()


def test_a_picture_of_absurd_size_is_refused_before_memory_is_taken():
    """Sixty bytes made the library allocate 475 MB."""
    bomb = b"\x10\x02\x00\x9d\x01\x2a" + (16000).to_bytes(2, "little") * 2 + bytes(50)
    decoder = Decoder(RtcConfig())
    assert not decoder.offer(codec(), encoded(bomb)) and decoder.refused == 1
    context = create_decoder("VP8", 1920 * 1088)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(av.FFmpegError):
        context.decode(av.Packet(bomb))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


@pytest.mark.parametrize("size", [(5000, 2), (2, 5000), (16383, 3), (8, 8), (4112, 1040), (1920, 16), (1936, 1936)])
def test_the_sides_and_the_shape_of_a_frame_are_bounded(size):
    """5000x2 has few pixels, and was scaled to 600000x240."""
    header = b"\x10\x02\x00\x9d\x01\x2a" + b"".join(side.to_bytes(2, "little") for side in size) + bytes(50)
    decoder = Decoder(RtcConfig())
    assert not decoder.offer(codec(), encoded(header))
    assert f"{size[0]}x{size[1]}" in decoder.fault


@pytest.mark.parametrize("size", [(16, 16), (1920, 1080), (1080, 1920), (160, 40), (320, 176), (1920, 1088)])
def test_usual_frames_are_decoded(size):
    assert misfit(*size, RtcConfig()) is None


def x264(width, height, **options):
    """Some H.264 packets of a moving wave."""
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt, context.time_base = width, height, "yuv420p", Fraction(1, 30)
    context.options = {"preset": "ultrafast", **options}
    wave = 128 + 60 * np.sin(np.arange(width)[None] / 17 + np.zeros((height * 3 // 2, 1)))
    made = [
        context.encode(VideoFrame.from_ndarray(np.roll(wave, 2 * n, 1).astype(np.uint8), "yuv420p")) for n in range(8)
    ]
    return [bytes(packet) for packets in [*made, context.encode(None)] for packet in packets]


async def decode_h264(packets):
    """The frames that come out of a decoder, and the decoder."""
    loop, frames = asyncio.get_running_loop(), FrameQueue(100)
    decoder = Decoder(RtcConfig())
    for number, data in enumerate(packets):
        assert decoder.offer(codec("H264"), EncodedFrame(data, 3000 * number, 96, number == 0, False, 0.0))
    decoder.start(loop, frames, lambda: None)
    await until(lambda: decoder._queue.empty() or not decoder._thread.is_alive(), 10)
    await loop.run_in_executor(None, decoder.stop)
    await asyncio.sleep(0)
    return [frames.get_nowait() for _ in range(frames.qsize())], decoder


@pytest.mark.parametrize("profile", ["main", "high"])
async def test_h264_main_and_high_without_b_frames_are_shown(profile):
    frames, decoder = await decode_h264(x264(128, 96, profile=profile, tune="zerolatency"))
    assert len(frames) == 9 and frames[-1] is None and decoder.fault is None


async def test_h264_with_b_frames_is_refused_by_name():
    """They come out of order: the picture went back and forth."""
    packets = x264(128, 96, preset="medium", **{"x264-params": "bframes=2:b-adapt=0:scenecut=0:b-pyramid=none"})
    frames, decoder = await decode_h264(packets)
    assert len(frames) < 4 and frames[-1] is None and "B-frames" in decoder.fault


async def test_h264_of_a_wrong_shape_is_refused_after_it_is_decoded():
    frames, decoder = await decode_h264(x264(1024, 64))
    assert frames == [None] and "1024x64" in decoder.fault


def test_frames_that_the_decoder_cannot_keep_up_with_are_refused():
    decoder = Decoder(RtcConfig(max_encoded=3))
    taken = [decoder.offer(codec("H264"), encoded(b"\0\0\0\1\x65")) for _ in range(5)]
    assert taken == [True, True, True, False, False]


def psnr(frame, original):
    a, b = (f.to_ndarray()[: f.height].astype(float) for f in (frame, original))
    return 10 * np.log10(255**2 / max(((a - b) ** 2).mean(), 1e-9))


def footage(number):
    """A smooth picture with edges and grain that moves, since real footage is neither flat nor noise."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    y = 128 + 50 * np.sin((columns + 2 * number) / 23) * np.cos((rows - number) / 17)
    y += 40 * ((columns + 2 * number) // 48 % 2) + np.random.default_rng(number).normal(0, 1, y.shape)
    planes = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
    planes[:HEIGHT] = y.clip(0, 255)
    frame = VideoFrame.from_ndarray(planes, "yuv420p")
    frame.pts, frame.time_base = round(number * 90_000 / FPS), TIME_BASE
    return frame


def test_the_default_rate_does_not_undo_a_restoration():
    encoder, decoder = VideoEncoder(FPS, lambda: 0.0), create_decoder("VP8", 1920 * 1088)
    quality = []
    for number in range(48):
        original = footage(number)
        payloads, timestamp = encoder.encode(original)
        assert timestamp == original.pts
        data = b"".join(payload[4:] for payload in payloads)
        (decoded,) = decoder.decode(av.Packet(data))
        quality.append(psnr(decoded, original))
    assert np.mean(quality[8:]) > 40


def test_a_key_frame_is_sent_when_it_is_asked_for_and_only_then():
    encoder = VideoEncoder(FPS, lambda: 0.0)
    same = footage(0)
    keys = []
    for number in range(10):
        same.pts = number * 5625
        payloads, _ = encoder.encode(same, force_keyframe=number == 5)
        keys.append(not payloads[0][4] & 1)
    assert keys == [number in (0, 5) for number in range(10)], "a frame sent twice once stayed a key frame"


def test_a_rate_that_wavers_does_not_rebuild_the_encoder():
    """Each rebuild is a key frame of ten times the size, which then overfills the very link that wavered."""
    now = [0.0]
    encoder = VideoEncoder(FPS, lambda: now[0])
    rng = random.Random(1)
    for number in range(160):
        now[0] = number / FPS
        encoder.encode(footage(number))
        encoder.target_bitrate = int(rng.uniform(0.85, 1.25) * bitrates(WIDTH, HEIGHT, FPS).start)
    assert encoder.rebuilds == 1


def test_a_packet_is_remembered_for_longer_than_the_library_does():
    history = History(limit=1024)
    packets = [RtpPacket(sequence_number=number) for number in range(2000)]
    for packet in packets:
        history.add(packet)
    assert history.recall(1100) is packets[1100]
    assert packets[1100].extensions.abs_send_time, "it says that it is sent now"
    assert history.recall(10) is None and not history.holds(10)
    assert len(history) == 1024


def test_another_version_of_the_library_is_refused(monkeypatch):
    monkeypatch.setitem(versions.KNOWN_VERSIONS, "aiortc", "9.9.9")
    with pytest.raises(RuntimeError, match=r"aiortc 9\.9\.9, found"):
        versions.check_versions()
