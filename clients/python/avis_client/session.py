"""One session with an AVIS server: a peer connection, from its offer to its end. Never tries twice."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)

HTTP_TIMEOUT = 30.0
"""seconds that one request may take"""

Report = dict[str, Any]
"""What the data channel says of a chunk, or an event: see GET /channel.json of the server."""


class Unreachable(Exception):
    """No answer came, or no connection was made."""


class Refused(Exception):
    """The server opened no session, or took no change."""

    def __init__(self, status: int, body: Mapping[str, Any], retry_after: str | None):
        error = body.get("error") or {}
        super().__init__(error.get("message", f"HTTP {status}"))
        self.status = status
        self.code: str = error.get("code", "")
        self.retryable = bool(error.get("retryable"))
        self.retry_after = retry_after
        """seconds, as the server writes them; None where it says nothing"""
        self.ticket: str | None = (body.get("queue") or {}).get("ticket")
        """keeps the place in line, for a request that asked for one"""


class Session:
    """One session. `open` it once, and `close` it whatever happened."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        on_report: Callable[[Report], None] | None = None,
        relays: bool = True,
    ):
        """`url` is that of the server, as in http://127.0.0.1:8080; `on_report` gets what the data channel says.

        `relays`: uses the STUN and TURN servers that the server names.
        """
        self.url = url.rstrip("/")
        self.id: str | None = None
        self.asked: float | None = None
        """when the offer was sent, by the monotonic clock"""
        self.connected = asyncio.Event()
        self.over = asyncio.Event()
        """the connection failed or was closed, or the server said that it closes the session"""
        self.reason: str | None = None
        """why the server closes it"""
        self.track: asyncio.Future[MediaStreamTrack] = asyncio.get_running_loop().create_future()
        """the restored video"""
        self.pc = RTCPeerConnection(configuration([]))
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._on_report = on_report
        self._relays = relays
        self._http: aiohttp.ClientSession | None = None

    async def open(self, track: MediaStreamTrack, request: Mapping[str, Any]) -> str:
        """Sends `track`; `request` is the body of POST /sessions without its SDP. Returns the session's id.

        Raises Refused or Unreachable.
        """
        self._http = aiohttp.ClientSession(headers=self._headers, timeout=aiohttp.ClientTimeout(total=HTTP_TIMEOUT))
        if self._relays:
            self.pc = RTCPeerConnection(configuration((await self._ask("GET", "/ice", 200)).get("iceServers", [])))
        self.pc.addTrack(track)  # before the channel: aiortc bundles with what came first
        self._listen()
        await self.pc.setLocalDescription(await self.pc.createOffer())
        offer = {**request, "sdp": self.pc.localDescription.sdp, "type": "offer"}
        self.asked = time.monotonic()
        answer = await self._ask("POST", "/sessions", 201, offer)
        self.id = answer["id"]
        await self.pc.setRemoteDescription(RTCSessionDescription(answer["sdp"], answer["type"]))
        return self.id

    async def change(self, **what: Any) -> int:
        """Changes `operator` or `solver`; returns the number of the first chunk with it. Raises Refused."""
        answer = await self._ask("PATCH", f"/sessions/{self.id}", 200, what)
        return int(answer["applies_from_chunk"])

    async def close(self) -> bool:
        """Ends the session here and on the server; true when the server had ended it before."""
        ended = False
        try:
            if self._http is not None and self.id is not None:
                async with self._http.delete(f"{self.url}/sessions/{self.id}") as response:
                    ended = response.status == 404
        except (aiohttp.ClientError, TimeoutError):
            pass  # the server ends it by itself
        finally:
            await self.abandon()
        return ended

    async def abandon(self) -> None:
        """Lets go of the connection; the server keeps the session for a while."""
        if self._http is not None:
            await self._http.close()
        await self.pc.close()

    def _listen(self) -> None:
        channel = self.pc.createDataChannel("report")

        @channel.on("message")
        def on_message(text: str) -> None:
            message: Report = json.loads(text)
            if message.get("event") == "closing":
                self.reason = message.get("reason")
                self.over.set()
            if self._on_report is not None:
                self._on_report(message)

        @self.pc.on("track")
        def on_track(track: MediaStreamTrack) -> None:
            if track.kind == "video" and not self.track.done():
                self.track.set_result(track)

        @self.pc.on("connectionstatechange")
        def on_state() -> None:
            if self.pc.connectionState == "connected":
                self.connected.set()
            elif self.pc.connectionState in ("failed", "closed"):
                self.over.set()

    async def _ask(
        self, method: str, path: str, expected: int, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        assert self._http is not None, "the session was opened"
        try:
            async with self._http.request(method, self.url + path, json=body) as response:
                answer = await response.json() if response.content_type == "application/json" else {}
                if response.status != expected:
                    raise Refused(response.status, answer, response.headers.get("Retry-After"))
                found: dict[str, Any] = answer
                return found
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unreachable(f"{self.url}: {error or type(error).__name__}") from error


def configuration(servers: list[dict[str, Any]]) -> RTCConfiguration:
    """The ICE servers that the server names, as aiortc takes them."""
    found = [RTCIceServer(s["urls"], s.get("username"), s.get("credential")) for s in servers]
    return RTCConfiguration(iceServers=found, bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
