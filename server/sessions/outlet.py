"""Restored chunks in, frames and reports out: the half of a session that faces its viewers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiortc import RTCDataChannel
from av import VideoFrame

from core.chunks import CHUNKS
from server.device.work import RestoredChunk, Work
from server.media.audio import CarriedTrack
from server.media.broadcast import Broadcast
from server.media.pictures import PictureWriter
from server.media.playout import Playout
from server.media.recording import Recording
from server.media.tracks import Outgoing, RestoredTrack
from server.scheduling.scheduler import Job
from server.sessions.certificates import facts_of
from server.sessions.telemetry import SessionFigures

CHANNEL_BYTES = 256 * 1024
"""bytes of reports that may wait for a slow data channel"""
OUTPUT_FRAMES = 4
"""frames that may wait for an encoder; the oldest are dropped"""
OUTBOX = 16
"""chunks that may wait to become pictures; the oldest are dropped"""


class ReportChannel:
    """The data channel that carries reports and events, if the client opened one. Drops what a slow one cannot take."""

    def __init__(self, figures: SessionFigures):
        self._figures = figures
        self._channel: RTCDataChannel | None = None

    def attach(self, channel: RTCDataChannel) -> None:
        """Uses `channel` from now on, if it is the one for reports."""
        if channel.label == "report":
            self._channel = channel

    def detach(self) -> None:
        """The connection is lost, and its channel with it."""
        self._channel = None

    def send(self, message: dict[str, Any]) -> None:
        """Sends one JSON object, if a channel is open and keeps up."""
        channel = self._channel
        if channel is None or channel.readyState != "open":
            return
        if channel.bufferedAmount > CHANNEL_BYTES:
            self._figures.reports_dropped += 1
            return
        channel.send(json.dumps(message))


SendReport = Callable[[dict[str, Any]], None]


@dataclass
class ChunkReport:
    """A chunk's report, which waits for the chunk's first frame to leave."""

    body: dict[str, Any]
    last_arrival: float
    sent: bool = False


class Outlet:
    """Turns chunks into pictures, in order, plays them, and reports each chunk as its first frame leaves."""

    def __init__(self, fps: float, preroll: float, figures: SessionFigures, send_report: SendReport):
        playout: Playout[Outgoing] = Playout(fps, preroll, capacity=4 * CHUNKS.most_frames)
        self.track = RestoredTrack(playout, self._on_left, self._on_dropped)
        self.broadcast = Broadcast(self.track, limit=OUTPUT_FRAMES)
        """the restored video, for the client's connection or for players"""
        self.sound: CarriedTrack | None = None
        """the client's sound on its way back, when it sends any"""
        self.recording: Recording | None = None
        self.last_report: dict[str, Any] | None = None
        self._figures = figures
        self._send_report = send_report
        self._writer = PictureWriter()
        self._opened = asyncio.get_running_loop().time()
        self._outbox: asyncio.Queue[tuple[Job[Work], RestoredChunk | None]] = asyncio.Queue(maxsize=OUTBOX)

    def play(self, job: Job[Work], restored: RestoredChunk | None) -> None:
        """Queues a chunk as the device restored it; None: as it arrived."""
        if self._outbox.full():
            old, _ = self._outbox.get_nowait()
            self._figures.dropped["late"] += len(old.work.slots)
        self._outbox.put_nowait((job, restored))

    async def run(self) -> None:
        """Plays chunks until cancelled."""
        while True:
            job, restored = await self._outbox.get()
            work, pictures = job.work, await self._pictures(job, restored)
            if self.recording is not None:
                self.recording.offer(work.arrivals, job.chunk.frames, pictures, facts_of(job, restored))
            report = ChunkReport(chunk_report(job, restored, self._figures), work.arrivals[-1])
            frames = [
                (slot, Outgoing(picture, arrival, report))
                for slot, arrival, picture in zip(work.slots, work.arrivals, pictures, strict=True)
            ]
            self.track.put(frames, work.standing)

    def offer_sound(self, packet: bytes, arrival: float) -> None:
        """Hands a packet of sound to the recording, if there is one."""
        if self.recording is not None:
            self.recording.offer_sound(packet, arrival)

    async def stop(self) -> None:
        """Ends the tracks and the recording. `run` must have ended."""
        self.track.stop()
        if self.sound is not None:
            self.sound.stop()
        if self.recording is not None:
            await asyncio.get_running_loop().run_in_executor(None, self.recording.stop)

    def as_dict(self) -> dict[str, Any]:
        """What GET /sessions/ID says about it."""
        playout = self.track.playout
        return {
            "playout": {
                "waiting": playout.waiting,
                "late": playout.late,
                "underruns": playout.underruns,
                "caught_up": playout.caught_up,
            },
            "chunk": self.last_report,
            "recording": self.recording.as_dict() if self.recording else None,
        }

    async def _pictures(self, job: Job[Work], restored: RestoredChunk | None) -> list[VideoFrame]:
        loop, spec = asyncio.get_running_loop(), job.work.spec
        if restored is not None:
            return await loop.run_in_executor(None, self._writer.write, list(restored.pixels))
        return await loop.run_in_executor(
            None, self._writer.pass_through, job.chunk.frames, spec.height, spec.width, len(spec.panels)
        )

    def _on_left(self, frame: Outgoing, now: float) -> None:
        latency = now - frame.arrival
        self._figures.left(latency, now)
        if self._figures.frames_left == 1:
            self._figures.first_frame.add(now - self._opened)
        if self.sound is not None:
            self.sound.follow(latency)
        report: ChunkReport = frame.chunk
        if not report.sent:
            report.sent = True
            report.body["latency_ms"] = round(1000 * latency, 1)
            report.body["ms"]["deliver"] = round(1000 * (now - report.last_arrival), 1)
            self.last_report = report.body
            self._send_report(report.body)

    def _on_dropped(self, frame: Outgoing) -> None:
        self._figures.dropped["late"] += 1


def chunk_report(job: Job[Work], restored: RestoredChunk | None, figures: SessionFigures) -> dict[str, Any]:
    """What the data channel says about one chunk; the latency is added when its first frame leaves."""
    work = job.work
    ms: dict[str, float] = {"fill": 1000 * (work.arrivals[-1] - work.arrivals[0])}
    report: dict[str, Any] = {
        "chunk": work.number,
        "guided": False,
        "rung": "passthrough",
        "residual": None,
        "frames": len(work.slots),
        "lost": len(work.lost),
        "slots": [work.slots[0], work.slots[-1]],
        "timestamps": [round(work.timestamps[0], 4), round(work.timestamps[-1], 4)],
        "operator": work.operator.kind,
        "dropped": sum(figures.dropped.values()),
        "shed": figures.shed,
    }
    if restored is not None:
        stepped = restored.stepped
        ms |= {"queue": 1000 * (restored.started - work.submitted), **stepped.ms}
        report |= {"guided": stepped.guided, "rung": restored.plan.rung, "residual": round(stepped.residual, 5)}
        if stepped.psnr is not None and stepped.psnr_x_init is not None:
            report |= {"psnr": round(stepped.psnr, 2), "psnr_x_init": round(stepped.psnr_x_init, 2)}
        if stepped.flicker is not None:
            report["flicker"] = round(stepped.flicker, 3)
        if stepped.trust is not None:
            report["trust"] = {share: round(value, 4) for share, value in stepped.trust}
    report["ms"] = {stage: round(value, 1) for stage, value in ms.items()}
    return report
