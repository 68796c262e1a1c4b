"""All sessions of one server: opens, finds, changes and ends them. Knows no HTTP."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiortc import MediaStreamTrack, RTCDataChannel

from core.contract import SolverConfig
from server import descriptors
from server.device.worker import Worker
from server.logs import SESSION, public
from server.media.audio import CarriedTrack
from server.media.recording import Recording
from server.quotas import Quotas
from server.refusals import Asks, Place, Refusal
from server.scheduling.admission import Refuse
from server.sessions.certificates import certifier
from server.sessions.checks import OperatorChecks, check
from server.sessions.config import SessionConfig
from server.sessions.devices import Devices
from server.sessions.dispatch import Dispatch
from server.sessions.negotiation import negotiate, rtc_config
from server.sessions.pace import CHANGE_RATE, RESUME_RATE, Pace
from server.sessions.session import Connection, Session, counted
from server.sessions.telemetry import LIVES, EndCode, Histogram, SessionFigures
from server.sessions.traces import tracer_of
from server.sessions.waiting import WaitingList
from server.settings import Settings
from server.values import show_size
from server.webrtc.offer import Offer
from server.webrtc.peer import PeerConnection

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Opened:
    """A session that was opened, and the answer that its client must get."""

    session: Session
    answer: str


class Sessions:
    """Opens, finds and ends sessions. More than 25 methods: each thing that a handler may ask for is one."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.devices = Devices(settings, self.end)
        self.line: WaitingList[SessionConfig] = WaitingList(
            self.new_id, settings.queue_most, settings.queue_each, settings.queue_patience
        )
        self.quotas = Quotas()
        self.checks = OperatorChecks()
        self._paces: dict[str, Pace] = {}
        self.closing = False
        self.draining = False
        """it takes no new session: those that are open move to another node"""
        self.opened_total = 0
        self.refused_total = 0
        """because there was no place"""
        self.refusals: Counter[str] = Counter()
        """requests to open something that were refused, by the code of their error"""
        self.closed: Counter[EndCode] = Counter()
        """sessions that ended, by why"""
        self.lives = Histogram(LIVES)
        """seconds that sessions lived which ended"""
        self.tracer = tracer_of(settings)
        self._past = SessionFigures()
        """what sessions counted that have ended"""
        self._open: dict[str, Session] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def new_id(self) -> str:
        """A new secret id; that of a node in a cluster begins with the node's name: NODE.TOKEN."""
        token, node = secrets.token_urlsafe(12), self.settings.node
        return f"{node}.{token}" if node else token

    @property
    def dispatch(self) -> Dispatch:
        """The first device's."""
        return self.devices.all[0]

    @property
    def worker(self) -> Worker:
        """The task that owns the first device."""
        return self.dispatch.worker

    @property
    def solver(self) -> SolverConfig:
        """A session's solver settings where it says nothing."""
        return self.devices.solver

    # --- the life of a session --------------------------------------------------------------------

    async def open(self, offer: Offer, config: SessionConfig, returns: bool = True, asks: Asks | None = None) -> Opened:
        """Answers an offer with a new session. Raises Refusal.

        `returns`: the restored video goes back to the same client; else others play `session.outlet.broadcast`.
        """
        session_id = await self._admit(config, asks or Asks())
        try:
            pc = PeerConnection(rtc_config(self.settings, config.fps))
            session = self._new_session(session_id, config, pc, asks.pixels if asks else None)
            try:
                answer = await self._answer(session, pc, offer, returns)
            except BaseException:
                await session.close("the offer could not be answered")
                raise
            sound = offer.section("audio")
            self._record(session, sound.codecs[0].name if sound and sound.direction != "inactive" else None)
            return Opened(session, answer)
        except BaseException:
            self._release(session_id)
            raise

    async def take_in(self, connection: Connection, track: MediaStreamTrack, config: SessionConfig) -> Session:
        """A new session for video that the server fetches itself: others play it. Raises Refusal."""
        session_id = await self._admit(config, Asks())
        session = self._new_session(session_id, config, connection, None)
        self._record(session, None)
        session.start(track)
        session.on_connection(connection, "connected")
        return session

    async def resume(self, session_id: str, offer: Offer, asks: Asks | None = None) -> Opened:
        """Answers an offer of a client that lost its connection: the session, its stream and its cache go on.

        An attempt that comes while another is under way takes its place. Raises Refusal.
        """
        session, pace = self.get(session_id), self._pace(session_id)
        self.check_rate(asks or Asks())
        if (wait := pace.resumes.take(session.age)) > 0:
            raise Refusal(429, "too_many_offers", f"a session may be resumed {RESUME_RATE:g} times a second", wait)
        if pace.dial is not None:
            pace.dial.cancel()
        pace.dial = dial = asyncio.get_running_loop().create_task(self._dial(session, offer))
        try:
            return Opened(session, await dial)
        except asyncio.CancelledError:
            if pace.dial is dial:
                raise  # it is the client who has gone
            raise Refusal(
                409, "replaced", "a later attempt to resume this session took the place of this one"
            ) from None
        finally:
            if pace.dial is dial:
                dial.cancel()
                pace.dial = None

    async def _dial(self, session: Session, offer: Offer) -> str:
        """Puts a new connection in the place of a session's present one, and returns the answer for its client."""
        pc = PeerConnection(rtc_config(self.settings, session.config.fps))
        try:
            answer = await self._answer(session, pc, offer, returns=True)
        except BaseException:
            await pc.close()
            raise
        session.resume(pc)
        self.devices.reconnect(session.id)
        return answer

    def _pace(self, session_id: str) -> Pace:
        return self._paces.setdefault(session_id, Pace())

    def get(self, session_id: str) -> Session:
        session = self._open.get(session_id)
        if session is None:
            raise Refusal(404, "no_session", f"no session {session_id[:40]!r} is open")
        return session

    async def change(self, session_id: str, config: SessionConfig) -> int:
        """Changes a session's operator or solver; returns the number of the first chunk with it."""
        session, pace = self.get(session_id), self._pace(session_id)
        if pace.changing:
            raise Refusal(429, "too_many_changes", "a change of this session is under way", 0.5)
        if (wait := pace.changes.take(session.age)) > 0:
            raise Refusal(429, "too_many_changes", f"a session may change {CHANGE_RATE:g} times a second", wait)
        size = (session.spec.width, session.spec.height) if session.spec else config.size
        pace.changing = True
        try:
            await self.checks.check(config.operator, size)
        finally:
            pace.changing = False
        session = self.get(session_id)
        self.devices.update(session_id, config, size)
        return session.change(config)

    def end(self, session_id: str, reason: str, code: EndCode = "fault") -> None:
        """Closes a session, soon. One that is not open is not an error."""
        session = self._open.get(session_id)
        if session is not None:
            self._release(session_id)
            self.closed[code] += 1
            self.lives.add(session.age)
            log_end(session, reason, code)
            self._spawn(session.close(reason))

    async def run(self) -> None:
        """Drives the devices until cancelled."""
        await self.devices.run()

    async def close(self) -> None:
        """Tells all sessions that the server ends, and closes them, within the drain timeout."""
        self.closing = True
        for session in self._open.values():
            session.drain()
        for session_id in list(self._open):
            self.end(session_id, "the server is shutting down", "shutdown")
        self.checks.close()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=self.settings.drain_timeout)
            for task in late:
                task.cancel()
        if self.tracer is not None:
            await asyncio.get_running_loop().run_in_executor(None, self.tracer.close)

    # --- figures ----------------------------------------------------------------------------------

    def totals(self) -> SessionFigures:
        """What all sessions counted together, those that ended too."""
        totals = SessionFigures()
        for figures in (self._past, *(session.figures for session in self._open.values())):
            totals.absorb(figures)
        for session in self._open.values():
            totals.wire.update(counted(session.pc))
        return totals

    def free(self, now: float) -> int:
        """How many more sessions of the usual size would be let in now."""
        return 0 if self.closing or self.draining else self.devices.free(now)

    def check_integrity(self) -> None:
        """Raises AssertionError when one part still holds a session that another has let go, or the reverse."""
        self.devices.check_integrity(set(self._open))

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._open.values())

    # --- opening ----------------------------------------------------------------------------------

    async def _admit(self, config: SessionConfig, asks: Asks) -> str:
        """Takes a place for a new session, and returns its id. Raises Refusal."""
        check(config, self.settings)
        self._check_quotas(config, asks)
        session_id = self.new_id()
        SESSION.set(public(session_id))
        self._reserve(session_id, config, asks)
        self.quotas.open(session_id, asks.quotas)
        try:
            await self.checks.check(config.operator, config.size)
        except BaseException:
            self._release(session_id)
            raise
        return session_id

    def _check_quotas(self, config: SessionConfig, asks: Asks) -> None:
        """Refuses what whoever asks may not have, or not now."""
        if asks.pixels is not None and config.size is not None and config.size[0] * config.size[1] > asks.pixels:
            raise Refusal(422, "bad_size", f"this token allows {asks.pixels} pixels, not {show_size(config.size)}")
        self.check_rate(asks)
        if (full := self.quotas.exceeded(asks.quotas)) is not None:
            raise Refusal(429, "too_many_sessions", f"{full.holder} has {full.sessions} sessions, its most", 5)

    def check_rate(self, asks: Asks) -> None:
        """Counts an offer. Refuses it where whoever asks sends too many, or where no descriptors are left for it."""
        if descriptors.are_scarce():
            raise Refusal(503, "exhausted", "the server has too few descriptors left for one more connection", 5)
        if (exceeded := self.quotas.offer(asks.quotas, asyncio.get_running_loop().time())) is not None:
            quota, wait = exceeded
            raise Refusal(429, "too_many_offers", f"{quota.holder} may send {quota.rate:g} offers a second", wait)

    def _reserve(self, session_id: str, config: SessionConfig, asks: Asks) -> None:
        """Takes a place, or refuses: before anything is awaited, so that no two take the same one."""
        if self.closing:
            raise Refusal(503, "shutting_down", "the server is shutting down", retry_after=5)
        if self.draining:
            raise Refusal(503, "draining", "this node takes no new sessions: it is draining", retry_after=2)
        if self.devices.state == "failed":
            raise Refusal(503, "no_device", f"no device restores: {self.devices.reason}", retry_after=60)
        if self.devices.state != "ready":
            raise Refusal(503, "warming", f"the model is not ready: {self.devices.state}", retry_after=2)
        now = asyncio.get_running_loop().time()
        refuse = self._in_line(asks.ticket, now) or self.devices.refuse(config, now)
        if refuse is not None:
            self.refused_total += 1
            raise self._turn_away(refuse, config, now, asks)
        self.line.serve(asks.ticket, now)
        self.devices.reserve(session_id, config, now)

    def _in_line(self, ticket: str | None, now: float) -> Refuse | None:
        """Refuses whoever would overtake one that waits and fits, or one that has been overtaken often enough."""

        def fits(wants: SessionConfig | None) -> bool:
            return wants is not None and self.devices.refuse(wants, now) is None

        before = self.line.before(ticket, now, fits)
        return Refuse(f"{before} in line come first", self.settings.queue_patience / 5) if before > 0 else None

    def _turn_away(self, refuse: Refuse, config: SessionConfig, now: float, asks: Asks) -> Refusal:
        """The refusal for a client that finds no place: when to ask again, and its place in line when it waits."""
        message = f"the server is full: {refuse.reason}"
        waits = asks.queue or asks.ticket is not None
        held = self.line.wait(asks.ticket, now, asks.address, config) if waits else None
        if held is None:
            return Refusal(503, "full", message, refuse.retry_after)
        return Refusal(503, "full", message, self.settings.queue_patience / 5, Place(*held))

    def _release(self, session_id: str) -> None:
        """Undoes what `_reserve` and `_new_session` did."""
        if (session := self._open.pop(session_id, None)) is not None:
            self._past.absorb(session.figures)
            self._past.wire.update(counted(session.pc))
        self.quotas.close(session_id)
        self._paces.pop(session_id, None)
        self.devices.release(session_id, asyncio.get_running_loop().time())

    def _new_session(self, session_id: str, config: SessionConfig, pc: Connection, pixels: int | None) -> Session:
        most = min(self.settings.max_pixels, pixels or self.settings.max_pixels)
        settings = self.settings.model_copy(update={"max_pixels": most})
        session = Session(session_id, config, settings, pc, self.devices)
        if (tracer := self.tracer) is not None:
            session.trace = lambda report: tracer.trace(session_id, report, time.time_ns())
        self._open[session_id] = session
        self.devices.attach(session)
        self.opened_total += 1
        return session

    def _record(self, session: Session, sound: str | None) -> None:
        """Begins to keep the session, when that was asked for; `sound` is the codec of its sound."""
        directory, config = self.settings.recordings, session.config
        if config.record != "nothing" and directory is not None:
            certify = certifier(config, self.settings, partial(self.devices.loaded, session.id))
            session.outlet.recording = Recording(directory, config.record, config.fps, sound, certify=certify)

    async def _answer(self, session: Session, pc: PeerConnection, offer: Offer, returns: bool) -> str:
        """Answers an offer of a session's client. An offer that fails leaves the session as it was."""
        begin = listen(session, pc, returns)
        answer = await negotiate(pc, offer, self.settings)
        self.get(session.id)  # it may have ended meanwhile
        for take_in in begin:
            take_in()
        return answer

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        """Forgets the task that closed a session, and logs why it failed, if it did."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("a session did not close", exc_info=error)


def log_end(session: Session, reason: str, code: EndCode) -> None:
    """One line that sums a session up."""
    summary = session.figures.summary(asyncio.get_running_loop().time())
    shown = {name: value for name, value in {"seconds": round(session.age, 1), **summary}.items() if value is not None}
    words = ", ".join(f"{name} {value}" for name, value in shown.items())
    fields = {"event": "session_end", "code": code, "reason": reason, **shown}
    logger.info("the session ends: %s; %s", reason, words, extra={"session": public(session.id), "fields": fields})


def listen(session: Session, pc: PeerConnection, returns: bool) -> list[Callable[[], None]]:
    """Connects a session to its peer connection: tracks in, restored video back if it `returns`, reports, its state.

    Returns callbacks that start consuming the offered tracks; call them after the answer is made.
    """
    begin: list[Callable[[], None]] = []

    @pc.on("track")
    def on_track(track: MediaStreamTrack) -> None:
        sound = CarriedTrack() if track.kind == "audio" else None
        begin.append(partial(session.carry, track, sound) if sound else partial(session.start, track))
        if returns:
            pc.addTrack(sound or session.outlet.broadcast.join())

    @pc.on("datachannel")
    def on_datachannel(channel: RTCDataChannel) -> None:
        session.channel.attach(channel)

    @pc.on("connectionstatechange")
    def on_connectionstatechange() -> None:
        session.on_connection(pc, pc.connectionState)

    return begin
