"""The task that owns a device: starts its process, feeds it jobs, and starts it again when it dies."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from core.chunks import CHUNK_FRAMES
from core.contract import Pixels, Rung, SolverConfig
from core.operators.config import OperatorConfig
from server.device.backoff import Backoff
from server.device.frame_memory import FrameMemory
from server.device.messages import (
    Close,
    DeviceOptions,
    Loaded,
    Open,
    Ping,
    Ready,
    Refused,
    Reply,
    Request,
    Step,
    Stepped,
    StreamSpec,
    Unusable,
)
from server.device.process import DeviceLost, DeviceProcess
from server.scheduling.scheduler import Job, Scheduler

logger = logging.getLogger(__name__)

WorkerState = Literal["starting", "warming", "ready", "restarting", "failed"]


@dataclass(frozen=True)
class Work:
    """What the worker needs with the frames of a chunk, and what the session wants back with them."""

    spec: StreamSpec
    operator: OperatorConfig
    solver: SolverConfig
    """as the session asks for it; the Plan has what the chunk is restored with"""
    gap: bool
    """frames are missing before this chunk"""
    number: int
    """chunks of this session before it, over all its streams"""
    slots: tuple[int, ...]
    """place of each frame at the session's frame rate"""
    timestamps: tuple[float, ...]
    """source timestamp of each frame, in seconds"""
    arrivals: tuple[float, ...]
    """when each frame arrived, by the server's clock"""
    submitted: float
    """when the chunk was full, by the same clock"""
    lost: tuple[int, ...] = ()
    """indices of frames that the network lost; the frame before each is repeated in its place"""
    masked: tuple[int, ...] = ()
    """those of them that the operator does not measure"""
    standing: tuple[int, ...] = ()
    """slots of frames that repeat the one before them while the source paused"""


@dataclass(frozen=True)
class Plan:
    """What the device does with a chunk, decided right before it starts."""

    rung: Rung
    solver: SolverConfig
    gap: bool
    """frames are missing before this chunk, or the chunks before it were skipped"""
    deadline: float
    """when the restored chunk is wanted, on a device as busy as it is now"""


@dataclass(frozen=True)
class Restoration:
    """A restored chunk, as it comes from the device."""

    stepped: Stepped
    pixels: Pixels
    plan: Plan
    started: float
    finished: float


class Listener(Protocol):
    """Who plans the jobs, and hears what became of them. Called on the event loop; must not block."""

    def begin(self, job: Job[Work], now: float) -> Plan:
        """Plans a job that is about to start."""
        ...

    def on_restored(self, job: Job[Work], restoration: Restoration) -> None: ...

    def on_skipped(self, job: Job[Work]) -> None:
        """The chunk is not restored, as its plan said: its frames pass as they are."""
        ...

    def on_refused(self, job: Job[Work], reason: str) -> None:
        """The chunk failed by its session's own fault."""
        ...

    def on_device_lost(self, job: Job[Work] | None) -> None:
        """The device is gone, and every stream with it; `job` was on it."""
        ...

    def on_state(self, state: WorkerState) -> None: ...


class Device(Protocol):
    """What a worker drives: a DeviceProcess, or a simulated device."""

    @property
    def lost(self) -> bool: ...

    @property
    def pid(self) -> int | None:
        """Of its process, when it has one."""
        ...

    async def receive(self, patience: float) -> Reply: ...

    async def request(self, request: Request, patience: float, descriptor: int | None = None) -> Reply: ...

    async def end(self) -> None: ...


@dataclass(frozen=True)
class WorkerConfig:
    """Seconds of patience."""

    options: DeviceOptions = field(default_factory=DeviceOptions)
    load_timeout: float = 600.0
    step_timeout: float = 30.0
    """the most a chunk may take"""
    least_patience: float = 5.0
    """what a chunk may take at least, however fast the device was so far"""
    max_restarts: int = 5
    ping_every: float = 5.0


class Worker:
    """Drives one device while the server lives: jobs come from the scheduler, results go to the listener.

    It has more than 25 methods because each step of the device's life is one: start, warm up, serve, lose, pause.
    """

    def __init__(self, config: WorkerConfig, scheduler: Scheduler[Work], listener: Listener):
        self.config = config
        self.state: WorkerState = "starting"
        self.reason: str | None = None
        """why the worker failed"""
        self.loaded: Loaded | None = None
        self.ready: Ready | None = None
        self.restarts = 0
        self.device: Device | None = None
        self._scheduler = scheduler
        self._listener = listener
        self._backoff = Backoff(config.max_restarts)
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._closing: deque[str] = deque()
        self._memory: dict[str, tuple[StreamSpec, FrameMemory]] = {}
        self._job: Job[Work] | None = None
        self._slowest = 0.0
        """seconds of the slowest chunk so far"""
        self._warm = 0.0
        """seconds of the slowest full chunk at warm-up: chunks on a low rung tell nothing of it"""
        self._delay: float | None = None
        """seconds until the device starts again"""

    def wake(self) -> None:
        """The scheduler has a job, perhaps the first."""
        self._wake.set()

    def close(self, stream_id: str) -> None:
        """Forgets a stream, and has the device forget it. One that was never opened is no error."""
        self._closing.append(stream_id)
        self._wake.set()

    async def settled(self) -> None:
        """Waits until the device is ready for the first time, or has failed for good."""
        await self._settled.wait()

    @property
    def pid(self) -> int | None:
        """Of the device process, while there is one."""
        return self.device.pid if self.device is not None else None

    @property
    def memory_bytes(self) -> int:
        """Frame memory of all streams."""
        return sum(memory.size for _, memory in self._memory.values())

    @property
    def device_name(self) -> str:
        return self.loaded.device if self.loaded else self.config.options.device

    async def start_device(self) -> Device:
        """Starts what this worker drives; a simulated device takes this place in tests."""
        return await DeviceProcess.start(self.options, self._wake.set)

    @property
    def options(self) -> DeviceOptions:
        """What the next device process is told: what the one before measured, too."""
        return replace(self.config.options, measured=self.ready)

    async def run(self) -> None:
        """Serves until cancelled, or until the device has failed for good."""
        try:
            while self.state != "failed":
                await self._live()
        finally:
            self._forget_streams()

    async def _live(self) -> None:
        """One life of the device, from its start to its loss."""
        try:
            self.device = await self.start_device()
            await self._warm_up(self.device)
            await self._serve(self.device)
        except (DeviceLost, OSError) as error:
            logger.error("the device process is lost: %s", error)
            await self._on_lost()
        finally:
            if self.device is not None:
                await self.device.end()
                self.device = None
        if self.state == "restarting":
            await self._pause()

    async def _warm_up(self, device: Device) -> None:
        while self.state != "failed":
            match await device.receive(self.config.load_timeout):
                case Loaded() as loaded:
                    self.loaded = loaded
                    if self.state == "starting":
                        self._enter("warming")
                case Ready() as ready:
                    self.ready = ready
                    self._warm = max(ready.chunk_seconds.values(), default=0.0)
                    self._enter("ready")
                    return
                case Unusable(reason):
                    self._fail(reason)

    async def _serve(self, device: Device) -> None:
        while self.state == "ready":
            self._wake.clear()
            if device.lost:
                raise DeviceLost("it ended")
            if self._closing:
                await self._close(device, self._closing.popleft())
            elif job := self._scheduler.next():
                self._job = job
                await self._restore(device, job)
                self._job = None
            else:
                await self._idle(device)

    async def _idle(self, device: Device) -> None:
        """Waits for something to do, and now and then uses the time to see whether all is as it must be."""
        try:
            async with asyncio.timeout(self.config.ping_every):
                await self._wake.wait()
        except TimeoutError:
            await self._examine(device)

    async def _examine(self, device: Device) -> None:
        """Asks the device whether it lives and its streams are sound. What is not is lost, and built anew."""
        try:
            self._scheduler.check_integrity()
        except AssertionError as error:
            raise DeviceLost(f"the scheduler is not sound: {error}") from error
        await device.request(Ping(), self.config.least_patience)

    async def _restore(self, device: Device, job: Job[Work]) -> None:
        started = self._now()
        plan = self._listener.begin(job, started)
        if plan.rung == "passthrough":
            return self._listener.on_skipped(job)
        reply = await self._open(device, job) if job.opening else None
        if not isinstance(reply, Refused):
            reply = await self._step(device, job, plan)
        match reply:
            case Stepped() as stepped:
                await self._hand_back(job, stepped, plan, started)
            case Refused(reason):
                self._listener.on_refused(job, reason)
            case other:
                raise DeviceLost(f"it answered a chunk with {other}")

    async def _open(self, device: Device, job: Job[Work]) -> Reply:
        work = job.work
        memory = self._memory_for(job.session_id, work.spec)
        output_bytes = frame_bytes(work.spec) * len(work.spec.panels)
        message = Open(job.session_id, work.spec, work.operator, memory.input_bytes, output_bytes)
        return await device.request(message, self.config.step_timeout, memory.fd)

    async def _step(self, device: Device, job: Job[Work], plan: Plan) -> Reply:
        frames, work = job.chunk.frames, job.work
        _, memory = self._memory[job.session_id]
        await asyncio.get_running_loop().run_in_executor(None, memory.write_input, frames)
        height, width, _ = frames[0].shape
        shape = (len(frames), height, width, 3)
        message = Step(job.session_id, shape, work.operator, plan.solver, plan.rung, plan.gap, work.masked)
        return await device.request(message, self._patience(job))

    async def _hand_back(self, job: Job[Work], stepped: Stepped, plan: Plan, started: float) -> None:
        _, memory = self._memory[job.session_id]
        pixels = await asyncio.get_running_loop().run_in_executor(None, memory.read_output, stepped.shape)
        finished = self._now()
        self._slowest = max(self._slowest, finished - started)
        self._backoff.succeed()
        self._listener.on_restored(job, Restoration(stepped, pixels, plan, started, finished))

    async def _close(self, device: Device, stream_id: str) -> None:
        entry = self._memory.pop(stream_id, None)
        if entry is not None:
            await device.request(Close(stream_id), self.config.step_timeout)
            entry[1].close()

    async def _on_lost(self) -> None:
        """The device is lost: reports that, and decides whether it gets another life."""
        job, self._job = self._job, None
        self._forget_streams()
        self._delay = self._backoff.fail()
        if self._delay is None:
            self._fail(f"it was lost {self._backoff.failures} times in a row")
        else:
            self._enter("restarting")
        self._listener.on_device_lost(job)

    async def _pause(self) -> None:
        self.restarts += 1
        logger.warning("the device process starts again in %.1f s", self._delay)
        await asyncio.sleep(self._delay or 0.0)

    def _memory_for(self, stream_id: str, spec: StreamSpec) -> FrameMemory:
        """The stream's frame memory: what it has, when that fits, or a new one."""
        entry = self._memory.get(stream_id)
        if entry is not None and entry[0] == spec:
            return entry[1]
        if entry is not None:
            entry[1].close()
        memory = FrameMemory.create(frame_bytes(spec), frame_bytes(spec) * len(spec.panels))
        self._memory[stream_id] = spec, memory
        return memory

    def _patience(self, job: Job[Work]) -> float:
        """What this chunk may take: many times the slowest so far; an opening one, all there is.

        A device whose warm-up took longer than a chunk may take at most is slow, not lost.
        """
        most = max(self.config.step_timeout, 3 * self._warm)
        if job.opening or self._slowest == 0:
            return most
        return min(most, max(self.config.least_patience, 10 * max(self._slowest, self._warm)))

    def _forget_streams(self) -> None:
        for _, memory in self._memory.values():
            memory.close()
        self._memory.clear()
        self._closing.clear()

    def _fail(self, reason: str) -> None:
        logger.error("the device cannot be used: %s", reason)
        self.reason = reason
        self._enter("failed")

    def _enter(self, state: WorkerState) -> None:
        logger.info("device %s", state)
        self.state = state
        if state in ("ready", "failed"):
            self._settled.set()
        self._listener.on_state(state)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def frame_bytes(spec: StreamSpec) -> int:
    """Bytes of the longest chunk of one panel, RGB."""
    return CHUNK_FRAMES * spec.height * spec.width * 3
