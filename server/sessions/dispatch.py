"""Brings the chunks of all sessions to the device, and back what became of them. Knows no HTTP.

A chunk's way: `queue` > Scheduler > `begin`, which plans it > the device > `on_restored` > `Session.deliver`. A chunk
that the device does not restore goes from any of these stops to `Session.pass_through`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from pydantic import ValidationError

from core.chunks import ChunkSpec
from core.contract import LATENTS, Latency, Rung, SolverConfig
from core.errors import UsageError, explain
from core.models.table import check_tier, solver_defaults
from server.device.messages import DeviceOptions, Ready
from server.device.work import Plan, RestoredChunk, Work
from server.device.worker import Worker, WorkerConfig, WorkerState
from server.scheduling.admission import Admission, AdmissionConfig, Refuse
from server.scheduling.costs import Workload
from server.scheduling.scheduler import Job, Scheduler
from server.sessions.account import Account
from server.sessions.config import SessionConfig
from server.sessions.session import Session, clock
from server.sessions.telemetry import RATIOS, EndCode, Histogram
from server.settings import Settings
from server.values import show_size

SIZE = (416, 240)
"""(width, height) that a session is taken for where nothing was warmed up"""


class Dispatch:
    """The device, its queue, and the account of every session. The worker's listener, and what sessions queue with.

    It has more than 25 methods because it answers two sides, one by one: the worker tells it what became of each job,
    and sessions open, queue, measure and leave. Both change the same accounts.
    """

    def __init__(
        self,
        settings: Settings,
        end: Callable[[str, str, EndCode], None],
        on_lost: Callable[[Dispatch], None] = lambda lost: None,
    ):
        """`end` closes a session: its id, the reason in words, the reason as a code."""
        self.settings = settings
        self.scheduler: Scheduler[Work] = Scheduler(backlog=settings.backlog)
        self.admission = Admission(AdmissionConfig(max_sessions=settings.max_sessions))
        self.worker = Worker(worker_config(settings), self.scheduler, self)
        self.stages: dict[str, Histogram] = {}
        """seconds of each stage of the chunks that were restored"""
        self.residuals = Histogram(RATIOS)
        """of the chunks that were restored"""
        self.late = 0
        """chunks that were restored after their deadline"""
        self._end = end
        self._on_lost = on_lost
        self._accounts: dict[str, Account] = {}
        self._sessions: dict[str, Session] = {}
        """those that are open; an account comes before its session"""

    @property
    def solver(self) -> SolverConfig:
        """A session's solver settings where it says nothing."""
        loaded = self.worker.loaded
        own = solver_defaults(self.settings.model)
        return loaded.solver if loaded else SolverConfig.model_validate({**own, **self.settings.solver})

    # --- accounts ---------------------------------------------------------------------------------

    def refuse(self, config: SessionConfig, now: float) -> Refuse | None:
        """Why the device cannot carry one more session, if so."""
        if self.settings.admission == "places" and len(self._accounts) < self.settings.max_sessions:
            return None
        workload = self._workload(config, config.size)
        decision = self.admission.decide(workload, now, session_bytes(self.worker.ready, workload))
        return decision if isinstance(decision, Refuse) else None

    @property
    def reserved(self) -> int:
        """Sessions that have a place: those that are open, and those that are being opened."""
        return len(self._accounts)

    def free(self, now: float) -> int:
        """How many more sessions of the usual size the device could carry now."""
        if self.worker.state != "ready":
            return 0
        if self.settings.admission == "places":
            return max(0, self.settings.max_sessions - len(self._accounts))
        workload = self._workload(SessionConfig(fps=self.settings.fps, solver=self.solver), None)
        return self.admission.fitting(workload, now, session_bytes(self.worker.ready, workload))

    def reserve(self, session_id: str, config: SessionConfig, now: float) -> None:
        """Opens the account of a session that is about to open."""
        workload = self._workload(config, config.size)
        self.admission.open(session_id, workload, now, session_bytes(self.worker.ready, workload))
        phase = self.scheduler.add(session_id, workload.period, workload.reinject_every, now)
        self._accounts[session_id] = Account(workload, phase)

    def attach(self, session: Session) -> None:
        """The session of an account is open."""
        self._sessions[session.id] = session

    def release(self, session_id: str, now: float) -> None:
        """Forgets a session, known or not: undoes `reserve` and `attach`."""
        self._sessions.pop(session_id, None)
        self._accounts.pop(session_id, None)
        self.scheduler.remove(session_id)
        self.admission.close(session_id, now)
        self.worker.close(session_id)

    @property
    def ids(self) -> set[str]:
        """The sessions that have an account."""
        return set(self._accounts)

    @property
    def sessions(self) -> list[Session]:
        """Those that are open."""
        return list(self._sessions.values())

    def give(self, session_id: str, now: float) -> Account:
        """Forgets a session that goes on with another device, and returns its account."""
        account = self._accounts[session_id]
        self.release(session_id, now)
        return account

    def take(self, session: Session, config: SessionConfig, account: Account, now: float) -> None:
        """Goes on with a session of another device. Its next chunk opens a new stream here."""
        self.reserve(session.id, config, now)
        taken = self._accounts[session.id]
        taken.suspect, taken.skipped = account.suspect, account.skipped
        self.attach(session)
        self._show_rung(session, taken)
        session.channel.send({"event": "device", "state": self.worker.state})

    def update(self, session_id: str, config: SessionConfig, size: tuple[int, int] | None) -> None:
        """A session has another configuration, or has learnt its size."""
        workload = self._workload(config, size)
        self._accounts[session_id].workload = workload
        self.admission.change(session_id, workload, session_bytes(self.worker.ready, workload))

    def reconnect(self, session_id: str) -> None:
        """A session's frames come over another connection from now on."""
        self._accounts[session_id].reconnected = True

    def check_integrity(self, open_ids: set[str]) -> None:
        """Raises AssertionError when one part still holds a session that another has let go, or the reverse."""
        self.scheduler.check_integrity()
        reserved = set(self._accounts)
        assert open_ids <= reserved, "a session is open that has no account"
        assert set(self._sessions) == open_ids, f"sessions {set(self._sessions)} are attached, {open_ids} are open"
        assert self.admission.ids == reserved, f"admission counts {self.admission.ids}, the accounts are {reserved}"
        assert self.scheduler.ids == reserved, f"the scheduler serves {self.scheduler.ids}, the accounts are {reserved}"

    def _workload(self, config: SessionConfig, size: tuple[int, int] | None) -> Workload:
        width, height = size or usual_size(self.worker.ready)
        return Workload(
            model=self.settings.model,
            width=width,
            height=height,
            num_steps=config.solver.num_steps or self.solver.num_steps,
            reinject_every=config.solver.reinject_every,
            fps=config.fps,
            frames=config.chunks.frames(1),
            budget=config.budget(self.settings),
        )

    # --- for sessions (server.sessions.session.Host) ------------------------------------------------

    def queue(self, session: Session, job: Job[Work]) -> None:
        """Queues a chunk. What is shed for it passes through; without a device the stream starts over."""
        if session.id not in self._accounts:
            return session.start_over([job])
        account = self._accounts[session.id]
        if self.worker.state != "ready":
            account.skipped = True
            return session.start_over([job])
        shed = self.scheduler.submit(job)
        self.worker.wake()
        session.figures.shed += len(shed)
        for old in shed:
            account.skipped = True
            session.pass_through(old)

    def sized(self, session: Session) -> None:
        """Admits a session once more when it learns that it is larger than the usual size, at which it was admitted."""
        if session.id not in self._sessions or session.spec is None:
            return
        size, before = (session.spec.width, session.spec.height), self._accounts[session.id].workload
        self.update(session.id, session.config, size)
        if self.settings.admission == "places" or size[0] * size[1] <= before.width * before.height:
            return
        decision = self.admission.readmit(session.id, clock())
        if isinstance(decision, Refuse):
            self.end(session.id, f"the server is too full for frames of {show_size(size)}: {decision.reason}", "full")

    def end(self, session_id: str, reason: str, code: EndCode) -> None:
        self._end(session_id, reason, code)

    # --- for the worker (server.device.worker.Listener) ----------------------------------------------

    def begin(self, job: Job[Work], now: float) -> Plan:
        """Plans a chunk that is about to start."""
        session, account = self._sessions.get(job.session_id), self._accounts.get(job.session_id)
        if session is None or account is None:
            return Plan("passthrough", job.work.solver, job.work.gap, job.deadline)

        def cost(rung: Rung, guided: bool) -> float:
            return self.admission.costs.cost(now, account.workload, rung, guided)

        deadline = self.admission.tightened(session.id, job.deadline, now)
        plan = account.plan(job, now, self.solver.num_steps, deadline, cost)
        self._show_rung(session, account)
        return plan

    def on_restored(self, job: Job[Work], restored: RestoredChunk) -> None:
        session = self._sessions.get(job.session_id)
        if session is None:
            return
        account, rung, finished = self._accounts[session.id], restored.plan.rung, restored.finished
        account.suspect = False
        self._count(job, restored)
        if not (job.opening and rung == "x_init"):  # that one fills the codec's memories as well
            seconds = restored.stepped.ms["total"] / 1000
            self.admission.costs.measure(finished, account.workload, seconds, rung, restored.stepped.guided)
        self._observe(session, account, finished, finished - restored.plan.deadline)
        session.deliver(job, restored)

    def on_skipped(self, job: Job[Work]) -> None:
        session = self._sessions.get(job.session_id)
        if session is not None:
            account = self._accounts[session.id]
            account.skipped = True
            self._observe(session, account, clock(), -account.workload.budget)
            session.pass_through(job)

    def on_refused(self, job: Job[Work], reason: str) -> None:
        session = self._sessions.get(job.session_id)
        if session is not None:
            session.figures.failed += 1
            self._end(job.session_id, f"its chunk {job.work.number} failed: {reason}", "chunk_failed")

    def on_shortage(self, job: Job[Work]) -> None:
        session = self._sessions.get(job.session_id)
        if session is not None:
            waiting = self._begin_anew(session.id)
            self._accounts[session.id].skipped = True
            session.start_over([job, *waiting])

    def _begin_anew(self, session_id: str) -> list[Job[Work]]:
        """Forgets a session's queue and calendar, as its stream is gone, and returns what waited."""
        account, waiting = self._accounts[session_id], self.scheduler.remove(session_id)
        workload = account.workload
        account.phase = self.scheduler.add(session_id, workload.period, workload.reinject_every, clock())
        return waiting

    def on_device_lost(self, job: Job[Work] | None) -> None:
        for session in list(self._sessions.values()):
            account, waiting = self._accounts[session.id], self._begin_anew(session.id)
            session.figures.device_losses += 1
            if job is not None and job.session_id == session.id:
                waiting = [job, *waiting]
                if account.suspect:  # it gets a second chance, and no third
                    self._end(session.id, "the device was lost twice in a row on its chunks", "device_lost")
                account.suspect = True
            account.skipped = account.skipped or bool(waiting)
            session.start_over(waiting)
        self._on_lost(self)

    def on_state(self, state: WorkerState) -> None:
        if state == "ready" and self.worker.ready is not None:
            memory = {"memory_bytes": self.worker.ready.memory_bytes}
            self.admission.config = self.admission.config.model_copy(update=memory)
            self._calibrate(self.worker.ready)
        for session in self._sessions.values():
            session.channel.send({"event": "device", "state": state})

    def _calibrate(self, ready: Ready) -> None:
        """Sets the costs that warm-up measured."""
        usual, low = (ChunkSpec(LATENTS[latency]).frames(1) for latency in get_args(Latency))
        measured: tuple[tuple[dict[tuple[int, int], float], int, Rung, bool], ...] = (
            (ready.chunk_seconds, usual, "full", False),
            (ready.guided_seconds, usual, "full", True),
            (ready.x_init_seconds, usual, "x_init", False),
            (ready.low_latency_seconds, low, "full", False),
            (ready.low_latency_guided_seconds, low, "full", True),
        )
        name, num_steps = self.settings.model, self.solver.num_steps
        for costs, frames, rung, guided in measured:
            for (width, height), seconds in costs.items():
                workload = Workload(model=name, width=width, height=height, num_steps=num_steps, frames=frames)
                self.admission.costs.calibrate(workload, seconds, rung, guided)

    def _count(self, job: Job[Work], restored: RestoredChunk) -> None:
        """Counts what each stage of the chunk took, its waiting too, how well it was done and whether in time."""
        self.residuals.add(restored.stepped.residual)
        self.late += restored.finished > restored.plan.deadline
        waited = restored.started - job.work.submitted
        stages = {"queue": waited, **{stage: ms / 1000 for stage, ms in restored.stepped.ms.items()}}
        for stage, seconds in stages.items():
            self.stages.setdefault(stage, Histogram()).add(seconds)

    def _observe(self, session: Session, account: Account, now: float, lateness: float) -> None:
        """Moves a session up or down its ladder, by how its chunk went."""
        room = self.admission.room(session.id, account.ladder.next_up, now)
        rung = account.ladder.observe(now, lateness, room, self.admission.fits(session.id, now))
        self.admission.set_rung(session.id, rung)
        self._show_rung(session, account)

    def _show_rung(self, session: Session, account: Account) -> None:
        if session.rung != account.ladder.rung:
            session.show_rung(account.ladder.rung)


def usual_size(ready: Ready | None) -> tuple[int, int]:
    """(width, height) that a session is taken for until its first frame arrives: the first one warmed up."""
    return next(iter(ready.chunk_seconds), SIZE) if ready else SIZE


def session_bytes(ready: Ready | None, workload: Workload) -> int:
    """Device memory that a session takes: that of the nearest size that was measured, by pixels."""
    measured = ready.session_bytes if ready else {}
    pixels = workload.width * workload.height
    by_distance = [(abs(w * h - pixels), held * pixels // (w * h)) for (w, h), held in measured.items()]
    return min(by_distance)[1] if by_distance else 0


def check_solver(values: dict[str, Any], model: str) -> dict[str, Any]:
    """The solver settings that the server's own settings name. Raises UsageError for an unknown or wrong one."""
    try:
        solver = SolverConfig.model_validate(values)
        check_tier(model, solver.tier)
        return solver.model_dump(include=set(values))
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
        solver=check_solver(settings.solver, settings.model),
        hash_weights=settings.certificate_key is not None,
        log_level=settings.log_level,
        log_format=settings.log_format,
    )
    return WorkerConfig(
        options,
        load_timeout=settings.load_timeout,
        step_timeout=settings.step_timeout,
        max_restarts=settings.max_restarts,
    )
