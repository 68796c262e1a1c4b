"""Devices and clients that are only numbers: `Simulation` runs them by the real policies on its own clock.

Hours of many sessions pass in seconds, so that the scheduler, the admission and the ladder are tested against
the promises that are made for them together. `SimulatedProcess` stands in for a device process in real time.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Annotated

from pydantic import Field

from core.chunks import Chunk
from core.config import Config
from core.contract import Rung
from server.media.playout import Playout
from server.scheduling.admission import Admission, AdmissionConfig, Refuse, place
from server.scheduling.costs import ON_CALENDAR, RATIOS, Workload
from server.scheduling.ladder import Ladder
from server.scheduling.scheduler import Job, Scheduler, is_due

Moment = Annotated[float, Field(ge=-1e9, le=1e9)]
"""seconds"""


class SlowSpell(Config):
    """A while in which something else uses the device too."""

    start: Moment
    end: Moment
    factor: float = Field(gt=0, le=1e6)
    """how many times longer a chunk takes"""


class SimulatedDevice(Config):
    """What a device does with a chunk."""

    seconds: float = Field(0.1, gt=0, le=1e6)
    """what a full, unguided chunk takes"""
    jitter: float = Field(0.0, ge=0, le=10)
    """standard deviation of the logarithm of that"""
    warm_up: dict[Rung, Annotated[float, Field(gt=0, le=1e6)]] = Field({"full": 1.0})
    """the rungs that warm-up measured, and how many times longer a chunk took then"""
    spells: tuple[SlowSpell, ...] = ()
    deaths: tuple[Moment, ...] = ()
    """moments at which the device dies with the chunk it works on"""
    restart: float = Field(5.0, ge=0, le=1e6)
    """seconds from a death until it works again"""

    def cost(self, now: float, rung: Rung, guided: bool, random: random.Random) -> float:
        """Seconds that a chunk takes which starts at `now`."""
        slow = max((spell.factor for spell in self.spells if spell.start <= now < spell.end), default=1.0)
        return self.seconds * RATIOS[rung, guided] * slow * random.lognormvariate(0, self.jitter)


class SimulatedClient(Config):
    """How one client behaves."""

    workload: Workload = Workload(model="simulated", width=416, height=240)
    joins: Moment = 0.0
    leaves: Moment = float("inf")
    pace: float = Field(1.0, gt=0, le=1000)
    """chunks it sends for each one it should"""
    stalls: tuple[tuple[Moment, Moment], ...] = ()
    """(start, end) of times in which the network holds its frames back, to deliver them all at the end"""


@dataclass
class Record:
    """What one client saw."""

    refused: Refuse | None = None
    latencies: list[tuple[float, float]] = field(default_factory=list)
    """(when it came, seconds from the arrival of its first frame to that one's departure) of each chunk"""
    rungs: list[tuple[float, Rung]] = field(default_factory=list)
    guided: list[float] = field(default_factory=list)
    shed: int = 0
    lost: int = 0
    """chunks that died with a device"""

    def note(self, now: float, latency: float, rung: Rung) -> None:
        self.latencies.append((now, latency))
        self.rungs.append((now, rung))

    def latency(self, fraction: float, start: float = 0.0, end: float = float("inf")) -> float:
        """The quantile of the latencies in [start, end)."""
        values = sorted(seconds for when, seconds in self.latencies if start <= when < end)
        return values[min(int(fraction * len(values)), len(values) - 1)] if values else float("nan")

    def rung_at(self, moment: float) -> Rung | None:
        """The rung of the last chunk that came by then."""
        return next((rung for when, rung in reversed(self.rungs) if when <= moment), None)


@dataclass
class _Session:
    id: str
    client: SimulatedClient
    record: Record
    device: _Device
    ladder: Ladder = field(default_factory=Ladder)
    phase: int = 0
    chunks: int = 0
    grounded: bool = False
    """whether the device holds a stream of this session"""
    open: bool = True
    playout: Playout[None] = field(init=False)

    def __post_init__(self) -> None:
        self.playout = Playout(self.client.workload.fps)

    @property
    def period(self) -> float:
        return self.client.workload.period

    def latency(self, now: float, job: Job[float]) -> float:
        """Hands a chunk that is ready to the playout: seconds its first frame will have taken."""
        while (due := self.playout.due()) is not None and due <= now:
            self.playout.take(due)
        first, frames = self.client.workload.frames * job.chunk.index, self.client.workload.frames
        self.playout.put([(first + frame, None) for frame in range(frames)], now)
        arrived = job.work - (frames - 1) / self.client.workload.fps
        return max(self.playout.leaves(first), now) - arrived


@dataclass
class _Device:
    behaviour: SimulatedDevice
    admission: Admission
    scheduler: Scheduler[float] = field(default_factory=Scheduler)
    sessions: dict[str, _Session] = field(default_factory=dict)
    working: Job[float] | None = None
    life: int = 0
    """deaths so far"""
    alive: bool = True


@dataclass(frozen=True)
class _Start:
    """A chunk as it starts on a device."""

    job: Job[float]
    """with the moment at which it arrived"""
    rung: Rung
    deadline: float
    guided: bool


class Simulation:
    """Clients on devices. `run` returns what each client saw, in their order."""

    def __init__(
        self,
        devices: list[SimulatedDevice],
        clients: list[SimulatedClient],
        admission: AdmissionConfig | None = None,
        seed: int = 0,
        places: bool = False,
    ):
        """`places`: whoever comes is let in, as the setting admission of that name does."""
        config = admission or AdmissionConfig(max_sessions=1000)
        self.devices = [_Device(device, Admission(config)) for device in devices]
        self.places = places
        self.clients = clients
        self.records = [Record() for _ in clients]
        self.now = 0.0
        self._random = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def run(self, seconds: float) -> list[Record]:
        self._begin()
        while self._events and self._events[0][0] <= seconds:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.check_integrity()
        return self.records

    def check_integrity(self) -> None:
        """Raises AssertionError when a queue is wrong, or something of a session that left is still held."""
        for device in self.devices:
            device.scheduler.check_integrity()
            assert device.scheduler.waiting() <= 2 * len(device.sessions), "more waits than sessions may have wait"
            assert all(session.open for session in device.sessions.values()), "a session that left is still held"

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    def _begin(self) -> None:
        for device in self.devices:
            for workload in {client.workload for client in self.clients}:
                for rung, factor in device.behaviour.warm_up.items():
                    seconds = device.behaviour.seconds * RATIOS[rung, False] * factor
                    device.admission.costs.calibrate(workload, seconds, rung)
            for moment in device.behaviour.deaths:
                self._at(moment, lambda device=device: self._die(device))  # type: ignore[misc]
        for index, client in enumerate(self.clients):
            self._at(client.joins, lambda index=index: self._join(index))  # type: ignore[misc]

    def _join(self, index: int) -> None:
        client, record = self.clients[index], self.records[index]
        place_at = self._place(client.workload)
        if isinstance(place_at, Refuse):
            record.refused = place_at
            return
        device = self.devices[place_at]
        session = _Session(f"client-{index}", client, record, device)
        device.admission.open(session.id, client.workload, self.now)
        device.sessions[session.id] = session
        every = client.workload.reinject_every
        session.phase = device.scheduler.add(session.id, session.period, every, self.now)
        self._at(self.now + session.period / client.pace, lambda: self._fill(session))
        self._at(client.leaves, lambda: self._leave(session))

    def _place(self, workload: Workload) -> int | Refuse:
        """The device that takes a client."""
        if self.places:
            return min(range(len(self.devices)), key=lambda index: len(self.devices[index].sessions))
        return place([device.admission for device in self.devices], workload, self.now)

    def _leave(self, session: _Session) -> None:
        session.open = False
        session.device.scheduler.remove(session.id)
        session.device.admission.close(session.id, self.now)
        del session.device.sessions[session.id]

    def _fill(self, session: _Session) -> None:
        """A chunk's last frame is sent; it arrives at once, or when the stall it falls into ends."""
        if not session.open:
            return
        self._at(self.now + session.period / session.client.pace, lambda: self._fill(session))
        ends = [end for start, end in session.client.stalls if start <= self.now < end]
        self._at(max(ends, default=self.now), lambda: self._arrive(session))

    def _arrive(self, session: _Session) -> None:
        if not session.open:
            return
        opening = not session.grounded and session.device.scheduler.waiting(session.id) == 0
        deadline = self.now + session.client.workload.budget
        job = Job(session.id, Chunk(session.chunks, []), deadline, self.now, opening)
        session.chunks += 1
        session.record.shed += len(session.device.scheduler.submit(job))
        self._serve(session.device)

    def _serve(self, device: _Device) -> None:
        while device.working is None and (job := device.scheduler.next()):
            session = device.sessions[job.session_id]
            if device.alive:
                self._start(device, session, job)
            else:
                session.record.note(self.now, session.latency(self.now, job), "passthrough")

    def _start(self, device: _Device, session: _Session, job: Job[float]) -> None:
        workload, opening = session.client.workload, not session.grounded
        due = is_due(job.chunk.index, workload.reinject_every, session.phase)

        def guided(rung: Rung) -> bool:
            return opening or (due and rung in ON_CALENDAR)

        deadline = device.admission.tightened(session.id, job.deadline, self.now)
        rung = session.ladder.choose(
            self.now,
            deadline,
            lambda rung: device.admission.costs.cost(self.now, workload, rung, guided(rung)),
            lowest="x_init" if opening else "passthrough",
        )
        start = _Start(job, rung, deadline, guided(rung))
        if rung == "passthrough":
            return self._deliver(session, replace(start, guided=False))
        session.grounded = True
        device.working = job
        seconds, life = device.behaviour.cost(self.now, rung, start.guided, self._random), device.life
        self._at(self.now + seconds, lambda: self._finish(device, life, start, seconds))

    def _finish(self, device: _Device, life: int, start: _Start, seconds: float) -> None:
        if device.life != life:
            return  # it died with the device
        device.working = None
        session = device.sessions.get(start.job.session_id)
        if session is not None:
            device.admission.costs.measure(self.now, session.client.workload, seconds, start.rung, start.guided)
            self._deliver(session, start)
        self._serve(device)

    def _deliver(self, session: _Session, start: _Start) -> None:
        admission, ladder, record = session.device.admission, session.ladder, session.record
        record.note(self.now, session.latency(self.now, start.job), start.rung)
        if start.guided:
            record.guided.append(self.now)
        room = admission.room(session.id, ladder.next_up, self.now)
        rung = ladder.observe(self.now, self.now - start.deadline, room, admission.fits(session.id, self.now))
        admission.set_rung(session.id, rung)

    def _die(self, device: _Device) -> None:
        """The chunk in work is lost; chunks pass by until the device is back, and all streams start anew."""
        device.life += 1
        device.alive = False
        if device.working is not None and device.working.session_id in device.sessions:
            device.sessions[device.working.session_id].record.lost += 1
        device.working = None
        for session in device.sessions.values():
            session.grounded = False
        self._at(self.now + device.behaviour.restart, lambda: self._revive(device))

    def _revive(self, device: _Device) -> None:
        device.alive = True
