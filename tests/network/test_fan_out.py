"""What one more player of a stream costs the server: with an encoder of its own, and with one that all share.

Run with `-s` for the figures. Costs are processor time for each picture that a player is sent, so that they hold on a
busy machine too; they count encoding, packets, SRTP and sockets, but no HTTP and no restoration.
"""

import asyncio
import json
import os
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from fractions import Fraction

import numpy as np
import pytest
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription, rtcrtpreceiver
from av import VideoFrame

from server.media.broadcast import Broadcast
from server.webrtc.answer import AnswerOptions
from server.webrtc.config import RtcConfig
from server.webrtc.offer import parse_offer
from server.webrtc.peer import PeerConnection
from server.webrtc.quality_classes import KEPT, QualityClasses
from server.webrtc.sdp_lines import SdpLimits

pytestmark = pytest.mark.network
PLAYERS, SECONDS, FPS, WIDTH, HEIGHT = 12, 12, 16, 416, 240


class Scene(MediaStreamTrack):
    """Pictures that move, drawn beforehand."""

    kind = "video"

    def __init__(self):
        super().__init__()
        blocks = np.random.default_rng(0).integers(60, 200, (HEIGHT // 8, WIDTH // 8), np.uint8)
        wide = np.kron(blocks, np.ones((12, 16), np.uint8))
        self.pictures = [np.ascontiguousarray(wide[:, 2 * n : 2 * n + WIDTH]) for n in range(64)]
        self.number, self.begun = 0, time.monotonic()

    async def recv(self):
        self.number += 1
        await asyncio.sleep(self.begun + self.number / FPS - time.monotonic())
        frame = VideoFrame.from_ndarray(self.pictures[abs(self.number % 126 - 63)], "yuv420p")
        frame.pts, frame.time_base = round(self.number * 90_000 / FPS), Fraction(1, 90_000)
        return frame


async def clients():
    """Players in a process of their own, which decode nothing. A line in, an offer out, an answer in."""

    async def ignore(self, packet, arrival_time_ms):
        pass

    rtcrtpreceiver.RTCRtpReceiver._handle_rtp_packet = ignore
    loop, connections = asyncio.get_running_loop(), []
    while await loop.run_in_executor(None, sys.stdin.readline):
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        connections.append(pc)
        pc.addTransceiver("video", direction="recvonly")
        await pc.setLocalDescription(await pc.createOffer())
        print(json.dumps(pc.localDescription.sdp), flush=True)
        answer = await loop.run_in_executor(None, sys.stdin.readline)
        await pc.setRemoteDescription(RTCSessionDescription(json.loads(answer), "answer"))
    await asyncio.gather(*(pc.close() for pc in connections))


@asynccontextmanager
async def other_process():
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-c", f"import asyncio; from {__name__} import clients; asyncio.run(clients())"]
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, cwd=os.getcwd())
    try:
        yield process
    finally:
        process.stdin.close()
        await process.wait()


async def cost_of_players(players, shared):
    """Processor time in seconds for each picture that a player was sent, and how many there were."""
    config = RtcConfig(bind=("127.0.0.1",), fps=FPS)
    classes = QualityClasses(FPS, config.key_frame_every, asyncio.get_running_loop().time) if shared else None
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(other_process())
        broadcast = Broadcast(Scene(), 4)
        playing = asyncio.create_task(broadcast.run())
        stack.callback(playing.cancel)
        peers = []
        for _ in range(players):
            process.stdin.write(b"\n")
            offer = parse_offer(json.loads(await process.stdout.readline()), SdpLimits(allow_loopback=True), "play")
            peers.append(PeerConnection(config, classes))
            stack.push_async_callback(peers[-1].close)
            answer = await peers[-1].answer(offer, AnswerOptions(), [broadcast.join(KEPT if shared else None)])
            process.stdin.write(json.dumps(answer).encode() + b"\n")
        async with asyncio.timeout(60):
            while not all(peer.connectionState == "connected" for peer in peers):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await asyncio.sleep(3)
        before, began = sent(peers), time.process_time()
        await asyncio.sleep(SECONDS)
        spent, pictures = time.process_time() - began, sent(peers) - before
        return spent / pictures, pictures


def sent(peers):
    return sum(peer.video_sender.pictures for peer in peers)


async def test_a_player_of_a_stream_costs_a_fraction_of_an_encoder():
    own, by_own = await cost_of_players(PLAYERS, shared=False)
    one, by_one = await cost_of_players(1, shared=True)
    shared, by_shared = await cost_of_players(PLAYERS, shared=True)
    more = (PLAYERS * shared - one) / (PLAYERS - 1)
    print(f"\nms of CPU for each picture of a player: with its own encoder {1000 * own:.2f} ({by_own} pictures),")
    print(f"the first that shares {1000 * one:.2f} ({by_one}), each further one {1000 * more:.2f} ({by_shared}):")
    print(f"{1 / (more * FPS):.0f} players a core")
    assert more < own / 4
