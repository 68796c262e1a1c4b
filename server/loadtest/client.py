"""One WebRTC client of a load test: sends numbered frames, reads the numbers of those that come back.

Run as `python -m server.loadtest.client`; the first line of standard input is its ClientConfig, and at the second it
connects. It ends when its time is over or standard input closes, and tells what it sees on standard output,
one JSON object a line.
"""

from __future__ import annotations

import asyncio
import fractions
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from aiortc import MediaStreamTrack, RTCPeerConnection
from aiortc.codecs import vpx
from aiortc.mediastreams import MediaStreamError
from avis_client.session import Refused, Report, Session, Unreachable
from pydantic import Field

from core.config import Config
from core.contract import Latency
from server.loadtest.footage import Clip, Footage, SyntheticScene, Yuv
from server.loadtest.frame_code import Luma, code_height, draw_code, read_code, unwrap

CLOCK_RATE = 90_000
"""ticks per second of a video timestamp"""

Misbehaviour = Literal["none", "flood", "stall", "vanish"]
"""sends four times too fast, sends nothing for three of every ten seconds, or dies without a word"""

TELLS_EVERY = 0.5
"""seconds between two tellings of what came back"""

Tell = Callable[[dict[str, Any]], None]


class ClientConfig(Config):
    url: str
    width: int = Field(416, ge=16, le=16384)
    height: int = Field(240, ge=16, le=16384)
    fps: float = Field(16.0, gt=0, le=60)
    seconds: float = Field(60.0, gt=0, le=1e7)
    operator: dict[str, Any] = Field(default_factory=lambda: {"kind": "super_resolution"})
    solver: dict[str, Any] = Field(default_factory=dict)
    latency: Latency = "normal"
    """length of the session's chunks"""
    model: str | None = None
    clip: str | None = None
    """a video file; None sends a synthetic scene"""
    tag: int = Field(0, ge=0, le=255)
    """which client this is: drawn into every frame beside its number"""
    bitrate: int = Field(2_000_000, gt=0, le=10**9)
    """of the video that is sent, bits per second"""
    misbehaviour: Misbehaviour = "none"
    visits: int = Field(0, ge=0, le=10**7)
    """sessions to open one after the other, each closed when its first frame is back; 0 opens one that stays"""
    connect_timeout: float = Field(15.0, gt=0, le=3600)
    linger: float = Field(4.0, ge=0, le=3600)
    """seconds after the last frame that counts in which frames may still come back"""
    psnr_every: int = Field(8, ge=1, le=10**6)
    """every n-th frame is compared with the original"""


class SourceTrack(MediaStreamTrack):
    """Numbered frames on an absolute clock. A slot whose time has passed is left out, as a camera would."""

    kind = "video"

    def __init__(self, footage: Footage, config: ClientConfig):
        super().__init__()
        self.sent: dict[int, float] = {}
        """when each frame was sent"""
        self.newest = -1
        self._slot = -1
        self._footage = footage
        self._config = config
        self._pace = config.fps * (4 if config.misbehaviour == "flood" else 1)
        self._origin: float | None = None

    async def recv(self) -> av.VideoFrame:
        due = self._next_slot(time.monotonic())
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await self._stall(due)
        frame = self._draw(self.newest + 1)
        self.newest += 1
        self.sent[self.newest] = time.monotonic()
        return frame

    def _next_slot(self, now: float) -> float:
        """Takes the next slot whose time has not passed, and returns that time."""
        if self._origin is None:
            self._origin = now
        self._slot = max(self._slot + 1, math.floor((now - self._origin) * self._pace))
        return self._origin + self._slot / self._pace

    async def _stall(self, due: float) -> None:
        """Every ten seconds three in which nothing is sent."""
        assert self._origin is not None, "a frame is due, so the clock runs"
        age = (due - self._origin) % 10
        if self._config.misbehaviour == "stall" and due - self._origin > 7 and age > 7:
            await asyncio.sleep(10 - age)

    def _draw(self, number: int) -> av.VideoFrame:
        frame = av.VideoFrame.from_ndarray(numbered(self._footage, number, self._config), format="yuv420p")
        frame.pts = round(self._slot * CLOCK_RATE / self._config.fps)
        frame.time_base = fractions.Fraction(1, CLOCK_RATE)
        return frame


class Client:
    """One session, from its offer to its end."""

    def __init__(self, config: ClientConfig, footage: Footage, tell: Tell):
        self._config = config
        self._footage = footage
        self._tell = tell
        self._source = SourceTrack(footage, config)
        self._session = Session(config.url, on_report=self._hear, relays=False)
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        self._last: int | None = None
        """the last frame that counts; those sent after it only push it out of the server's chunks"""
        self._complete = asyncio.Event()
        self._back: list[list[Any]] = []
        self._unreadable = 0
        self.waited: float | None = None
        """seconds from the offer to the first frame that came back"""
        self.reached = "no answer to the offer"
        """how far the connection was made, when it was ended"""
        self.ended_by_server = False

    async def run(self, stop: asyncio.Event) -> None:
        """Runs the session until its time is over, `stop` is set, or the server ends it."""
        try:
            await self._open()
        except BaseException:
            await self._session.close()
            raise
        try:
            await self._stream(stop)
        finally:
            await self._close()

    async def _open(self) -> None:
        config = self._config
        body: dict[str, Any] = {
            "mode": "simulate",
            "operator": config.operator,
            "solver": config.solver,
            "fps": config.fps,
            "latency": config.latency,
            "size": f"{config.width}x{config.height}",
        }
        if config.model is not None:
            body["model"] = config.model
        session_id = await self._session.open(self._source, body)
        self._tell({"event": "opened", "id": session_id, "at": time.monotonic()})
        self._start(self._receive())

    def _hear(self, report: Report) -> None:
        self._tell({"event": "report", "at": time.monotonic(), "report": report})

    async def _stream(self, stop: asyncio.Event) -> None:
        async with asyncio.timeout(self._config.connect_timeout):
            await self._session.connected.wait()
        self._start(self._report())
        await first(self._config.seconds, stop, self._over, self._session.over)
        if self._config.misbehaviour == "vanish":
            os._exit(0)
        self._last = self._source.newest
        self._flush()
        self._tell({"event": "stopping", "at": time.monotonic(), "last": self._last})
        await first(self._config.linger, stop, self._over, self._session.over, self._complete)

    def why_nothing(self) -> str:
        """Why no frame came back over a connection that stood."""
        if self.ended_by_server:
            return f"the server ended the session ({self.reached})"
        return f"no frame within {self._config.seconds:g} s ({self.reached})"

    async def _close(self) -> None:
        self.reached = steps(self._session.pc)
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        self._flush()
        self.ended_by_server = await self._session.close()
        self._tell({"event": "end", "at": time.monotonic(), "ended_by_server": self.ended_by_server})
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _receive(self) -> None:
        """Reads what comes back until the track ends."""
        track = await self._session.track
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return self._over.set()
            assert isinstance(frame, av.VideoFrame), f"expected a video frame, found {frame}"
            await self._note(frame, time.monotonic())

    async def _note(self, frame: av.VideoFrame, now: float) -> None:
        same_size = (frame.width, frame.height) == (self._config.width, self._config.height)
        code = read_code(luma_of(frame)) if same_size else None
        if code is None:
            self._unreadable += 1
            return
        number = unwrap(code.number, self._source.newest)
        if self.waited is None and self._session.asked is not None:
            self.waited = now - self._session.asked
        if self._config.visits:
            self._over.set()
        if self._last is not None and number >= self._last:
            self._complete.set()
        psnr = None
        if len(self._back) % self._config.psnr_every == 0 and number in self._source.sent:
            psnr = round(await asyncio.to_thread(self._psnr, frame, number), 2)
        self._back.append([number, code.tag, self._source.sent.get(number), now, psnr])

    def _psnr(self, frame: av.VideoFrame, number: int) -> float:
        """dB over RGB with peak 1, without the rows of the code."""
        original = av.VideoFrame.from_ndarray(self._footage(number), format="yuv420p")
        rows = code_height(frame.width)
        a, b = (picture.to_ndarray(format="rgb24")[rows:].astype(np.float32) for picture in (original, frame))
        return -10 * math.log10(max(float(np.mean(((a - b) / 255) ** 2)), 1e-10))

    async def _report(self) -> None:
        """Tells what came back, now and then."""
        while True:
            await asyncio.sleep(TELLS_EVERY)
            self._flush()

    def _flush(self) -> None:
        back, self._back = self._back, []
        unreadable, self._unreadable = self._unreadable, 0
        sent = len(self._source.sent)
        self._tell(
            {
                "event": "frames",
                "at": time.monotonic(),
                "back": back,
                "sent": sent,
                "newest": self._source.newest,
                "unreadable": unreadable,
            }
        )

    def _start(self, coroutine: Any) -> None:
        self._tasks.add(asyncio.get_running_loop().create_task(coroutine))


def numbered(footage: Footage, number: int, config: ClientConfig) -> Yuv:
    """The picture of that number with its code drawn in."""
    picture = footage(number)
    draw_code(picture[: config.height], number, config.tag)
    return picture


def steps(pc: RTCPeerConnection) -> str:
    """How far a connection was made: its path, then its keys."""
    keys = {transceiver.receiver.transport.state for transceiver in pc.getTransceivers()}
    return f"ICE {pc.iceConnectionState}, DTLS {' and '.join(sorted(keys))}"


def luma_of(frame: av.VideoFrame) -> Luma:
    """The luma rows of a yuv420p frame, not copied."""
    plane = frame.planes[0]
    rows: Luma = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return rows[: frame.height, : frame.width]


def footage_of(config: ClientConfig) -> Footage:
    if config.clip is not None:
        return Clip(Path(config.clip), config.width, config.height)
    return SyntheticScene(config.width, config.height, seed=config.tag)


async def first(seconds: float, *events: asyncio.Event) -> None:
    """Waits until one of the events is set, or the time is over."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def tell(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


async def stdin_lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def main() -> None:
    lines = await stdin_lines()
    config = ClientConfig.model_validate_json(await lines.readline())
    vpx.DEFAULT_BITRATE = config.bitrate  # read by aiortc when it makes the encoder of this process
    vpx.MAX_BITRATE = max(vpx.MAX_BITRATE, config.bitrate)
    footage = footage_of(config)
    tell({"event": "ready"})
    if not await lines.readline():
        return  # closed before it was told to connect
    stop = asyncio.Event()

    async def until_closed() -> None:
        await lines.read()
        stop.set()

    closing = asyncio.ensure_future(until_closed())
    try:
        if not config.visits:
            await session(config, footage, stop)
        for _ in range(config.visits):
            if not stop.is_set():
                seconds, reason = await session(config, footage, stop)
                tell({"event": "visited", "seconds": seconds, "reason": reason})
    finally:
        closing.cancel()


async def session(config: ClientConfig, footage: Footage, stop: asyncio.Event) -> tuple[float | None, str | None]:
    """Runs one session: the seconds until its first frame was back, or why none came."""
    client = Client(config, footage, tell)
    reason = "ended before a frame was back"
    try:
        await client.run(stop)
        reason = client.why_nothing()
    except Refused as refusal:
        retry_after = float(refusal.retry_after) if refusal.retry_after else None
        told = {"status": refusal.status, "code": refusal.code, "reason": str(refusal), "retry_after": retry_after}
        tell({"event": "refused", **told})
        reason = f"refused: {refusal.status} {refusal.code}"
    except TimeoutError:
        reason = f"not connected within {config.connect_timeout:g} s ({client.reached})"
        tell({"event": "failed", "reason": reason})
    except Unreachable as error:
        reason = f"no answer to HTTP: {type(error.__cause__).__name__}"
        tell({"event": "failed", "reason": str(error)})
    return client.waited, reason if client.waited is None else None


if __name__ == "__main__":
    asyncio.run(main())
