"""The devices of one server. Each has a process, a queue and an account of its own sessions. Knows no HTTP.

A session lives on one device. When that one is lost, the session moves to another that has room for it, and its next
chunk opens a new stream there. Where none has room, it stays, and its frames pass through until the device is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from core.contract import SolverConfig
from server.device.messages import Loaded
from server.device.work import Work
from server.device.worker import Worker, WorkerState
from server.scheduling.admission import Refuse
from server.scheduling.costs import Workload
from server.scheduling.scheduler import Job
from server.scheduling.start_size import SIZES, start_size
from server.sessions.config import SessionConfig
from server.sessions.dispatch import Dispatch
from server.sessions.session import Session, clock
from server.sessions.telemetry import RATIOS, EndCode, Histogram
from server.settings import Settings

logger = logging.getLogger(__name__)

ASK_AGAIN = 2.0
"""seconds after which a client asks again when the server's own number of sessions is reached"""


class Devices:
    """What sessions and handlers ask of one device, asked of all of them. It is also the sessions' host.

    It has more than 25 methods because it offers what `Dispatch` offers to sessions, each sent to the right device or
    summed over all.
    """

    def __init__(self, settings: Settings, end: Callable[[str, str, EndCode], None]):
        """`end` closes a session, by its id, for a reason and with its code."""
        names = settings.devices or (settings.device,)
        self.settings = settings
        self.all = [Dispatch(settings.model_copy(update={"device": name}), end, self._rescue) for name in names]
        self._end = end
        self._homes: dict[str, Dispatch] = {}
        """the device of each session that has an account"""

    @property
    def workers(self) -> list[Worker]:
        return [dispatch.worker for dispatch in self.all]

    @property
    def state(self) -> WorkerState:
        """ready while one of them is; failed when all are; else how far the first is that may still come."""
        states = [worker.state for worker in self.workers]
        if "ready" in states:
            return "ready"
        return next((state for state in states if state != "failed"), "failed")

    @property
    def reason(self) -> str | None:
        """What keeps devices from being ready."""
        return "; ".join(worker.reason for worker in self.workers if worker.reason) or None

    @property
    def name(self) -> str:
        """What the devices are called, as in cuda:0, cuda:1."""
        return ", ".join(worker.device_name for worker in self.workers)

    @property
    def solver(self) -> SolverConfig:
        """A session's solver settings where it says nothing."""
        return next((d for d in self.all if d.worker.loaded), self.all[0]).solver

    @property
    def reserved(self) -> int:
        """Sessions that have a place: those that are open, and those that are being opened."""
        return len(self._homes)

    def free(self, now: float) -> int:
        """How many more sessions of the usual size would be let in now."""
        return min(self.settings.max_sessions - self.reserved, sum(dispatch.free(now) for dispatch in self.all))

    def start_size(self, now: float) -> tuple[int, int] | None:
        """(width, height) that a page may begin with, at full quality; None while nothing was measured."""
        (width, height), solver = SIZES[-1], self.solver
        workload = Workload(
            model=self.settings.model,
            width=width,
            height=height,
            num_steps=max(1, solver.num_steps),
            reinject_every=solver.reinject_every,
            fps=self.settings.fps,
        )
        ready = [dispatch.admission for dispatch in self.all if dispatch.worker.state == "ready"]
        return start_size(ready, workload, now)

    def load(self, now: float) -> float:
        """Share of the devices' time that the sessions take: the mean over all devices."""
        return sum(dispatch.admission.load(now) for dispatch in self.all) / len(self.all)

    def slowness(self, now: float) -> float:
        """How much slower than at warm-up the slowest device is."""
        return max(dispatch.admission.costs.slowness(now) for dispatch in self.all)

    def waiting(self) -> int:
        """Chunks that wait for a device."""
        return sum(dispatch.scheduler.waiting() for dispatch in self.all)

    def stages(self) -> dict[str, Histogram]:
        """Seconds of each stage of the chunks that were restored."""
        found: dict[str, Histogram] = {}
        for dispatch in self.all:
            for stage, histogram in dispatch.stages.items():
                found.setdefault(stage, Histogram()).absorb(histogram)
        return found

    def residuals(self) -> Histogram:
        """How far restored chunks are from their measurement."""
        found = Histogram(RATIOS)
        for dispatch in self.all:
            found.absorb(dispatch.residuals)
        return found

    @property
    def late(self) -> int:
        """Chunks that were restored too late."""
        return sum(dispatch.late for dispatch in self.all)

    async def run(self) -> None:
        """Drives all devices until cancelled."""
        async with asyncio.TaskGroup() as group:
            for worker in self.workers:
                group.create_task(worker.run())

    async def settled(self) -> None:
        """Waits until one device is ready for the first time, or all have failed."""
        waits = {asyncio.ensure_future(worker.settled()) for worker in self.workers}
        try:
            while waits and self.state != "ready":
                _, waits = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()

    # --- accounts ---------------------------------------------------------------------------------

    def refuse(self, config: SessionConfig, now: float) -> Refuse | None:
        """Why no device can carry one more session, if so."""
        if self.reserved >= self.settings.max_sessions > 1 and len(self.all) > 1:
            return Refuse(f"all its {self.settings.max_sessions} places are taken", ASK_AGAIN)
        found = self._place(config, now, self.all)
        return found if isinstance(found, Refuse) else None

    def reserve(self, session_id: str, config: SessionConfig, now: float) -> None:
        """Opens the account of a session that `refuse` did not refuse, on the device that has most room."""
        home = self._place(config, now, self.all)
        assert isinstance(home, Dispatch), "a session is reserved that was refused"
        home.reserve(session_id, config, now)
        self._homes[session_id] = home

    def attach(self, session: Session) -> None:
        self._homes[session.id].attach(session)

    def release(self, session_id: str, now: float) -> None:
        """Forgets a session, known or not. Its room may be what a session of a lost device waits for."""
        home = self._homes.pop(session_id, None)
        if home is not None:
            home.release(session_id, now)
            for dispatch in self.all:
                if dispatch.worker.state != "ready" and home.worker.state == "ready":
                    self._rescue(dispatch)

    def loaded(self, session_id: str) -> Loaded | None:
        """What the device of a session has loaded; None while it loads, and of a session that is not known."""
        home = self._homes.get(session_id)
        return home.worker.loaded if home else None

    def update(self, session_id: str, config: SessionConfig, size: tuple[int, int] | None) -> None:
        self._homes[session_id].update(session_id, config, size)

    def reconnect(self, session_id: str) -> None:
        self._homes[session_id].reconnect(session_id)

    def check_integrity(self, open_ids: set[str]) -> None:
        """Raises AssertionError when one part still holds a session that another has let go, or the reverse."""
        for dispatch in self.all:
            dispatch.check_integrity({id for id in open_ids if self._homes.get(id) is dispatch})
        assert set(self._homes) == set().union(*(dispatch.ids for dispatch in self.all)), "a session has no device"
        assert open_ids <= set(self._homes), "a session is open that has no device"

    def _place(self, config: SessionConfig, now: float, among: Iterable[Dispatch]) -> Dispatch | Refuse:
        """The least loaded ready device that lets a session in, or the refusal that asks to come back soonest."""
        ready = [dispatch for dispatch in among if dispatch.worker.state == "ready"]
        answers = [(dispatch, dispatch.refuse(config, now)) for dispatch in ready]
        fitting = [dispatch for dispatch, refusal in answers if refusal is None]
        if fitting:
            return min(fitting, key=lambda dispatch: (dispatch.admission.load(now), dispatch.reserved))
        refusals = [refusal for _, refusal in answers if refusal is not None]
        return min(refusals, key=lambda refusal: refusal.retry_after, default=Refuse("no device is ready", ASK_AGAIN))

    def _rescue(self, lost: Dispatch) -> None:
        """Moves the sessions of a device that is lost to others, as far as they have room."""
        others = [dispatch for dispatch in self.all if dispatch is not lost]
        for session in lost.sessions if others else []:
            now, config = clock(), sized(session)
            home = self._place(config, now, others)
            if isinstance(home, Dispatch):
                home.take(session, config, lost.give(session.id, now), now)
                self._homes[session.id] = home
                logger.info("session %s moves to the device %s", session.id, home.worker.device_name)

    # --- for sessions (server.sessions.session.Host) ------------------------------------------------

    def queue(self, session: Session, job: Job[Work]) -> None:
        """Queues a chunk on the session's device. Of a session that is over, it passes through."""
        home = self._homes.get(session.id)
        if home is None:
            return session.start_over([job])
        home.queue(session, job)

    def sized(self, session: Session) -> None:
        home = self._homes.get(session.id)
        if home is not None:
            home.sized(session)

    def end(self, session_id: str, reason: str, code: EndCode) -> None:
        self._end(session_id, reason, code)


def sized(session: Session) -> SessionConfig:
    """A session's configuration with the size of its frames, where it has learnt it."""
    if session.spec is None:
        return session.config
    return session.config.model_copy(update={"size": (session.spec.width, session.spec.height)})
