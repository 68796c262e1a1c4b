"""One end of a call, run inside a network namespace. Descriptions pass over standard input and output, as JSON lines.

peer.py camera SECONDS: sends numbered pictures. peer.py server SECONDS: receives them and tells how they came.
"""

import asyncio
import itertools
import json
import sys
import time
from fractions import Fraction

import numpy as np
from aiortc import MediaStreamTrack, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from av import VideoFrame

from server.webrtc.answer import AnswerOptions
from server.webrtc.config import RtcConfig
from server.webrtc.offer import parse_offer
from server.webrtc.peer import PeerConnection

WIDTH, HEIGHT, FPS = 832, 480, 16


class Camera(MediaStreamTrack):
    """Moving texture under grain: 16 pictures a second that take all the bits they are given."""

    kind = "video"

    def __init__(self):
        super().__init__()
        self.number, self.began = 0, None
        rng = np.random.default_rng(1)
        self.grain = rng.integers(-12, 12, (4, HEIGHT, WIDTH)).astype(np.int16)
        self.texture = rng.integers(60, 196, (HEIGHT // 4, WIDTH // 4)).astype(np.uint8).repeat(4, 0).repeat(4, 1)

    async def recv(self):
        now = time.monotonic()
        self.began = self.began or now
        await asyncio.sleep(max(0, self.began + self.number / FPS - now))
        planes = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
        moved = np.roll(self.texture, (self.number, 3 * self.number), (0, 1))
        planes[:HEIGHT] = moved + np.roll(self.grain[self.number % 4], self.number, 1)
        frame = VideoFrame.from_ndarray(planes, "yuv420p")
        frame.pts, frame.time_base = self.number * 90000 // FPS, Fraction(1, 90000)
        self.number += 1
        return frame


async def hear():
    return json.loads(await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline))


def tell(message):
    print(json.dumps(message), flush=True)


async def camera(seconds):
    pc, track = PeerConnection(RtcConfig(fps=FPS)), Camera()
    pc.addTrack(track)
    await pc.setLocalDescription(await pc.createOffer())
    tell({"sdp": pc.localDescription.sdp})
    await pc.setRemoteDescription(RTCSessionDescription((await hear())["sdp"], "answer"))
    await asyncio.sleep(seconds)
    tell({"sent": track.number, **pc.counters()})
    await pc.close()


async def server(seconds):
    pc, seen, tasks = PeerConnection(RtcConfig(fps=FPS)), [], []

    @pc.on("track")
    def on_track(track):
        tasks.append(asyncio.create_task(watch(track)))

    async def watch(track):
        try:
            while True:
                frame = await track.recv()
                seen.append((time.monotonic(), frame.pts))
        except MediaStreamError:
            return

    offer = parse_offer((await hear())["sdp"])
    tell({"sdp": await pc.answer(offer, AnswerOptions())})
    began = time.monotonic()
    await asyncio.sleep(seconds)
    gaps = [b[0] - a[0] for a, b in itertools.pairwise(seen)]
    last = [at for at, _ in seen if at > began + seconds - 2]
    tell(
        {
            "seen": len(seen),
            "ordered": all(b[1] > a[1] for a, b in itertools.pairwise(seen)),
            "longest_gap": round(max(gaps, default=seconds), 3),
            "last_fps": len(last) / 2,
            **pc.counters(),
        }
    )
    await pc.close()
    await asyncio.gather(*tasks)


if __name__ == "__main__":
    asyncio.run({"camera": camera, "server": server}[sys.argv[1]](float(sys.argv[2])))
