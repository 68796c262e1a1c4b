"""`avis doctor URL`: connects to a running server as a client does, and says which step fails and what to do about it.

The steps are those of every WebRTC client: HTTP, the offer, TURN, ICE, DTLS, media. Each needs the one before it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import av
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.sdp import SessionDescription

from server.commands.findings import Finding
from server.loadtest.client import ClientConfig, SourceTrack
from server.loadtest.footage import SyntheticScene

ANSWERS = 10.0
"""seconds that an HTTP answer may take"""
CONNECTS = 20.0
"""seconds that ICE and DTLS may take together, longer than the server's own deadline"""
PLAYS = 20.0
"""seconds until the first frame must be back"""
SIZE = (128, 96)
"""(width, height) of the video that is sent"""


class Failed(Exception):
    """A step that failed. What follows cannot be tried."""


@dataclass
class Checkup:
    """One connection to a server, step by step."""

    url: str
    http: aiohttp.ClientSession
    findings: list[Finding] = field(default_factory=list)
    ice_servers: list[RTCIceServer] = field(default_factory=list)
    pc: RTCPeerConnection | None = None
    location: str | None = None
    channel_open: bool = False
    reports: list[dict[str, Any]] = field(default_factory=list)
    frames: asyncio.Queue[tuple[int, int]] = field(default_factory=asyncio.Queue)
    """(width, height) of the frames that came back"""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def found(self, name: str, words: str) -> None:
        self.findings.append(Finding(name, "ok", words))

    def noted(self, name: str, words: str) -> None:
        self.findings.append(Finding(name, "note", words))

    # --- HTTP -------------------------------------------------------------------------------------

    async def signalling(self) -> None:
        """The server answers, is ready, takes our token, and names its ICE servers."""
        body = await self._get("/healthz")
        if body.get("status") != "ok":
            raise Failed(f"{self.url} answers, and is no AVIS server: GET /healthz gave {json.dumps(body)[:100]}")
        ready = await self._get("/readyz", refused_too=True)
        if "error" in ready:
            raise Failed(f"the server answers, and opens no session yet: {ready['error'].get('message')}")
        servers = (await self._get("/ice")).get("iceServers", [])
        self.ice_servers = [
            RTCIceServer(urls=one["urls"], username=one.get("username"), credential=one.get("credential"))
            for one in servers
        ]
        self.found("signalling", f"{self.url} is ready with the model {ready.get('model')}")

    async def _get(self, path: str, refused_too: bool = False) -> dict[str, Any]:
        try:
            async with self.http.get(self.url + path) as response:
                body = await json_of(response)
                if response.status == 401:
                    raise Failed("the server asks for a token: give it with --token")
                if response.status >= 400 and not refused_too:
                    message = body.get("error", {}).get("message", "no reason")
                    raise Failed(f"GET {path} was refused with {response.status}: {message}")
                return body
        except aiohttp.ClientConnectorCertificateError as error:
            raise Failed(f"the certificate of {self.url} is not trusted here: {error.certificate_error}") from error
        except aiohttp.ClientSSLError as error:
            raise Failed(f"TLS with {self.url} failed; is it http:// and not https://? {error}") from error
        except aiohttp.ClientConnectorError as error:
            raise Failed(f"nobody answers at {self.url}: {error.os_error.strerror or error.os_error}") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Failed(f"{self.url} did not answer GET {path}: {error or 'too slow'}") from error

    async def offer(self) -> None:
        """The server takes an offer for a small stream, and answers it."""
        pc = self.pc = RTCPeerConnection(
            RTCConfiguration(iceServers=self.ice_servers, bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        )
        width, height = SIZE
        config = ClientConfig(url=self.url, width=width, height=height)
        pc.addTrack(SourceTrack(SyntheticScene(width, height), config))
        self._listen(pc)
        await pc.setLocalDescription(await pc.createOffer())
        fields = {"mode": "simulate", "fps": config.fps, "size": f"{width}x{height}"}
        body = {"sdp": pc.localDescription.sdp, "type": "offer", **fields}
        try:
            async with self.http.post(f"{self.url}/sessions", json=body) as response:
                answer = await json_of(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Failed(f"the offer was not answered: {error or 'too slow'}") from error
        if response.status != 201:
            again = response.headers.get("Retry-After")
            message = answer.get("error", {}).get("message", "no reason")
            later = f"; ask again in {again} s" if again else ""
            raise Failed(f"the server refuses a session with {response.status}: {message}{later}")
        self.location = f"{self.url}/sessions/{answer['id']}"
        await pc.setRemoteDescription(RTCSessionDescription(answer["sdp"], answer["type"]))
        self.found("offer", f"answered, with {named(candidates(answer['sdp']))} of the server's own")

    def _listen(self, pc: RTCPeerConnection) -> None:
        channel = pc.createDataChannel("report")

        @channel.on("open")
        def on_open() -> None:
            self.channel_open = True

        @channel.on("message")
        def on_message(message: str) -> None:
            self.reports.append(json.loads(message))

        @pc.on("track")
        def on_track(track: MediaStreamTrack) -> None:
            self.tasks.add(asyncio.get_running_loop().create_task(self._receive(track)))

    async def _receive(self, track: MediaStreamTrack) -> None:
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            assert isinstance(frame, av.VideoFrame), f"expected a video frame, found {frame}"
            self.frames.put_nowait((frame.width, frame.height))

    # --- the connection ---------------------------------------------------------------------------

    async def turn(self) -> None:
        """Whether the TURN servers that the server names give this client an address."""
        assert self.pc is not None, "an offer was made"
        urls = [one.urls if isinstance(one.urls, str) else one.urls[0] for one in self.ice_servers]
        named_here = [url for url in urls if url.startswith("turn")]
        if not named_here:
            self.noted("turn", "the server names no TURN server: clients that UDP does not reach cannot connect")
            return
        kinds = candidates(self.pc.localDescription.sdp)
        if "relay" in kinds:
            self.found("turn", f"{named_here[0]} gave an address")
        else:
            self.noted("turn", f"{named_here[0]} gave no address: is it up, and does it have the server's secret?")

    async def ice(self) -> None:
        """A path for media is found."""
        await self._until(lambda pc: pc.iceConnectionState in ("completed", "connected"), self._no_path)
        self.found("ice", f"a path was found, {self._path()}")

    def _path(self) -> str:
        assert self.pc is not None, "an offer was made"
        [transport, *_] = {id(t.receiver.transport): t.receiver.transport for t in self.pc.getTransceivers()}.values()
        pair = transport.transport._connection._nominated.get(1)
        if pair is None:
            return "between addresses that aiortc does not tell"
        return f"{pair.local_candidate.type} here to {pair.remote_candidate.type} there"

    def _no_path(self) -> str:
        assert self.pc is not None, "an offer was made"
        there = candidates(self.pc.remoteDescription.sdp)
        hint = "open its UDP ports (--udp-ports), name its --public-ip behind NAT, or give it a TURN server"
        return f"ICE found no path: no UDP between here and {named(there)} of the server; {hint}"

    async def dtls(self) -> None:
        """The keys are agreed on."""
        await self._until(lambda pc: pc.connectionState == "connected", self._no_keys)
        self.found("dtls", "the handshake is done")

    def _no_keys(self) -> str:
        state = self.pc.connectionState if self.pc else "closed"
        return (
            f"ICE found a path, and the DTLS handshake on it did not end (the connection is {state}): something on the "
            "way lets short packets pass and long ones not; try a smaller MTU, or a TURN server"
        )

    async def _until(self, done: Callable[[RTCPeerConnection], bool], words: Callable[[], str]) -> None:
        """Waits until `done`. Raises Failed with `words` when the connection fails or takes too long."""
        assert self.pc is not None, "an offer was made"
        deadline = time.monotonic() + CONNECTS
        while not done(self.pc):
            if self.pc.connectionState in ("failed", "closed") or time.monotonic() > deadline:
                raise Failed(words())
            await asyncio.sleep(0.05)

    async def media(self) -> None:
        """Restored frames come back, and the reports about them."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(PLAYS):
                width, height = await self.frames.get()
        except TimeoutError:
            raise Failed(await self._no_frames()) from None
        self.found("media", f"the first frame, {width}x{height}, was back {time.monotonic() - began:.1f} s later")
        await asyncio.sleep(0.5)
        chunks = [report for report in self.reports if "chunk" in report]
        if chunks:
            self.found("reports", f"the data channel tells of the chunks; the last went {chunks[-1]['rung']}")
        else:
            state = "is open and silent" if self.channel_open else "did not open"
            self.noted("reports", f"frames come, and the data channel {state}: SCTP is blocked or lost")

    async def _no_frames(self) -> str:
        """What the server says of a session whose frames do not come back."""
        try:
            async with self.http.get(str(self.location)) as response:
                report = await json_of(response)
        except (aiohttp.ClientError, TimeoutError):
            report = {}
        came = report.get("frames", {}).get("in", 0)
        if "error" in report or not report:
            return "connected, and the server has ended the session: its log says why"
        if not came:
            return "connected, and not one of our frames came to the server: RTP is lost on the way there"
        if not report["frames"].get("out"):
            return f"{came} frames came to the server, and none left it: its device is too slow or stands still"
        return f"{came} frames came to the server, and what left it did not come here: RTP is lost on the way back"

    async def close(self) -> None:
        """Ends the session and the connection."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if self.location is not None:
            try:
                await (await self.http.delete(self.location)).release()
            except (aiohttp.ClientError, TimeoutError):
                self.noted("end", "the session was not ended by DELETE: the server ends it when it hears nothing")
        if self.pc is not None:
            await self.pc.close()


STEPS: tuple[tuple[str, Callable[[Checkup], Awaitable[None]]], ...] = (
    ("signalling", Checkup.signalling),
    ("offer", Checkup.offer),
    ("turn", Checkup.turn),
    ("ice", Checkup.ice),
    ("dtls", Checkup.dtls),
    ("media", Checkup.media),
)


async def examine(url: str, token: str | None = None) -> list[Finding]:
    """Tries every step in turn. The first that fails is a fault; those after it are named as not tried."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    timeout = aiohttp.ClientTimeout(total=ANSWERS)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as http:
        checkup = Checkup(url.rstrip("/"), http)
        try:
            for index, (name, step) in enumerate(STEPS):
                try:
                    await step(checkup)
                except Failed as failure:
                    rest = ", ".join(later for later, _ in STEPS[index + 1 :])
                    words = f"{failure} (not tried: {rest})" if rest else str(failure)
                    checkup.findings.append(Finding(name, "fault", words))
                    break
        finally:
            await checkup.close()
        return checkup.findings


async def json_of(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The object that an answer holds; an empty one when it holds none."""
    try:
        body = json.loads(await response.text())
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def candidates(sdp: str) -> dict[str, str]:
    """One address of each kind of candidate in a session description: host, srflx, relay."""
    media = SessionDescription.parse(sdp).media
    return {one.type: f"{one.ip}:{one.port}" for section in media for one in section.ice_candidates}


def named(found: dict[str, str]) -> str:
    return ", ".join(f"{kind} {address}" for kind, address in found.items()) or "no address"
