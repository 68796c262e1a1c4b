"""One session: frames of a track in, chunks to the device, restored frames and reports out. Knows no HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import av
from aiortc import MediaStreamTrack, RTCDataChannel
from aiortc.mediastreams import MediaStreamError
from av import VideoFrame

from core.chunks import CHUNK_FRAMES, Chunk, Chunker
from core.contract import Rung
from server.device.messages import StreamSpec
from server.device.worker import Restoration, Work
from server.logs import public
from server.media.audio import CarriedTrack
from server.media.broadcast import Broadcast
from server.media.pictures import PictureReader, PictureWriter, Pixels
from server.media.playout import Playout
from server.media.recording import Recording
from server.media.sampling import FrameSampler
from server.media.tracks import Outgoing, RestoredTrack
from server.scheduling.admission import ON_CALENDAR
from server.scheduling.ladder import Ladder
from server.scheduling.scheduler import Job
from server.sessions.config import Deadlines, SessionConfig, SessionState, fit_size
from server.sessions.telemetry import EndCode, SessionFigures
from server.settings import Settings
from server.webrtc.config import Arrival as Reception
from server.webrtc.peer import PeerConnection

logger = logging.getLogger(__name__)

INBOX = 8
"""frames that may wait to be converted; more means that conversion is behind, and the oldest is dropped"""
CHANNEL_BYTES = 256 * 1024
"""bytes of reports that may wait for a slow data channel"""
OUTPUT_FRAMES = 4
"""frames that may wait for an encoder; the oldest are dropped"""
MASKED = 0.5
"""share of a chunk's frames that may be lost and masked. Beyond, the rest does not hold them: a standing picture was
nearer to the truth (8 of 9 lost, two clips, super-resolution and temporal average: by 0.7 to 1.2 dB)"""
STANDING = 0.25
"""seconds of repeated frames in a row that are a pause of the source, and no source that is slow"""
LOG_TICKS = 40
"""quarters of a second between log lines about what was lost"""
WIRE = ("packets", "given_up", "recovered", "late", "nacks", "key_frame_requests", "frames_refused", "retransmitted")
"""counters of a connection that only grow"""
CLOSE_TIMEOUT = 10.0
"""seconds that closing a peer connection may take"""


@dataclass
class Arrival:
    """One frame in its slot."""

    slot: int
    timestamp: float
    at: float
    picture: VideoFrame
    gap: bool = False
    lost: bool = False
    """it never came: `picture` is the frame before it"""
    stands: bool = False
    """it repeats the frame before it, as do the others of a pause"""


@dataclass
class ReportedChunk:
    """A chunk whose report waits for its first frame to leave."""

    report: dict[str, Any]
    last_arrival: float
    sent: bool = False


class Host(Protocol):
    """What a session asks of the server around it."""

    def submit(self, session: Session, job: Job) -> list[Job] | None:
        """Queues a job and returns what was shed for it; None when no device serves now."""
        ...

    def sized(self, session: Session) -> None:
        """The session has learnt its size."""
        ...

    def end(self, session_id: str, reason: str, code: EndCode) -> None:
        """Closes a session, soon."""
        ...


class Session:
    """A peer connection that owns one stream."""

    def __init__(self, session_id: str, config: SessionConfig, settings: Settings, pc: PeerConnection, host: Host):
        self.id = session_id
        self.config = config
        self.state = SessionState.CONNECTING
        self.reason: str | None = None
        """why it closed"""
        self.pc = pc
        self.ladder = Ladder()
        self.figures = SessionFigures()
        self.spec: StreamSpec | None = None
        self.missed = False
        """chunks passed the device by since the last one that it restored"""
        self.ungrounded = False
        """its connection was another one before: the next chunk that can be is guided"""
        self.number = 0
        """chunks so far"""
        self.suspect = False
        """its chunk was on the device when the device was lost"""
        self.last_report: dict[str, Any] | None = None
        self._settings = settings
        self._host = host
        self._deadlines = Deadlines(
            settings.connect_timeout,
            settings.first_frame_timeout,
            settings.idle_timeout,
            settings.max_session_time,
        )
        playout: Playout[Outgoing] = Playout(config.fps, settings.preroll, capacity=4 * CHUNK_FRAMES)
        self.restored = RestoredTrack(playout, self._on_left, self._on_dropped)
        self.output = Broadcast(self.restored, limit=OUTPUT_FRAMES)
        """the restored video, for the client's connection or for players"""
        self.recording: Recording | None = None
        self.sound: CarriedTrack | None = None
        """the client's sound on its way back, when it sends any"""
        self._sampler = FrameSampler(config.fps, max_fill=settings.idle_pause)
        self._held: VideoFrame | None = None
        """the frame that came last, which fills slots that stay empty after it"""
        self._inbox: deque[Arrival] = deque()
        self._arrived = asyncio.Event()
        self._chunker: Chunker[tuple[Arrival, Pixels]] = Chunker()
        self._gap = False
        """frames are missing before the next chunk that is filled"""
        self._next_config = config
        """what the chunk after the one that is filling is restored with"""
        self._outbox: asyncio.Queue[tuple[Job, Restoration | None]] = asyncio.Queue(maxsize=16)
        self._channel: RTCDataChannel | None = None
        self._reader, self._writer = PictureReader(), PictureWriter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._farewells: list[asyncio.Task[None]] = []
        """connections that were replaced, as they close: cancelled, they would keep their sockets"""
        self._opened = self._now()
        self._dialled = self._opened
        """when the client's present connection was answered"""
        self._track: MediaStreamTrack | None = None
        self._rebase = False
        """the next frame is the first of another connection, whose timestamps begin anew"""
        self._shift = 0.0
        self._last_source: tuple[float, float] | None = None
        """timestamp and arrival of the last frame"""
        self._connected: float | None = None
        self._last_frame: float | None = None

    # --- life -------------------------------------------------------------------------------------

    def start(self, track: MediaStreamTrack) -> None:
        """Begins to take in `track`, in place of the one before. Its peer connection may still be connecting."""
        began, self._track = self._track is not None, track
        self._spawn(self._drain(track))
        if began:
            self._rebase = True
            return
        self._spawn(self.output.run())
        self._spawn(self._feed())
        self._spawn(self._send_back())
        self._spawn(self._watch())

    def carry(self, track: MediaStreamTrack, sound: CarriedTrack) -> None:
        """Begins to carry the sound of `track` through to `sound`, which plays it as late as the picture."""
        self.sound = sound
        self._spawn(self._drain_sound(track, sound))

    @property
    def age(self) -> float:
        """Seconds since the session was opened."""
        return self._now() - self._opened

    def wire(self) -> dict[str, int]:
        """What happened to the packets of the present connection so far."""
        return counted(self.pc)

    @property
    def silence(self) -> float:
        """Seconds since the last frame came, or since the session was opened."""
        return self._now() - (self._last_frame or self._opened)

    def resume(self, pc: PeerConnection) -> None:
        """Goes on over `pc`, whose track `start` has taken in, in place of a connection that was lost."""
        lost, self.pc = self.pc, pc
        self._dialled, self._connected, self._last_frame, self._channel = self._now(), None, None, None
        self.ungrounded = True
        self.figures.resumed += 1
        self.figures.wire.update(counted(lost))
        self._farewells.append(asyncio.get_running_loop().create_task(self._hang_up(lost)))

    def on_connection(self, pc: PeerConnection, state: str) -> None:
        """A peer connection changed its state; one that was replaced has no say."""
        if pc is not self.pc:
            return
        if state == "connected" and self._connected is None:
            self._connected = self._now()
        elif state in ("failed", "closed") and self.state is not SessionState.CLOSED:
            self._host.end(self.id, f"the peer connection is {state}", "connection")

    def on_channel(self, channel: RTCDataChannel) -> None:
        if channel.label == "report":
            self._channel = channel

    async def close(self, reason: str) -> None:
        """Ends the session: everything that `start` and the peer connection began, in reverse order."""
        if self.state is SessionState.CLOSED:
            return
        self.tell({"event": "closing", "reason": reason})
        self.state, self.reason = SessionState.CLOSED, reason
        await asyncio.sleep(0)  # the data channel sends when the loop turns
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.restored.stop()
        if self.sound is not None:
            self.sound.stop()
        if self.recording is not None:
            await asyncio.get_running_loop().run_in_executor(None, self.recording.stop)
        await asyncio.gather(self._hang_up(self.pc), *self._farewells)

    async def _hang_up(self, pc: PeerConnection) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await pc.close()
        except (TimeoutError, AttributeError, ConnectionError) as error:  # a half-negotiated peer cannot close
            logger.warning("a peer connection did not close: %r", error)

    def drain(self) -> None:
        """The server is about to end: says so, and takes in no more."""
        self.state = SessionState.DRAINING
        self.tell({"event": "closing", "reason": "the server is shutting down"})

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self.state is SessionState.CLOSED:
            return
        if error := task.exception():
            logger.error("session %s failed", public(self.id), exc_info=error)
            self._host.end(self.id, f"an internal error: {error!r}", "fault")

    async def _watch(self) -> None:
        """Ends a session whose deadlines have passed, and logs now and then what it lost."""
        lost = self._lost()
        for tick in count(1):
            await asyncio.sleep(0.25)
            if tick % LOG_TICKS == 0 and (now_lost := self._lost()) != lost:
                logger.info("lost so far: %s", now_lost)
                lost = now_lost
            opened = self._dialled if self._connected is None else self._opened
            reason = self._deadlines.expired(self._now(), opened, self._connected, self._last_frame)
            if reason is not None:
                return self._host.end(self.id, reason, "timeout")

    def _lost(self) -> dict[str, int]:
        figures = self.figures
        chunks = {"shed": figures.shed, "passed": figures.chunks["passthrough"], "failed": figures.failed}
        return {name: value for name, value in {**figures.dropped, **chunks}.items() if value}

    # --- in ---------------------------------------------------------------------------------------

    async def _drain(self, track: MediaStreamTrack) -> None:
        """Takes every frame as soon as it is there: aiortc queues decoded frames without bound."""
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                if track is self._track:
                    self._host.end(self.id, "the client ended its video", "client")
                return
            assert isinstance(frame, VideoFrame)
            self._take(frame, self._now())

    async def _drain_sound(self, track: MediaStreamTrack, sound: CarriedTrack) -> None:
        """Hands every packet on; a client may end its sound and keep its video."""
        while True:
            try:
                packet = await track.recv()
            except MediaStreamError:
                return
            assert isinstance(packet, av.Packet) and isinstance(packet.opaque, Reception)
            sound.put(packet, packet.opaque.at)
            if self.recording is not None:
                self.recording.offer_sound(bytes(packet), packet.opaque.at)

    def _take(self, picture: VideoFrame, now: float) -> None:
        """Gives the frame its slot, and the slots before it that stayed empty its predecessor."""
        if self.state is SessionState.CONNECTING:
            self.state = SessionState.STREAMING
        if self.state is not SessionState.STREAMING:
            return
        self._last_frame = now
        self.figures.frames_in += 1
        self.figures.arrivals.add(1.0, now)
        lost = self._rebase
        if isinstance(picture.opaque, Reception):
            now, lost = picture.opaque.at, lost or picture.opaque.lost
        timestamp = self._source_time(picture, now)
        sample = self._sampler.accept(timestamp, now)
        if sample.slot is None:
            self.figures.dropped["rate"] += 1
            return
        stands = sample.repeats > STANDING * self.config.fps
        for slot in range(sample.slot - sample.repeats, sample.slot):
            self._queue(Arrival(slot, timestamp, now, self._held or picture, lost=lost, stands=stands))
        self.figures.frames_lost += sample.repeats if lost else 0
        self.figures.frames_repeated += 0 if lost else sample.repeats
        self._queue(Arrival(sample.slot, timestamp, now, picture, sample.gap))
        self._held = picture

    def _source_time(self, picture: VideoFrame, now: float) -> float:
        """The frame's timestamp on the session's own line, on which a new connection goes on."""
        time = float(picture.time or 0.0)
        if self._rebase and self._last_source is not None:
            last, arrival = self._last_source
            self._shift = last + (now - arrival) - time
        self._rebase = False
        self._last_source = (time + self._shift, now)
        return time + self._shift

    def _queue(self, arrival: Arrival) -> None:
        if len(self._inbox) >= INBOX + round(self._settings.idle_pause * self.config.fps):
            self._inbox.popleft()
            self.figures.dropped["overrun"] += 1
            self._inbox[0].gap = True
        self._inbox.append(arrival)
        self._arrived.set()

    async def _feed(self) -> None:
        """Converts frames, in order, and fills chunks with them."""
        while True:
            while not self._inbox:
                self._arrived.clear()
                await self._arrived.wait()
            arrival = self._inbox.popleft()
            if self.spec is None:
                self._size(arrival.picture)
            if arrival.gap:
                self._interrupt()
            if self._chunker.pending == 0:
                self.config = self._next_config
            pixels = await self._convert(arrival.picture)
            if chunk := self._chunker.push((arrival, pixels)):
                self._submit(chunk)

    async def _convert(self, picture: VideoFrame) -> Pixels:
        height, width = self._measured()
        return await asyncio.get_running_loop().run_in_executor(None, self._reader, picture, height, width)

    def _measured(self) -> tuple[int, int]:
        """Height and width that a frame must have for the device."""
        assert self.spec is not None, "the size is known from the first frame on"
        if self.spec.mode == "simulate":
            return self.spec.height, self.spec.width
        return self.config.operator.measurement_size(self.spec.height, self.spec.width)

    def _size(self, picture: VideoFrame) -> None:
        """Fixes the size of the stream, from the configuration or from the first frame."""
        width, height = self.config.size or fit_size(self.config, picture.width, picture.height, self._settings)
        self.spec = StreamSpec(height, width, self.config.mode, self.config.panels, self.config.seed)
        self._host.sized(self)

    def _interrupt(self) -> None:
        """Frames are missing here: a chunk that spans them would be false to every temporal operator."""
        self.figures.dropped["gap"] += self._chunker.pending
        self._chunker = Chunker(index=self._chunker.index)
        self._gap = True

    def _submit(self, chunk: Chunk[tuple[Arrival, Pixels]]) -> None:
        assert self.spec is not None, "a chunk has frames, so the size is known"
        now = self._now()
        arrivals = [arrival for arrival, _ in chunk.frames]
        lost = tuple(index for index, arrival in enumerate(arrivals) if arrival.lost)
        frozen = len(lost) > MASKED * len(arrivals)
        gap, self._gap = self._gap, frozen
        work = Work(
            spec=self.spec,
            gap=gap,
            number=self.number,
            slots=tuple(arrival.slot for arrival in arrivals),
            timestamps=tuple(arrival.timestamp for arrival in arrivals),
            arrivals=tuple(arrival.at for arrival in arrivals),
            submitted=now,
            lost=lost,
            masked=() if frozen else lost,
            standing=tuple(arrival.slot for arrival in arrivals if arrival.stands and (frozen or not arrival.lost)),
        )
        job = Job(
            self.id,
            Chunk(chunk.index, [pixels for _, pixels in chunk.frames]),
            deadline=work.arrivals[-1] + self._settings.latency_budget,
            opening=chunk.index == 0,
            operator=self.config.operator,
            solver=self.config.solver,
            context=work,
        )
        self.number += 1
        shed = self._host.submit(self, job)
        if shed is None:
            return self.on_lost([job])
        for old in shed:
            self.figures.shed += 1
            self.on_passed(old)

    # --- what became of a chunk -------------------------------------------------------------------

    def choose_rung(self, job: Job, now: float, cost: Callable[[Rung], float]) -> Rung:
        """How good the chunk may be; from here on, a gap before it is known, and whether it has to be guided."""
        work: Work = job.context
        if job.opening:
            self.missed = self.ungrounded = False
            return self.ladder.choose(now, job.deadline, cost, lowest="x_init")
        if self.ladder.rung == "passthrough":
            return "passthrough"
        rung = self.ladder.choose(now, job.deadline, cost)
        if rung != "passthrough":
            work.gap, self.missed = work.gap or self.missed, False
        if self.ungrounded and rung in ON_CALENDAR:
            job.solver = job.solver.model_copy(update={"reinject_every": 1})
            self.ungrounded = False
        return rung

    def on_restored(self, job: Job, restoration: Restoration) -> None:
        self.suspect = False
        self.figures.chunks[restoration.rung] += 1
        self.figures.guided += restoration.stepped.guided
        self._put_out(job, restoration)

    def on_passed(self, job: Job) -> None:
        """The chunk will not be restored; its frames go back as they came."""
        self.missed = True
        self.figures.chunks["passthrough"] += 1
        self._put_out(job, None)

    def on_lost(self, jobs: list[Job]) -> None:
        """No device holds the stream any more: what waited passes, and the next chunk opens a new stream."""
        for job in jobs:
            self.on_passed(job)
        if self._chunker.index != 0:
            pending = self._chunker.pending
            self.figures.dropped["gap"] += pending
            self._chunker = Chunker()

    def _put_out(self, job: Job, restoration: Restoration | None) -> None:
        if self._outbox.full():
            old, _ = self._outbox.get_nowait()
            self.figures.dropped["late"] += len(old.context.slots)
        self._outbox.put_nowait((job, restoration))

    # --- out --------------------------------------------------------------------------------------

    async def _send_back(self) -> None:
        """Turns restored chunks into pictures, in order, and hands them to the outgoing track."""
        while True:
            job, restoration = await self._outbox.get()
            work: Work = job.context
            pictures = await self._pictures(job, restoration)
            if self.recording is not None:
                self.recording.offer(work.arrivals, job.chunk.frames, pictures)
            chunk = ReportedChunk(chunk_report(job, restoration, self.figures), work.arrivals[-1])
            frames = [
                (slot, Outgoing(picture, arrival, chunk))
                for slot, arrival, picture in zip(work.slots, work.arrivals, pictures, strict=True)
            ]
            self.restored.put(frames, work.standing)

    async def _pictures(self, job: Job, restoration: Restoration | None) -> list[VideoFrame]:
        loop, work = asyncio.get_running_loop(), job.context
        if restoration is not None:
            return await loop.run_in_executor(None, self._writer.write, list(restoration.pixels))
        spec: StreamSpec = work.spec
        return await loop.run_in_executor(
            None, self._writer.pass_through, job.chunk.frames, spec.height, spec.width, len(spec.panels)
        )

    def _on_left(self, frame: Outgoing, now: float) -> None:
        latency = now - frame.arrival
        self.figures.left(latency, now)
        if self.figures.frames_left == 1:
            self.figures.first_frame.add(now - self._opened)
        if self.sound is not None:
            self.sound.follow(latency)
        chunk: ReportedChunk = frame.chunk
        if not chunk.sent:
            chunk.sent = True
            chunk.report["latency_ms"] = round(1000 * latency, 1)
            chunk.report["ms"]["deliver"] = round(1000 * (now - chunk.last_arrival), 1)
            self.last_report = chunk.report
            self.tell(chunk.report)

    def _on_dropped(self, frame: Outgoing) -> None:
        self.figures.dropped["late"] += 1

    def tell(self, message: dict[str, Any]) -> None:
        """Sends one JSON object on the data channel, if the client opened one that keeps up."""
        channel = self._channel
        if channel is None or channel.readyState != "open":
            return
        if channel.bufferedAmount > CHANNEL_BYTES:
            self.figures.reports_dropped += 1
            return
        channel.send(json.dumps(message))

    # --- questions and changes --------------------------------------------------------------------

    def change(self, config: SessionConfig) -> int:
        """Takes another operator or solver, and returns the number of the first chunk it applies to."""
        self._next_config = config
        return self.number + (1 if self._chunker.pending else 0)

    @property
    def wanted(self) -> SessionConfig:
        """The configuration of the next chunk that has no frame yet."""
        return self._next_config

    def report(self) -> dict[str, Any]:
        now = self._now()
        playout = self.restored.playout
        return {
            "id": self.id,
            "state": self.state.value,
            "age": round(now - self._opened, 3),
            "mode": self.config.mode,
            "size": f"{self.spec.width}x{self.spec.height}" if self.spec else None,
            "fps": self.config.fps,
            "panels": list(self.config.panels),
            "rung": self.ladder.rung,
            "operator": self._next_config.operator.model_dump(mode="json"),
            "solver": self._next_config.solver.model_dump(mode="json"),
            **self.figures.as_dict(now),
            "playout": {
                "waiting": playout.waiting,
                "late": playout.late,
                "underruns": playout.underruns,
                "caught_up": playout.caught_up,
            },
            "chunk": self.last_report,
            "recording": self.recording.as_dict() if self.recording else None,
            "network": self.pc.counters(),
        }

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def counted(pc: PeerConnection) -> dict[str, int]:
    """What happened to the packets of a connection so far: those of its counters that only grow."""
    counters = pc.counters()
    return {name: counters[name] for name in WIRE if name in counters}


def chunk_report(job: Job, restoration: Restoration | None, figures: SessionFigures) -> dict[str, Any]:
    """What the data channel tells of one chunk; latency is added when its first frame leaves."""
    work: Work = job.context
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
        "operator": job.operator.kind,
        "dropped": sum(figures.dropped.values()),
        "shed": figures.shed,
    }
    if restoration is not None:
        stepped = restoration.stepped
        ms |= {"queue": 1000 * (restoration.started - work.submitted), **stepped.ms}
        report |= {"guided": stepped.guided, "rung": restoration.rung, "residual": round(stepped.residual, 5)}
        if stepped.psnr is not None and stepped.psnr_x_init is not None:
            report |= {"psnr": round(stepped.psnr, 2), "psnr_x_init": round(stepped.psnr_x_init, 2)}
    report["ms"] = {stage: round(value, 1) for stage, value in ms.items()}
    return report
