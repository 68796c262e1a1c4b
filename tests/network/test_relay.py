"""Media through a real TURN server, where neither end reaches the other directly: UDP and TCP, both kinds of login."""

import asyncio
from fractions import Fraction

import numpy as np
import pytest
from aiohttp import ClientSession
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCIceServer,
    RTCIceTransportPolicy,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from av import VideoFrame

pytestmark = pytest.mark.network

SHOWN = {"Authorization": "Bearer s3cret"}
"""the token of the `avis` fixture"""

LOGINS = {
    "static": (["--lt-cred-mech", "--user=avis:north"], {"ice_username": "avis", "ice_credential": "north"}),
    "secret": (["--use-auth-secret", "--static-auth-secret=north"], {"ice_secret": "north"}),
}


class Camera(MediaStreamTrack):
    """Grey that brightens, 16 times a second."""

    kind = "video"

    def __init__(self):
        super().__init__()
        self.count = 0

    async def recv(self):
        await asyncio.sleep(1 / 16)
        frame = VideoFrame.from_ndarray(np.full((144, 128), self.count % 200 + 20, np.uint8), "yuv420p")
        frame.pts, frame.time_base = self.count * 5625, Fraction(1, 90000)
        self.count += 1
        return frame


async def call(url, seen):
    """A session over the relay alone; yields nothing before it has shown some pictures."""
    async with ClientSession(headers=SHOWN) as http:
        async with http.get(f"{url}/ice") as reply:
            told = (await reply.json())["iceServers"]
        servers = [RTCIceServer(**server) for server in told]
        pc = RTCPeerConnection(RTCConfiguration(servers, iceTransportPolicy=RTCIceTransportPolicy.RELAY))
        pc.on("track", lambda track: reading.append(asyncio.ensure_future(read(track, seen))))
        reading = []
        try:
            pc.addTrack(Camera())
            await pc.setLocalDescription(await pc.createOffer())
            body = {"sdp": pc.localDescription.sdp, "type": "offer", "mode": "simulate", "size": "128x96"}
            async with http.post(f"{url}/sessions", json=body) as reply:
                answer = await reply.json()
                assert reply.status == 201, answer
            await pc.setRemoteDescription(RTCSessionDescription(answer["sdp"], "answer"))
            async with asyncio.timeout(30):
                while len(seen) < 30:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            async with http.get(f"{url}/sessions/{answer['id']}") as reply:
                return pc.localDescription.sdp, answer["sdp"], await reply.json()
        finally:
            await pc.close()
            await asyncio.gather(*reading)


async def read(track, seen):
    try:
        while True:
            seen.append(await track.recv())
    except MediaStreamError:
        return


def kinds(sdp):
    return {line.split()[7] for line in sdp.splitlines() if line.startswith("a=candidate")}


@pytest.mark.parametrize("login", LOGINS)
@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_media_goes_through_the_relay(avis, turn, transport, login):
    arguments, settings = LOGINS[login]
    async with turn(*arguments) as port:
        servers = [f"turn:127.0.0.1:{port}?transport={transport}"]
        async with avis(ice_servers=servers, ice_relay=True, **settings) as url:
            offer, answer, report = await call(url, [])
    assert kinds(offer) == kinds(answer) == {"relay"}
    assert report["network"]["path"] == "relay-relay" and report["network"]["frames"] >= 30


async def test_a_wrong_login_gives_no_address_and_the_client_is_told(avis, turn):
    """The library says nothing of a refusal; the session would wait for a connection that cannot come."""
    async with turn("--lt-cred-mech", "--user=avis:north") as port:
        servers = [f"turn:127.0.0.1:{port}?transport=udp"]
        settings = {"ice_relay": True, "ice_username": "avis", "ice_credential": "south"}
        async with avis(ice_servers=servers, **settings) as url, ClientSession(headers=SHOWN) as http:
            pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
            pc.addTrack(Camera())
            await pc.setLocalDescription(await pc.createOffer())
            body = {"sdp": pc.localDescription.sdp, "type": "offer", "size": "128x96"}
            async with http.post(f"{url}/sessions", json=body) as reply:
                assert reply.status == 503 and (await reply.json())["error"]["code"] == "no_port"
            await pc.close()
