"""One session: frames of a track in, chunks to the device, restored frames and reports out. Knows no HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any, Protocol

import av
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av import VideoFrame

from core.contract import Pixels, Rung
from server.device.messages import StreamSpec
from server.device.work import RestoredChunk, Work
from server.logs import public
from server.media.audio import CarriedTrack
from server.media.pictures import PictureReader
from server.scheduling.scheduler import Job
from server.sessions.config import Deadlines, SessionConfig, SessionState, fit_size
from server.sessions.intake import FilledChunk, Intake
from server.sessions.outlet import Outlet, ReportChannel
from server.sessions.telemetry import EndCode, SessionFigures
from server.settings import Settings
from server.webrtc.config import Arrival

logger = logging.getLogger(__name__)

LOG_TICKS = 40
"""quarters of a second between log lines about what was dropped"""
WIRE = (
    "packets", "given_up", "recovered", "late", "nacks", "key_frame_requests", "frames_refused", "retransmitted",
    "foreign_packets", "malformed_packets", "flooded_packets",
)  # fmt: skip
"""counters of a connection that only grow"""
CLOSE_TIMEOUT = 10.0
"""seconds that closing a peer connection may take"""

Trace = Callable[[dict[str, Any]], None]
"""takes the report of a chunk, to trace it"""


class Connection(Protocol):
    """Where a session's video comes from: a client's peer connection, or a source that the server pulls."""

    @property
    def fault(self) -> str | None:
        """Why its pictures are refused, in one sentence; None when they are not."""
        ...

    def counters(self) -> dict[str, Any]:
        """What happened on the way so far, for the session's report."""
        ...

    async def close(self) -> None: ...


class Host(Protocol):
    """What a session asks of the server around it."""

    def queue(self, session: Session, job: Job[Work]) -> None:
        """Queues a chunk for the device. The session gets it back by `deliver`, `pass_through` or `start_over`."""
        ...

    def sized(self, session: Session) -> None:
        """The session has learnt its size."""
        ...

    def end(self, session_id: str, reason: str, code: EndCode) -> None:
        """Closes a session, soon."""
        ...


class Session:
    """A connection that owns one stream.

    A frame's way: `_drain` > `Intake.accept` > `_feed` > `Intake.fill` > `_send_off` > the host, and back:
    `deliver` or `pass_through` > `Outlet`. It has more than 25 methods because each event of a session's life is one.
    """

    def __init__(self, session_id: str, config: SessionConfig, settings: Settings, pc: Connection, host: Host):
        self.id = session_id
        self.config = config
        """what the chunk that is filling is restored with"""
        self.wanted = config
        """what the next chunk without a frame is restored with"""
        self.state = SessionState.CONNECTING
        self.reason: str | None = None
        """why it closed"""
        self.pc = pc
        self.rung: Rung = "full"
        """set by the host, see `show_rung`"""
        self.figures = SessionFigures()
        self.channel = ReportChannel(self.figures)
        self.outlet = Outlet(config.fps, settings.preroll, self.figures, self._report)
        self.trace: Trace | None = None
        """hears of each chunk's report when it is complete"""
        self.spec: StreamSpec | None = None
        """known from the first frame on"""
        self.number = 0
        """chunks so far"""
        self._settings = settings
        self._host = host
        self._intake = Intake(config.fps, settings.idle_pause, self.figures, config.chunks)
        self._arrived = asyncio.Event()
        self._reader = PictureReader()
        self._tasks: set[asyncio.Task[None]] = set()
        self._farewells: list[asyncio.Task[None]] = []
        """replaced connections, as they close: cancelled, they would keep their sockets"""
        self._deadlines = Deadlines.of(settings)
        self._opened = clock()
        self._dialled = self._opened
        """when the client's present connection was answered"""
        self._track: MediaStreamTrack | None = None
        self._connected: float | None = None
        self._last_frame: float | None = None
        """over the present connection"""
        self._seen = self._opened
        """the last frame over any connection, or when the session was opened"""

    # --- life -------------------------------------------------------------------------------------

    def start(self, track: MediaStreamTrack) -> None:
        """Begins to take in `track`, in place of the one before. Its peer connection may still be connecting."""
        began, self._track = self._track is not None, track
        self._spawn(self._drain(track))
        if began:
            self._intake.reconnect()
            return
        self._spawn(self.outlet.broadcast.run())
        self._spawn(self._feed())
        self._spawn(self.outlet.run())
        self._spawn(self._watch())

    def carry(self, track: MediaStreamTrack, sound: CarriedTrack) -> None:
        """Begins to carry the sound of `track` through to `sound`, which plays it as late as the picture."""
        self.outlet.sound = sound
        self._spawn(self._drain_sound(track, sound))

    @property
    def age(self) -> float:
        """Seconds since the session was opened."""
        return clock() - self._opened

    @property
    def silence(self) -> float:
        """Seconds since the last frame arrived, or since the session was opened."""
        return clock() - (self._last_frame or self._opened)

    def _report(self, report: dict[str, Any]) -> None:
        """A chunk's first frame left: its report is complete."""
        self.channel.send(report)
        if self.trace is not None:
            self.trace(report)

    def resume(self, pc: Connection) -> None:
        """Goes on over `pc`, whose track `start` has taken in, in place of a connection that was lost."""
        replaced, self.pc = self.pc, pc
        self._dialled, self._connected, self._last_frame = clock(), None, None
        self.channel.detach()
        self.figures.resumed += 1
        self.figures.wire.update(counted(replaced))
        self._farewells.append(asyncio.get_running_loop().create_task(hang_up(replaced)))

    def on_connection(self, pc: Connection, state: str) -> None:
        """A peer connection changed its state; one that was replaced is ignored."""
        if pc is not self.pc:
            return
        if state == "connected" and self._connected is None:
            self._connected = clock()
        elif state in ("failed", "closed") and self.state is not SessionState.CLOSED:
            self._host.end(self.id, f"the peer connection is {state}", "connection")

    async def close(self, reason: str) -> None:
        """Ends the session: everything that `start` and the peer connection began, in reverse order."""
        if self.state is SessionState.CLOSED:
            return
        self.channel.send({"event": "closing", "reason": reason})
        self.state, self.reason = SessionState.CLOSED, reason
        await asyncio.sleep(0)  # the data channel sends when the loop turns
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                logger.error("session %s failed as it closed", public(self.id), exc_info=result)
        await self.outlet.stop()
        await asyncio.gather(hang_up(self.pc), *self._farewells)

    def drain(self) -> None:
        """The server is about to end: says so, and takes in no more."""
        self.state = SessionState.DRAINING
        self.channel.send({"event": "closing", "reason": "the server is shutting down"})

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        """Forgets a finished task. One that failed ends the session; `close` logs the faults of those it cancels."""
        self._tasks.discard(task)
        if task.cancelled() or self.state is SessionState.CLOSED:
            return
        if error := task.exception():
            logger.error("session %s failed", public(self.id), exc_info=error)
            self._host.end(self.id, f"an internal error: {error!r}", "fault")

    async def _watch(self) -> None:
        """Ends a session whose deadlines have passed, and logs now and then what it dropped."""
        dropped = self.figures.setbacks()
        for tick in count(1):
            await asyncio.sleep(0.25)
            if tick % LOG_TICKS == 0 and (now_dropped := self.figures.setbacks()) != dropped:
                logger.info("dropped so far: %s", now_dropped)
                dropped = now_dropped
            reason = self._deadlines.expired(
                clock(), self._opened, self._dialled, self._connected, self._seen, self._last_frame
            )
            if reason is not None:
                fault = self.pc.fault
                return self._host.end(self.id, f"{reason}: {fault}" if fault else reason, "timeout")

    # --- in ---------------------------------------------------------------------------------------

    async def _drain(self, track: MediaStreamTrack) -> None:
        """Takes every frame as soon as it is there: aiortc queues decoded frames without bound."""
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                if track is self._track:
                    self._host.end(self.id, self.pc.fault or "the client ended its video", "client")
                return
            assert isinstance(frame, VideoFrame)
            self._take(frame, clock())

    async def _drain_sound(self, track: MediaStreamTrack, sound: CarriedTrack) -> None:
        """Hands every packet on; a client may end its sound and keep its video."""
        while True:
            try:
                packet = await track.recv()
            except MediaStreamError:
                return
            assert isinstance(packet, av.Packet) and isinstance(packet.opaque, Arrival)
            sound.put(packet, packet.opaque.at)
            self.outlet.offer_sound(bytes(packet), packet.opaque.at)

    def _take(self, picture: VideoFrame, now: float) -> None:
        """Hands a frame to the intake, unless the session is about to end."""
        if self.state is SessionState.CONNECTING:
            self.state = SessionState.STREAMING
        if self.state is not SessionState.STREAMING:
            return
        self._last_frame = self._seen = now
        self.figures.frames_in += 1
        self.figures.arrivals.add(1.0, now)
        if isinstance(picture.opaque, Arrival):
            self._intake.accept(picture, picture.opaque.at, picture.opaque.lost)
        else:
            self._intake.accept(picture, now)
        self._arrived.set()

    async def _feed(self) -> None:
        """Converts frames, in order, and sends off the chunks that they fill."""
        while True:
            while (frame := self._intake.next()) is None:
                self._arrived.clear()
                await self._arrived.wait()
            if self.spec is None:
                self._fix_size(frame.picture)
            if self._intake.pending == 0:
                self.config = self.wanted
            pixels = await self._convert(frame.picture)
            if filled := self._intake.fill(frame, pixels):
                self._send_off(filled)

    async def _convert(self, picture: VideoFrame) -> Pixels:
        """The picture at the size that a frame must have for the device."""
        assert self.spec is not None, "the size is known from the first frame on"
        height, width = self.spec.height, self.spec.width
        if self.spec.mode == "incoming":
            height, width = self.config.operator.measurement_size(height, width)
        return await asyncio.get_running_loop().run_in_executor(None, self._reader, picture, height, width)

    def _fix_size(self, picture: VideoFrame) -> None:
        """Fixes the size of the stream, from the configuration or from the first frame."""
        width, height = self.config.size or fit_size(self.config, picture.width, picture.height, self._settings)
        config = self.config
        self.spec = StreamSpec(height, width, config.mode, config.panels, config.seed, config.latency)
        self._host.sized(self)

    def _send_off(self, filled: FilledChunk) -> None:
        assert self.spec is not None, "a chunk has frames, so the size is known"
        work = Work(
            spec=self.spec,
            operator=self.config.operator,
            solver=self.config.solver,
            gap=filled.gap,
            number=self.number,
            slots=filled.slots,
            timestamps=filled.timestamps,
            arrivals=filled.arrivals,
            submitted=clock(),
            lost=filled.lost,
            masked=filled.masked,
            standing=filled.standing,
        )
        self.number += 1
        deadline = work.arrivals[-1] + self.config.budget(self._settings)
        self._host.queue(self, Job(self.id, filled.chunk, deadline, work, opening=filled.chunk.index == 0))

    # --- what became of a chunk -------------------------------------------------------------------

    def deliver(self, job: Job[Work], restored: RestoredChunk) -> None:
        """The device restored the chunk."""
        self.figures.chunks[restored.plan.rung] += 1
        self.figures.guided += restored.stepped.guided
        self.outlet.play(job, restored)

    def pass_through(self, job: Job[Work]) -> None:
        """The chunk will not be restored; its frames go back as they arrived."""
        self.figures.chunks["passthrough"] += 1
        self.outlet.play(job, None)

    def start_over(self, jobs: list[Job[Work]]) -> None:
        """No device holds the stream any more: `jobs` pass through, and the next chunk opens a new stream."""
        for job in jobs:
            self.pass_through(job)
        self._intake.open_stream()

    def show_rung(self, rung: Rung) -> None:
        """The session's rung is another one from now on."""
        self.rung = rung
        self.channel.send({"event": "rung", "rung": rung})

    # --- questions and changes --------------------------------------------------------------------

    def change(self, config: SessionConfig) -> int:
        """Takes another operator or solver, and returns the number of the first chunk it applies to."""
        self.wanted = config
        return self.number + (1 if self._intake.pending else 0)

    def report(self) -> dict[str, Any]:
        """What GET /sessions/ID says."""
        now = clock()
        return {
            "id": self.id,
            "state": self.state.value,
            "age": round(self.age, 3),
            "mode": self.config.mode,
            "size": f"{self.spec.width}x{self.spec.height}" if self.spec else None,
            "fps": self.config.fps,
            "latency": self.config.latency,
            "panels": list(self.config.panels),
            "rung": self.rung,
            "operator": self.wanted.operator.model_dump(mode="json"),
            "solver": self.wanted.solver.model_dump(mode="json"),
            **self.figures.as_dict(now),
            **self.outlet.as_dict(),
            "network": self.pc.counters(),
        }


async def hang_up(pc: Connection) -> None:
    """Closes a connection, within CLOSE_TIMEOUT."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await pc.close()
    except (TimeoutError, AttributeError, ConnectionError) as error:  # a half-negotiated peer cannot close
        logger.warning("a peer connection did not close: %r", error)


def counted(pc: Connection) -> dict[str, int]:
    """What happened to the packets of a connection so far: those of its counters that only grow."""
    counters = pc.counters()
    return {name: counters[name] for name in WIRE if name in counters}


def clock() -> float:
    """The server's clock, in seconds."""
    return asyncio.get_running_loop().time()
