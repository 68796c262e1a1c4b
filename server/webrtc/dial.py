"""Dials a WHIP or WHEP server (RFC 9725): here, this server is the client.

No error holds the address that is dialled: it may hold a secret.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

import aiohttp
from aiortc import RTCRtpSender, RTCSessionDescription
from aiortc.rtcrtptransceiver import RTCRtpTransceiver
from yarl import URL

from server.webrtc.peer import PeerConnection

logger = logging.getLogger(__name__)

ANSWER_BYTES = 64 * 1024
"""most bytes of an answer"""
ANSWERING, CONNECTING = 10.0, 10.0
"""seconds that an answer and the connection may take"""
SDP = "application/sdp"


class DialFailed(Exception):
    """Why there is no connection, in words without the address."""


class Call:
    """One connection that is dialled, for as long as its context lasts. `over` is set when the other side has gone."""

    def __init__(self, pc: PeerConnection, url: str, token: str | None):
        self.pc = pc
        self.over = asyncio.Event()
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._connected = asyncio.Event()
        self._resource: URL | None = None
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWERING), headers=self._headers)

        @pc.on("connectionstatechange")
        def on_connectionstatechange() -> None:
            if pc.connectionState == "connected":
                self._connected.set()
            elif pc.connectionState in ("failed", "closed"):
                self._connected.set()
                self.over.set()

    async def __aenter__(self) -> Call:
        """Dials. Raises DialFailed."""
        try:
            await self._dial()
        except BaseException:
            await self._hang_up()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._hang_up()

    async def _dial(self) -> None:
        await to_the_end(self.pc.setLocalDescription(await self.pc.createOffer()))
        answer = await self._post(self.pc.localDescription.sdp)
        try:
            await self.pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        except Exception as error:  # aiortc names no errors for a description that it cannot use
            raise DialFailed("the other server's answer cannot be used") from error
        try:
            async with asyncio.timeout(CONNECTING):
                await self._connected.wait()
        except TimeoutError:
            raise DialFailed(f"no connection within {CONNECTING:g} s of the other server's answer") from None
        if self.over.is_set():
            raise DialFailed("the connection to the other server failed")

    async def _post(self, offer: str) -> str:
        try:
            async with self._http.post(self._url, data=offer, headers={"Content-Type": SDP}) as reply:
                if reply.status != 201:
                    raise DialFailed(f"the other server answered {reply.status} {reply.reason or ''}".rstrip())
                if (location := reply.headers.get("Location")) is not None:
                    self._resource = reply.url.join(URL(location))
                return await bounded(reply)
        except TimeoutError:
            raise DialFailed(f"no answer from the other server within {ANSWERING:g} s") from None
        except (aiohttp.ClientError, ValueError) as error:
            raise DialFailed(f"the other server cannot be reached: {type(error).__name__}") from None

    async def _hang_up(self) -> None:
        try:
            if self._resource is not None:
                async with self._http.delete(self._resource):
                    pass
        except (aiohttp.ClientError, TimeoutError):
            logger.info("the other server did not hear that a connection ended")
        finally:
            await self._http.close()
            await self.pc.close()


async def to_the_end(opening: Coroutine[Any, Any, None]) -> None:
    """Awaits what opens sockets. One that is cancelled meanwhile leaves after it: else nobody would close them."""
    task = asyncio.ensure_future(opening)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def bounded(reply: aiohttp.ClientResponse) -> str:
    """The text of an answer. Raises DialFailed for a long one."""
    text = b""
    async for part in reply.content.iter_any():
        text += part
        if len(text) > ANSWER_BYTES:
            raise DialFailed(f"the other server's answer has more than {ANSWER_BYTES} bytes")
    return text.decode(errors="replace")


def prefer(transceiver: RTCRtpTransceiver, codec: str) -> None:
    """Offers one video codec only, VP8 or H264, and its repair stream."""
    capabilities = RTCRtpSender.getCapabilities("video").codecs
    wanted = (f"video/{codec}".lower(), "video/rtx")
    transceiver.setCodecPreferences([known for known in capabilities if known.mimeType.lower() in wanted])
