"""All sessions of one server and the device they share. Knows no HTTP."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiortc import MediaStreamTrack, RTCDataChannel
from pydantic import ValidationError

from core.chunks import CHUNK_FRAMES
from core.contract import Rung, SolverConfig
from core.errors import UsageError, explain
from core.operators.config import OperatorConfig
from server.device.messages import DeviceOptions, Ready
from server.device.worker import Restoration, Worker, WorkerConfig, WorkerState
from server.logs import SESSION, public
from server.media.audio import CarriedTrack
from server.media.recording import Recording
from server.scheduling.admission import ON_CALENDAR, Admission, AdmissionConfig, Refuse, Workload
from server.scheduling.scheduler import Job, Scheduler, is_due
from server.sessions.config import SessionConfig
from server.sessions.negotiation import negotiate, rtc_config
from server.sessions.refusals import Asks, Place, Refusal
from server.sessions.session import Session
from server.sessions.telemetry import LIVES, RATIOS, EndCode, Histogram, SessionFigures
from server.sessions.waiting import WaitingList
from server.settings import Settings, show_size
from server.webrtc.offer import Offer
from server.webrtc.peer import PeerConnection

logger = logging.getLogger(__name__)

SIZE = (416, 240)
"""(width, height) that a session is taken for where nothing was warmed up"""


@dataclass(frozen=True)
class Opened:
    """A session that was opened, and the answer that its client must get."""

    session: Session
    answer: str


class Sessions:
    """Opens, finds and ends sessions; hears from the worker what became of their chunks."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.scheduler = Scheduler(backlog=settings.backlog)
        self.admission = Admission(AdmissionConfig(max_sessions=settings.max_sessions))
        self.worker = Worker(worker_config(settings), self.scheduler, self)
        self.line = WaitingList(self.new_id, settings.queue_most, settings.queue_each, settings.queue_patience)
        self.closing = False
        self.draining = False
        """it takes no new session: those that are open move to another node"""
        self.opened_total = 0
        self.refused_total = 0
        """for want of a place"""
        self.refusals: Counter[str] = Counter()
        """requests to open something that were refused, by the code of their error"""
        self.closed: Counter[EndCode] = Counter()
        """sessions that ended, by why"""
        self.lives = Histogram(LIVES)
        """seconds that sessions lived which ended"""
        self.stages: dict[str, Histogram] = {}
        """seconds of each stage of the chunks that were restored"""
        self.residuals = Histogram(RATIOS)
        """of the chunks that were restored"""
        self.late = 0
        """chunks that were restored after their deadline"""
        self._past = SessionFigures()
        """what sessions counted that have ended"""
        self._open: dict[str, Session] = {}
        self._workloads: dict[str, Workload] = {}
        self._phases: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def new_id(self) -> str:
        """A new secret id; that of a node in a cluster begins with the node's name: NODE.TOKEN."""
        token, node = secrets.token_urlsafe(12), self.settings.node
        return f"{node}.{token}" if node else token

    # --- the life of a session --------------------------------------------------------------------

    async def open(self, offer: Offer, config: SessionConfig, returns: bool = True, asks: Asks | None = None) -> Opened:
        """Answers an offer with a new session. Raises Refusal, or OfferRefused from the WebRTC stack.

        `returns`: the restored video goes back to the same client; else others play `session.restored`.
        """
        self._check(config)
        session_id = self.new_id()
        SESSION.set(public(session_id))
        self._reserve(session_id, config, asks or Asks())
        try:
            await self._check_operator(config.operator, config.size)
            session = self._new_session(session_id, config)
            try:
                answer = await self._answer(session, session.pc, offer, returns)
            except BaseException:
                await session.close("the offer could not be answered")
                raise
            self._record(session, offer)
            return Opened(session, answer)
        except BaseException:
            self._release(session_id)
            raise

    @property
    def solver(self) -> SolverConfig:
        """A session's solver settings where it says nothing."""
        loaded = self.worker.loaded
        return loaded.solver if loaded else SolverConfig.model_validate(self.settings.solver)

    def _record(self, session: Session, offer: Offer) -> None:
        """Begins to keep the session, when its client asked for that."""
        directory, config = self.settings.recordings, session.config
        if config.record != "nothing" and directory is not None:
            sound = offer.section("audio")
            codec = sound.codecs[0].name if sound and sound.direction != "inactive" else None
            session.recording = Recording(directory, config.record, config.fps, codec)

    def get(self, session_id: str) -> Session:
        session = self._open.get(session_id)
        if session is None:
            raise Refusal(404, "no_session", f"no session {session_id[:40]!r} is open")
        return session

    async def change(self, session_id: str, config: SessionConfig) -> int:
        """Changes a session's operator or solver; the number of the first chunk with it."""
        session = self.get(session_id)
        size = (session.spec.width, session.spec.height) if session.spec else config.size
        await self._check_operator(config.operator, size)
        session = self.get(session_id)
        self._account(session_id, config, size)
        return session.change(config)

    def end(self, session_id: str, reason: str, code: EndCode = "fault") -> None:
        """Closes a session, soon. One that is not open is no error."""
        session = self._open.get(session_id)
        if session is not None:
            self._release(session_id)
            self.closed[code] += 1
            self.lives.add(session.age)
            log_end(session, reason, code)
            self._spawn(session.close(reason))

    async def run(self) -> None:
        """Drives the device until cancelled."""
        await self.worker.run()

    async def close(self) -> None:
        """Tells all sessions that the server ends, and closes them, within the drain timeout."""
        self.closing = True
        for session in self._open.values():
            session.drain()
        for session_id in list(self._open):
            self.end(session_id, "the server is shutting down", "shutdown")
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=self.settings.drain_timeout)
            for task in late:
                task.cancel()

    def totals(self) -> SessionFigures:
        """What all sessions counted together, those that ended too."""
        totals = SessionFigures()
        for figures in (self._past, *(session.figures for session in self._open.values())):
            totals.absorb(figures)
        for session in self._open.values():
            totals.wire.update(session.wire())
        return totals

    @property
    def reserved(self) -> int:
        """Sessions that have a place: those that are open, and those that are being opened."""
        return len(self._workloads)

    def free(self, now: float) -> int:
        """How many more sessions of the usual size would be let in now."""
        if self.closing or self.draining or self.worker.state != "ready":
            return 0
        if self.settings.admission == "places":
            return max(0, self.settings.max_sessions - len(self._workloads))
        workload = self._workload(SessionConfig(fps=self.settings.fps, solver=self.solver), None)
        return self.admission.fitting(workload, now, self._bytes(workload))

    def check_integrity(self) -> None:
        """Raises AssertionError when one part still holds a session that another has let go, or the reverse."""
        self.scheduler.check_integrity()
        reserved = set(self._workloads)
        assert set(self._open) <= reserved, "a session is open that has no place"
        assert self.admission.ids == reserved, f"admission counts {self.admission.ids}, the places are {reserved}"
        assert self.scheduler.ids == reserved, f"the scheduler serves {self.scheduler.ids}, the places are {reserved}"
        assert set(self._phases) == reserved, "a session has a phase and no place"

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._open.values())

    def _check(self, config: SessionConfig) -> None:
        """Refuses what no session of this server may be."""
        s = self.settings
        if config.fps > s.max_fps:
            raise Refusal(422, "bad_setting", f"fps may be {s.max_fps:g} at most here, not {config.fps:g}")
        if config.record != "nothing" and s.recordings is None:
            raise Refusal(422, "no_recording", "this server keeps no recordings: its setting recordings is unset")
        if config.size is None:
            return
        width, height = config.size
        if width % 16 or height % 16 or min(width, height) < s.min_side or width * height > s.max_pixels:
            raise Refusal(
                422,
                "bad_size",
                f"a size is a multiple of 16 each way, {s.min_side} at least and {s.max_pixels} pixels in all at "
                f"most, not {show_size(config.size)}",
            )

    def _reserve(self, session_id: str, config: SessionConfig, asks: Asks) -> None:
        """Takes a place, or refuses: before anything is awaited, so that no two take the same one."""
        if self.closing:
            raise Refusal(503, "shutting_down", "the server is shutting down", retry_after=5)
        if self.draining:
            raise Refusal(503, "draining", "this node takes no new sessions: it is draining", retry_after=2)
        if self.worker.state == "failed":
            raise Refusal(503, "no_device", f"no device restores: {self.worker.reason}", retry_after=60)
        if self.worker.state != "ready":
            raise Refusal(503, "warming", f"the model is not ready: {self.worker.state}", retry_after=2)
        workload = self._workload(config, config.size)
        now = asyncio.get_running_loop().time()
        refusal = self._refuse(workload, now, asks.ticket)
        if refusal is not None:
            self.refused_total += 1
            raise self._turn_away(refusal, now, asks)
        self.line.leave(asks.ticket)
        self.admission.open(session_id, workload, now, self._bytes(workload))
        self._workloads[session_id] = workload
        self._queue(session_id)

    def _refuse(self, workload: Workload, now: float, ticket: str | None) -> Refuse | None:
        """Why one more session may not open, if so. A free place is for the first in line."""
        if (before := self.line.position(ticket, now) - 1) > 0:
            return Refuse(f"{before} in line come first", self.settings.queue_patience / 5)
        if self.settings.admission == "places" and len(self._workloads) < self.settings.max_sessions:
            return None
        decision = self.admission.decide(workload, now, self._bytes(workload))
        return decision if isinstance(decision, Refuse) else None

    def _turn_away(self, refusal: Refuse, now: float, asks: Asks) -> Refusal:
        """What a client is told that finds no place: when to ask again, and where it stands when it waits."""
        message = f"the server is full: {refusal.reason}"
        waits = asks.queue or asks.ticket is not None
        held = self.line.wait(asks.ticket, now, asks.address) if waits else None
        if held is None:
            return Refusal(503, "full", message, refusal.retry_after)
        return Refusal(503, "full", message, self.settings.queue_patience / 5, Place(*held))

    def _release(self, session_id: str) -> None:
        """Undoes what `_reserve` and `_new_session` did."""
        if (session := self._open.pop(session_id, None)) is not None:
            self._past.absorb(session.figures)
            self._past.wire.update(session.wire())
        self._workloads.pop(session_id, None)
        self._phases.pop(session_id, None)
        self.scheduler.remove(session_id)
        self.admission.close(session_id, asyncio.get_running_loop().time())
        self.worker.close(session_id)

    def _new_session(self, session_id: str, config: SessionConfig) -> Session:
        pc = PeerConnection(rtc_config(self.settings, config.fps))
        session = Session(session_id, config, self.settings, pc, self)
        self._open[session_id] = session
        self.opened_total += 1
        return session

    @staticmethod
    def _connect(session: Session, pc: PeerConnection, returns: bool) -> list[Callable[[], None]]:
        """Has the session hear of what its peer connection gets, and answer with what it restores.

        What is returned begins to take in the tracks of the offer, once that is answered.
        """
        begin: list[Callable[[], None]] = []

        @pc.on("track")
        def on_track(track: MediaStreamTrack) -> None:
            sound = CarriedTrack() if track.kind == "audio" else None
            begin.append(partial(session.carry, track, sound) if sound else partial(session.start, track))
            if returns:
                pc.addTrack(sound or session.output.join())

        @pc.on("datachannel")
        def on_datachannel(channel: RTCDataChannel) -> None:
            session.on_channel(channel)

        @pc.on("connectionstatechange")
        def on_connectionstatechange() -> None:
            session.on_connection(pc, pc.connectionState)

        return begin

    async def resume(self, session_id: str, offer: Offer) -> Opened:
        """Answers an offer of a client that lost its connection: the session, its stream and its cache go on."""
        session = self.get(session_id)
        pc = PeerConnection(rtc_config(self.settings, session.config.fps))
        try:
            answer = await self._answer(session, pc, offer, returns=True)
        except BaseException:
            await pc.close()
            raise
        session.resume(pc)
        return Opened(session, answer)

    async def _answer(self, session: Session, pc: PeerConnection, offer: Offer, returns: bool) -> str:
        """Answers an offer of a session's client. An offer that fails leaves the session as it was."""
        begin = self._connect(session, pc, returns)
        answer = await negotiate(pc, offer, self.settings)
        self.get(session.id)  # it may have ended meanwhile
        for take_in in begin:
            take_in()
        return answer

    @staticmethod
    async def _check_operator(operator: OperatorConfig, size: tuple[int, int] | None) -> None:
        """Refuses a size that does not fit the operator, when it is known. Decoding a drawn mask takes a moment."""
        if size is None:
            return
        try:
            await asyncio.get_running_loop().run_in_executor(None, operator.check_size, size[1], size[0])
        except ValueError as error:
            raise Refusal(422, "bad_operator", str(error)) from error

    # --- accounts ---------------------------------------------------------------------------------

    def _workload(self, config: SessionConfig, size: tuple[int, int] | None) -> Workload:
        width, height = size or self._usual_size
        return Workload(
            model=self.settings.model,
            width=width,
            height=height,
            num_steps=config.solver.num_steps,
            reinject_every=config.solver.reinject_every,
            fps=config.fps,
            frames=CHUNK_FRAMES,
            budget=self.settings.latency_budget,
        )

    @property
    def _usual_size(self) -> tuple[int, int]:
        """(width, height) that a session is taken for until its first frame comes: the first one warmed up."""
        measured = self.worker.ready.chunk_seconds if self.worker.ready else {}
        return next(iter(measured), SIZE)

    def _bytes(self, workload: Workload) -> int:
        """Device memory that a session takes: that of the nearest size that was measured, by pixels."""
        measured = self.worker.ready.session_bytes if self.worker.ready else {}
        pixels = workload.width * workload.height
        by_distance = [(abs(w * h - pixels), held * pixels // (w * h)) for (w, h), held in measured.items()]
        return min(by_distance)[1] if by_distance else 0

    def _account(self, session_id: str, config: SessionConfig, size: tuple[int, int] | None) -> None:
        workload = self._workload(config, size)
        self._workloads[session_id] = workload
        self.admission.change(session_id, workload)

    def _queue(self, session_id: str) -> None:
        workload = self._workloads[session_id]
        now = asyncio.get_running_loop().time()
        self._phases[session_id] = self.scheduler.add(session_id, workload.period, workload.reinject_every, now)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- what sessions ask (server.sessions.session.Host) --------------------------------------------------

    def submit(self, session: Session, job: Job) -> list[Job] | None:
        """Queues a job, unless the session is over or no device serves."""
        if self.worker.state != "ready" or session.id not in self._open:
            return None
        steps = job.solver.num_steps or self.solver.num_steps
        job.solver = job.solver.model_copy(update={"num_steps": steps, "reinject_phase": self._phases[session.id]})
        return self.worker.submit(job)

    def sized(self, session: Session) -> None:
        if session.id in self._open and session.spec is not None:
            self._account(session.id, session.config, (session.spec.width, session.spec.height))

    # --- what the worker tells (server.device.worker.Listener) --------------------------------------

    def choose_rung(self, job: Job, now: float) -> Rung:
        session = self._open.get(job.session_id)
        if session is None:
            return "passthrough"
        workload = self._workloads[job.session_id]
        due = is_due(job.chunk.index, job.solver.reinject_every, self._phases[session.id])
        grounds = job.opening or job.context.gap or session.missed or session.ungrounded

        def cost(rung: Rung) -> float:
            return self.admission.cost(now, workload, rung, grounds or (due and rung in ON_CALENDAR))

        session.ladder.adapt(job.solver.num_steps)
        job.deadline = self.admission.tightened(session.id, job.deadline, now)
        return session.choose_rung(job, now, cost)

    def on_restored(self, job: Job, restoration: Restoration) -> None:
        session = self._open.get(job.session_id)
        if session is None:
            return
        seconds = restoration.stepped.ms["total"] / 1000
        self._time(job, restoration)
        workload, guided = self._workloads[session.id], restoration.stepped.guided
        if not (job.opening and restoration.rung == "x_init"):  # that one fills the codec's memories as well
            self.admission.measure(restoration.finished, workload, seconds, restoration.rung, guided)
        self._climb(session, restoration.finished, restoration.finished - job.deadline)
        session.on_restored(job, restoration)

    def _time(self, job: Job, restoration: Restoration) -> None:
        """Counts what each stage of the chunk took, its waiting too, how well it was done and whether in time."""
        self.residuals.add(restoration.stepped.residual)
        self.late += restoration.finished > job.deadline
        waited = restoration.started - job.context.submitted
        stages = {"queue": waited, **{stage: ms / 1000 for stage, ms in restoration.stepped.ms.items()}}
        for stage, seconds in stages.items():
            self.stages.setdefault(stage, Histogram()).add(seconds)

    def on_passed(self, job: Job) -> None:
        session = self._open.get(job.session_id)
        if session is not None:
            now = asyncio.get_running_loop().time()
            self._climb(session, now, -self.settings.latency_budget)
            session.on_passed(job)

    def on_refused(self, job: Job, reason: str) -> None:
        session = self._open.get(job.session_id)
        if session is not None:
            session.figures.failed += 1
            self.end(job.session_id, f"its chunk {job.context.number} failed: {reason}", "chunk_failed")

    def on_lost(self, job: Job | None) -> None:
        for session in list(self._open.values()):
            waiting = self.scheduler.remove(session.id)
            self._queue(session.id)
            session.figures.device_losses += 1
            if job is not None and job.session_id == session.id:
                waiting = [job, *waiting]
                self._suspect(session)
            session.on_lost(waiting)

    def on_state(self, state: WorkerState) -> None:
        if state == "ready" and self.worker.ready is not None:
            memory = {"memory_bytes": self.worker.ready.memory_bytes}
            self.admission.config = self.admission.config.model_copy(update=memory)
            self._calibrate(self.worker.ready)
        for session in self._open.values():
            session.tell({"event": "device", "state": state})

    def _calibrate(self, ready: Ready) -> None:
        """Tells the admission what warm-up measured."""
        for size, seconds in ready.chunk_seconds.items():
            width, height = size
            name, num_steps = self.settings.model, self.solver.num_steps
            workload = Workload(model=name, width=width, height=height, num_steps=num_steps)
            self.admission.calibrate(workload, seconds)
            if size in ready.x_init_seconds:
                self.admission.calibrate(workload, ready.x_init_seconds[size], "x_init")

    def _climb(self, session: Session, now: float, lateness: float) -> None:
        """Tells a session's ladder how its chunk went, and the client when its rung changes."""
        before = session.ladder.rung
        room = self.admission.room(session.id, session.ladder.next_up, now)
        rung = session.ladder.observe(now, lateness, room, self.admission.fits(session.id, now))
        self.admission.set_rung(session.id, rung)
        if rung != before:
            session.tell({"event": "rung", "rung": rung})

    def _suspect(self, session: Session) -> None:
        """A session whose chunk was on the device when it died gets a second chance, and no third."""
        if session.suspect:
            self.end(session.id, "the device was lost twice in a row on its chunks", "device_lost")
        session.suspect = True


def log_end(session: Session, reason: str, code: EndCode) -> None:
    """One line that sums a session up."""
    summary = session.figures.summary(asyncio.get_running_loop().time())
    shown = {name: value for name, value in {"seconds": round(session.age, 1), **summary}.items() if value is not None}
    words = ", ".join(f"{name} {value}" for name, value in shown.items())
    fields = {"event": "session_end", "code": code, "reason": reason, **shown}
    logger.info("the session ends: %s; %s", reason, words, extra={"session": public(session.id), "fields": fields})


def check_solver(values: dict[str, Any]) -> dict[str, Any]:
    """The settings of a solver that the server's own settings name. Raises UsageError for what is none."""
    try:
        return SolverConfig.model_validate(values).model_dump(include=set(values))
    except ValidationError as error:
        raise UsageError(f"setting solver.{explain(error)}") from error


def worker_config(settings: Settings) -> WorkerConfig:
    options = DeviceOptions(
        model=settings.model,
        device=settings.device,
        weights=settings.weights,
        codec=settings.codec,
        model_settings=settings.model_settings,
        threads=settings.threads,
        warm_sizes=settings.warm_sizes,
        solver=check_solver(settings.solver),
        log_level=settings.log_level,
        log_format=settings.log_format,
    )
    return WorkerConfig(
        options,
        load_timeout=settings.load_timeout,
        step_timeout=settings.step_timeout,
        max_restarts=settings.max_restarts,
    )
