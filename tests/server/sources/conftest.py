"""A WHEP player, and the server that it watches."""

import asyncio

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

from tests.server.conftest import serve


@pytest.fixture
def serving():
    return serve


class Watcher:
    """A WHEP client with a plain peer connection, which keeps the sizes and times of what it sees."""

    def __init__(self, http, url):
        self.http, self.url = http, url
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.seen, self.tasks = [], []
        self.pc.on("track", lambda track: self.tasks.append(asyncio.ensure_future(self.take(track))))

    async def take(self, track):
        try:
            while True:
                self.seen.append(await track.recv())
        except MediaStreamError:
            return

    async def open(self):
        self.pc.addTransceiver("video", direction="recvonly")
        await self.pc.setLocalDescription(await self.pc.createOffer())
        headers = {"Content-Type": "application/sdp"}
        async with self.http.post(self.url, data=self.pc.localDescription.sdp, headers=headers) as reply:
            self.status, self.headers, text = reply.status, reply.headers, await reply.text()
        self.error = text if self.status != 201 else ""
        if self.status == 201:
            await self.pc.setRemoteDescription(RTCSessionDescription(text, "answer"))
        return self

    async def sees(self, number=1, seconds=20):
        async with asyncio.timeout(seconds):
            while len(self.seen) < number:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return self.seen

    async def close(self):
        if self.status == 201:
            async with asyncio.timeout(20):
                while self.pc.connectionState == "connecting":  # noqa: ASYNC110 - aiortc cannot close it then
                    await asyncio.sleep(0.02)
            async with self.http.delete(self.url + "/" + self.headers["Location"].rpartition("/")[2]):
                pass
        await self.pc.close()
        await asyncio.gather(*self.tasks)


@pytest.fixture
async def watcher():
    """Makes watchers. Those that a failed test left are closed: their sockets would keep the loop from closing."""
    made = []

    def make(http, url):
        made.append(Watcher(http, url))
        return made[-1]

    yield make
    for one in made:
        await one.pc.close()
