"""Standard clients publish and watch; the status codes are those of RFC 9725 and of the WHEP draft."""
# ruff: noqa: SIM117 - a server, its publisher and its players are scopes of their own

import asyncio
import datetime
import itertools
import sys
from contextlib import asynccontextmanager
from fractions import Fraction
from statistics import median

import av
import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame, VideoFrame
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from server.api.keys import SESSIONS, STREAMS
from tests.server.conftest import serve

WIDTH, HEIGHT, FPS, BITS, CELL = 128, 96, 16, 10, 12
SDP, FRAGMENT = "application/sdp", "application/trickle-ice-sdpfrag"
QUERY = f"size={WIDTH}x{HEIGHT}&mode=simulate"


class Camera(MediaStreamTrack):
    """Numbered pictures at a steady rate."""

    kind = "video"

    def __init__(self):
        super().__init__()
        self.count, self.start = 0, None

    async def recv(self):
        now = asyncio.get_running_loop().time()
        self.start = self.start or now
        await asyncio.sleep(max(0, self.start + self.count / FPS - now))
        picture = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
        for bit in range(BITS):
            picture[20 : 20 + 2 * CELL, bit * CELL : (bit + 1) * CELL] = 220 if self.count >> bit & 1 else 30
        frame = VideoFrame.from_ndarray(picture, "yuv420p")
        frame.pts, frame.time_base = self.count * 90000 // FPS, Fraction(1, 90000)
        self.count += 1
        return frame


class Microphone(MediaStreamTrack):
    """A tone, 20 ms at a time."""

    kind = "audio"

    def __init__(self):
        super().__init__()
        self.count, self.start = 0, None

    async def recv(self):
        now = asyncio.get_running_loop().time()
        self.start = self.start or now
        await asyncio.sleep(max(0, self.start + self.count / 50 - now))
        t = (np.arange(960) + 960 * self.count) / 48000
        wave = (8000 * np.sin(2 * np.pi * 440 * t)).astype(np.int16).repeat(2)[None]
        frame = AudioFrame.from_ndarray(wave, format="s16", layout="stereo")
        frame.pts, frame.sample_rate, frame.time_base = 960 * self.count, 48000, Fraction(1, 48000)
        self.count += 1
        return frame


def read(frame):
    cells = frame.to_ndarray()[26:38, : BITS * CELL].reshape(12, BITS, CELL)[:, :, 3:-3].mean((0, 2))
    return sum(int(level > 125) << bit for bit, level in enumerate(cells))


class Peer:
    """A client of WHIP or WHEP with a plain peer connection."""

    def __init__(self, http, url, headers=()):
        self.http, self.url, self.headers = http, url, dict(headers)
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.seen, self.heard, self.tasks, self.resource, self.deleted = [], [], [], None, False

        @self.pc.on("track")
        def on_track(track):
            self.tasks.append(asyncio.create_task(self.take(track)))

    async def take(self, track):
        loop = asyncio.get_running_loop()
        try:
            while True:
                frame = await track.recv()
                entry = (loop.time(), frame)
                (self.seen if track.kind == "video" else self.heard).append(entry)
        except MediaStreamError:
            return

    async def open(self, sound=False, watch=False):
        for kind, source in (("video", Camera), ("audio", Microphone))[: 2 if sound else 1]:
            if watch:
                self.pc.addTransceiver(kind, direction="recvonly")
            else:
                self.pc.addTransceiver(source(), direction="sendonly")
        await self.pc.setLocalDescription(await self.pc.createOffer())
        self.offer = self.pc.localDescription.sdp
        headers = {"Content-Type": SDP, **self.headers}
        async with self.http.post(self.url, data=self.offer, headers=headers) as reply:
            self.status, self.answer, self.reply = reply.status, await reply.text(), reply.headers
        if self.status == 201:
            self.resource = str(reply.url.join(type(reply.url)(reply.headers["Location"])))
            await self.pc.setRemoteDescription(RTCSessionDescription(self.answer, "answer"))
        return self

    @property
    def numbers(self):
        return [read(frame) for _, frame in self.seen]

    async def until(self, condition, seconds=20):
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def delete(self):
        self.deleted = True
        async with self.http.delete(self.resource, headers=self.headers) as reply:
            return reply.status

    async def close(self):
        """Once it stands, or cannot: aiortc goes on connecting what is closed, and its track then never ends."""
        if self.status == 201 and not self.deleted:
            await self.until(lambda: self.pc.connectionState not in ("new", "connecting"))
        await self.pc.close()
        for task in self.tasks:
            task.cancel()
        ends = await asyncio.gather(*self.tasks, return_exceptions=True)
        assert not [end for end in ends if isinstance(end, Exception)]


@asynccontextmanager
async def peers(*opening):
    opened = [await peer for peer in opening]
    try:
        yield opened
    finally:
        for peer in opened:
            await peer.close()


async def test_what_is_published_is_watched_by_every_player_in_order():
    address = f"/whip/cam?{QUERY}&tier=sharp"
    async with serve() as (app, http, url), peers(Peer(http, url + address).open()) as (publisher,):
        assert next(iter(app[SESSIONS])).config.solver.tier == "sharp"
        assert publisher.status == 201 and publisher.reply["Content-Type"].startswith(SDP)
        assert "a=recvonly" in publisher.answer and "a=setup:passive" in publisher.answer
        watching = [Peer(http, f"{url}/whep/cam").open(watch=True) for _ in range(2)]
        async with peers(*watching) as players:
            for player in players:
                assert player.status == 201 and "a=sendonly" in player.answer
                await player.until(lambda player=player: len(player.seen) > 20)
                steps = [b - a for a, b in itertools.pairwise(player.numbers)]
                assert min(steps) > 0 and max(steps) <= 3
            assert app[STREAMS].report() == {"cam": {"players": 2}}
            assert app[STREAMS].published("cam").classes.running, "no player had an encoder of its own"
            assert await players[0].delete() == 200 and await players[0].delete() == 404
            assert app[STREAMS].report() == {"cam": {"players": 1}}
            assert await publisher.delete() == 200
            await players[1].until(lambda: players[1].pc.connectionState == "closed")
        assert app[STREAMS].report() == {} and len(app[SESSIONS]) == 0


async def test_sound_is_passed_on_untouched_and_in_time_with_the_picture():
    async with serve() as (app, http, url):
        async with peers(Peer(http, f"{url}/whip/cam?{QUERY}").open(sound=True)) as (publisher,):
            async with peers(Peer(http, f"{url}/whep/cam").open(sound=True, watch=True)) as (player,):
                await player.until(lambda: len(player.heard) > 60 and len(player.seen) > 30)
                session = next(iter(app[SESSIONS]))
                picture = median(session.figures.latency_ms.values(asyncio.get_running_loop().time())[-15:])
                assert abs(session.outlet.sound.playout.delay * 1000 - picture) < 45
                stamps = [frame.pts for _, frame in player.heard]
                steps = [b - a for a, b in itertools.pairwise(stamps)]
                assert min(steps) > 0 and steps.count(960) > 0.3 * len(steps), "20 ms, but where the delay followed"
                tone = np.concatenate([f.to_ndarray()[0, ::2] for _, f in player.heard[20:50]])
                assert np.abs(np.fft.rfft(tone)).argmax() * 48000 / len(tone) == pytest.approx(440, abs=3)
        assert publisher.status == 201


async def test_a_player_without_the_publishers_sound_gets_the_picture_alone():
    async with serve() as (_, http, url), peers(Peer(http, f"{url}/whip/cam?{QUERY}").open()):
        async with peers(Peer(http, f"{url}/whep/cam").open(sound=True, watch=True)) as (player,):
            assert "a=inactive" in player.answer[player.answer.index("m=audio") :]
            await player.until(lambda: len(player.seen) > 3)


async def test_candidates_may_follow_and_ice_may_not_restart():
    async with serve() as (_, http, url), peers(Peer(http, f"{url}/whip/cam?{QUERY}").open()) as (peer,):
        ufrag = next(line for line in peer.offer.splitlines() if line.startswith("a=ice-ufrag"))
        more = f"{ufrag}\r\na=ice-pwd:{'x' * 24}\r\na=candidate:9 1 udp 5 10.9.9.9 9999 typ host\r\n"

        async def patch(body, kind=FRAGMENT, **headers):
            async with http.patch(peer.resource, data=body, headers={"Content-Type": kind, **headers}) as reply:
                return reply.status

        assert await patch(more) == 204
        assert await patch(more, **{"If-Match": '"anything"'}) == 204, "without restarts there are no entity tags"
        assert await patch("a=ice-ufrag:other\r\na=ice-pwd:" + "y" * 24, **{"If-Match": "*"}) == 422
        assert await patch(more, SDP) == 415
        assert await patch("nonsense") == 400
        await peer.until(lambda: peer.pc.connectionState == "connected")
        assert await peer.delete() == 200
        assert await patch(more) == 404


async def test_a_flood_of_fragments_is_refused_and_the_stream_lives():
    """Nobody counted them: four clients at once left a bystander two thirds of its frames."""
    async with serve() as (_, http, url), peers(Peer(http, f"{url}/whip/cam?{QUERY}").open()) as (peer,):
        ufrag = next(line for line in peer.offer.splitlines() if line.startswith("a=ice-ufrag"))
        statuses = []
        for _ in range(130):
            async with http.patch(peer.resource, data=ufrag, headers={"Content-Type": FRAGMENT}) as reply:
                statuses.append(reply.status)
        assert statuses[:100] == [204] * 100 and 429 in statuses and reply.headers.get("Retry-After", "1") == "1"
        await peer.until(lambda: peer.pc.connectionState == "connected")


async def test_an_answer_that_takes_too_long_is_refused_to_a_player_too(monkeypatch):
    """It was a 500."""
    async with serve(offer_timeout=1) as (app, http, url), peers(Peer(http, f"{url}/whip/cam?{QUERY}").open()):

        async def answer(*args):
            await asyncio.sleep(60)

        monkeypatch.setattr("server.webrtc.peer.PeerConnection.answer", answer)
        async with peers(Peer(http, f"{url}/whep/cam").open(watch=True)) as (player,):
            assert player.status == 422 and "longer than 1 s" in player.answer
        assert app[STREAMS].report() == {"cam": {"players": 0}}


async def test_bad_requests_get_the_code_that_says_why():
    async with serve(token="x") as (app, http, url):

        async def post(path, body="v=0", kind=SDP):
            headers = {"Content-Type": kind, "Authorization": "Bearer x"}
            async with http.post(f"{url}{path}", data=body, headers=headers) as reply:
                error = (await reply.json())["error"]
                assert reply.headers["Access-Control-Allow-Origin"] == "*" and error["message"]
                return reply.status, reply.headers

        offer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        offer.addTransceiver("video", direction="recvonly")
        await offer.setLocalDescription(await offer.createOffer())
        sdp = offer.localDescription.sdp
        await offer.close()
        assert (await post("/whip/cam", "<html>"))[0] == 400
        assert (await post("/whip/cam", b"\xff\xfe"))[0] == 400
        assert (await post("/whip/cam", "v=0\r\n" + "a=x\r\n" * 20000))[0] == 413
        assert (await post("/whip/cam", sdp))[0] == 422, "a publisher does not receive only"
        status, headers = await post("/whip/cam", sdp, "application/json")
        assert status == 415 and headers["Accept-Post"] == SDP
        assert (await post("/whip/a%20b", sdp.replace("recvonly", "sendonly")))[0] == 404
        assert (await post("/whip/cam?size=13x13", sdp.replace("recvonly", "sendonly")))[0] == 422
        assert (await post("/whip/cam?colour=blue", sdp.replace("recvonly", "sendonly")))[0] == 422
        assert (await post("/whip/cam?latency=none", sdp.replace("recvonly", "sendonly")))[0] == 422
        assert (await post("/whip/cam?operator=magic", sdp.replace("recvonly", "sendonly")))[0] == 422
        assert (await post("/whip/cam?tier=best", sdp.replace("recvonly", "sendonly")))[0] == 422
        status, headers = await post("/whep/cam", sdp)
        assert status == 409 and int(headers["Retry-After"]) >= 1
        assert app[STREAMS].report() == {} and len(app[SESSIONS]) == 0


@pytest.mark.parametrize(
    "limit, status, word",
    [({"players_most": 2}, 503, "this server has 2"), ({"players_each": 2}, 429, "address 127.0.0.1 has 2")],
)
async def test_players_are_bounded_in_all_and_of_one_address_over_all_streams(limit, status, word):
    """Sixteen players of each stream, of any number of streams: all of the server's time was theirs."""
    async with serve(max_sessions=2, **limit) as (app, http, url):
        names = ("one", "two")
        async with peers(*(Peer(http, f"{url}/whip/{name}").open() for name in names)):
            watching = [Peer(http, f"{url}/whep/{names[n % 2]}").open(watch=True) for n in range(3)]
            async with peers(*watching) as players:
                assert [player.status for player in players] == [201, 201, status]
                assert word in players[2].answer and int(players[2].reply["Retry-After"]) >= 1
                await players[0].delete()
                async with peers(Peer(http, f"{url}/whep/two").open(watch=True)) as (again,):
                    assert again.status == 201
        assert not app[STREAMS]._places.ids


async def test_a_name_is_published_once_and_players_are_bounded():
    async with serve(max_players=1) as (_, http, url):
        async with peers(Peer(http, f"{url}/whip/cam?{QUERY}").open()) as (first,):
            await first.until(lambda: first.pc.connectionState == "connected")
            async with peers(Peer(http, f"{url}/whip/cam?{QUERY}").open()) as (second,):
                assert second.status == 409
            async with peers(*(Peer(http, f"{url}/whep/cam").open(watch=True) for _ in range(2))) as players:
                assert [player.status for player in players] == [201, 503]
                assert int(players[1].reply["Retry-After"]) >= 1


async def test_a_publisher_that_went_silent_loses_its_name_to_the_next():
    async with serve(idle_pause=0.3) as (app, http, url):
        async with peers(Peer(http, f"{url}/whip/cam?{QUERY}").open()) as (first,):
            await first.until(lambda: next(iter(app[SESSIONS])).figures.frames_in > 3)
            await first.pc.getTransceivers()[0].sender.stop()
            await asyncio.sleep(0.6)
            async with peers(Peer(http, f"{url}/whip/cam?{QUERY}").open()) as (second,):
                assert second.status == 201
                await second.until(lambda: len(app[SESSIONS]) == 1)
                assert list(app[STREAMS].report()) == ["cam"], "the end of the first took the second's name along"


async def test_a_token_is_asked_for_on_every_request_but_the_preflight():
    secret = {"Authorization": "Bearer s3cret"}
    async with serve(token="s3cret") as (_, http, url):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}):
            async with peers(Peer(http, f"{url}/whip/cam?{QUERY}", headers).open()) as (peer,):
                assert peer.status == 401 and peer.reply["WWW-Authenticate"] == "Bearer"
        async with peers(Peer(http, f"{url}/whip/cam?{QUERY}", secret).open()) as (peer,):
            assert peer.status == 201
            async with http.delete(peer.resource) as reply:
                assert reply.status == 401
            assert await peer.delete() == 200


async def test_an_endpoint_can_be_discovered_from_a_page_of_another_origin():
    async with serve(token="x") as (_, http, url):
        async with http.options(f"{url}/whep/cam") as reply:
            assert reply.status == 200 and reply.headers["Accept-Post"] == SDP
            assert {"POST", "PATCH", "DELETE"} <= set(reply.headers["Access-Control-Allow-Methods"].split(", "))
            assert "Authorization" in reply.headers["Access-Control-Allow-Headers"]
            assert "Location" in reply.headers["Access-Control-Expose-Headers"]
        headers = {"Authorization": "Bearer x"}
        async with http.head(f"{url}/whep/cam", headers=headers) as reply:
            assert reply.status == 200 and reply.headers["Content-Type"] == SDP
        async with http.get(f"{url}/whip/cam", headers=headers) as reply:
            assert reply.status == 204


async def test_ice_servers_are_told_to_whoever_may_use_them():
    async with serve(ice_servers=("stun:127.0.0.1:9",), ice_secret="north") as (_, http, url):
        async with peers(Peer(http, f"{url}/whip/cam?{QUERY}").open()) as (peer,):
            assert peer.reply["Link"] == '<stun:127.0.0.1:9>; rel="ice-server"'


def certificate(directory):
    """A P-256 certificate: the one kind that FFmpeg does not make by itself and DTLS here accepts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "whip")])
    today = datetime.datetime.now(datetime.UTC)
    signed = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    signed = signed.serial_number(7).not_valid_before(today).not_valid_after(today + datetime.timedelta(1))
    pem = signed.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "cert.pem").write_bytes(pem)
    (directory / "key.pem").write_bytes(private)
    return {"cert_file": str(directory / "cert.pem"), "key_file": str(directory / "key.pem")}


PUBLISHER = """
import select, sys, time
from fractions import Fraction
import av, numpy as np
url, width, height, fps, options = sys.argv[1], *map(int, sys.argv[2:5]), eval(sys.argv[5])
with av.open(url, "w", format="whip", options=options) as output:
    stream = output.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "profile": "baseline"})
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    start, number = time.monotonic(), 0
    while not select.select([sys.stdin], [], [], max(0, start + number / fps - time.monotonic()))[0]:
        frame = av.VideoFrame.from_ndarray(np.full((height * 3 // 2, width), number % 200, np.uint8), "yuv420p")
        frame.pts, frame.time_base = number, Fraction(1, fps)
        output.mux(stream.encode(frame))
        number += 1
"""
"""Publishes until its standard input ends."""


@pytest.mark.parametrize("flags", ["", "dtls_active"])
async def test_ffmpeg_publishes_and_its_picture_is_watched(tmp_path, flags):
    """A third-party client, in its own process: its muxer holds the interpreter while it connects."""
    async with serve() as (app, http, url):
        options = certificate(tmp_path) | ({"whip_flags": flags} if flags else {})
        arguments = [f"{url}/whip/ff?{QUERY}", str(WIDTH), str(HEIGHT), str(FPS), repr(options)]
        pipe = asyncio.subprocess.PIPE
        ffmpeg = await asyncio.create_subprocess_exec(sys.executable, "-c", PUBLISHER, *arguments, stdin=pipe)
        try:
            async with asyncio.timeout(30):
                while "ff" not in app[STREAMS].report():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            async with peers(Peer(http, f"{url}/whep/ff").open(watch=True)) as (player,):
                await player.until(lambda: len(player.seen) > 20)
            ffmpeg.stdin.close()
            async with asyncio.timeout(30):
                assert await ffmpeg.wait() == 0
            async with asyncio.timeout(5):
                while app[STREAMS].report():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        finally:
            if ffmpeg.returncode is None:
                ffmpeg.kill()
                await ffmpeg.wait()


async def test_a_client_that_lost_its_connection_goes_on_with_its_session():
    async with serve() as (app, http, url):
        first, second, third = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(3))
        seen, tasks = [], []

        async def dial(pc, **fields):
            @pc.on("track")
            def on_track(track):
                tasks.append(asyncio.create_task(take(track)))

            pc.addTrack(Camera())
            await pc.setLocalDescription(await pc.createOffer())
            body = {"sdp": pc.localDescription.sdp, "type": "offer", "mode": "simulate", **fields}
            async with http.post(f"{url}/sessions", json=body) as reply:
                answer = await reply.json()
                if reply.status == 201:
                    await pc.setRemoteDescription(RTCSessionDescription(answer["sdp"], "answer"))
                return reply.status, answer.get("id")

        async def take(track):
            try:
                while True:
                    seen.append((asyncio.get_running_loop().time(), await track.recv()))
            except MediaStreamError:
                return

        async def until(condition):
            async with asyncio.timeout(20):
                while not condition():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

        _, session_id = await dial(first, size=f"{WIDTH}x{HEIGHT}")
        session = app[SESSIONS].get(session_id)
        await until(lambda: session.figures.frames_left > 20)
        (transport,) = first._RTCPeerConnection__iceTransports

        async def lose(data):
            return

        transport._send = lose
        await asyncio.sleep(1)
        chunks = session.number
        assert await dial(second, resume="nobody") == (404, None)
        await second.close()
        assert await dial(third, resume=session_id) == (201, session_id)
        left = len(seen)
        await until(lambda: len(seen) > left + 20)
        assert len(app[SESSIONS]) == 1 and session.number > chunks and session.figures.resumed == 1
        assert session.pc.connectionState == "connected"
        await first.close()
        await asyncio.sleep(0.2)
        assert len(app[SESSIONS]) == 1, "the end of the lost connection is not the session's"
        await third.close()
        await asyncio.gather(*tasks)


async def test_a_session_is_recorded_only_where_the_server_says_so_and_the_client_asks(tmp_path):
    async with serve() as (_, http, url):
        async with peers(Peer(http, f"{url}/whip/cam?{QUERY}&record=both").open()) as (peer,):
            assert peer.status == 422
    async with serve(recordings=tmp_path) as (app, http, url):
        async with peers(Peer(http, f"{url}/whip/cam?{QUERY}&record=both").open(sound=True)) as (peer,):
            session = next(iter(app[SESSIONS]))
            await peer.until(lambda: session.figures.frames_left > 20)
            assert await peer.delete() == 200
        await asyncio.sleep(0.2)
    assert session.outlet.recording.error is None
    assert sorted(path.name.split(".", 1)[1] for path in tmp_path.iterdir()) == ["received.mkv", "restored.mkv"]
    for path in tmp_path.iterdir():
        with av.open(str(path)) as container:
            assert {stream.type for stream in container.streams} == {"video", "audio"}
            numbers = [read(frame) for frame in container.decode(video=0)]
        assert numbers == sorted(numbers) and len(numbers) >= 20
