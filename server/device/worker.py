"""The task that owns a device: starts its process, feeds it jobs, and starts it again when it dies."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

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
    Short,
    Step,
    Stepped,
    StreamSpec,
    Unusable,
)
from server.device.process import DeviceLost, DeviceProcess
from server.device.shortage import is_shortage
from server.device.work import Plan, RestoredChunk, Work
from server.logs import Sparing, public
from server.scheduling.scheduler import Job, Scheduler

logger = logging.getLogger(__name__)

WorkerState = Literal["starting", "warming", "ready", "restarting", "failed"]

BREATH = 0.1
"""seconds that the worker waits when memory or descriptors are missing, before it tries the next thing"""
LOG_EVERY = 10.0
"""seconds between log lines about that"""


class Listener(Protocol):
    """Who plans the jobs, and hears what became of them. Called on the event loop; must not block."""

    def begin(self, job: Job[Work], now: float) -> Plan:
        """Plans a job that is about to start."""
        ...

    def on_restored(self, job: Job[Work], restored: RestoredChunk) -> None: ...

    def on_skipped(self, job: Job[Work]) -> None:
        """The chunk is not restored, as its plan said: its frames pass as they are."""
        ...

    def on_refused(self, job: Job[Work], reason: str) -> None:
        """The chunk failed by its session's own fault."""
        ...

    def on_shortage(self, job: Job[Work]) -> None:
        """Memory or descriptors were missing for the chunk, which passes as it is. Its stream is gone, no other is."""
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


class Unfit(DeviceLost):
    """The device says that it cannot serve, and why."""


class Worker:
    """Drives one device while the server lives: jobs come from the scheduler, results go to the listener.

    It has more than 25 methods because each step of the device's life is one: start, warm up, serve, lose, pause.
    """

    def __init__(self, config: WorkerConfig, scheduler: Scheduler[Work], listener: Listener):
        self.config = config
        self.state: WorkerState = "starting"
        self.reason: str | None = None
        """what keeps the device from being ready"""
        self.shortages = 0
        """times that memory or descriptors were missing for what was to be done"""
        self.loaded: Loaded | None = None
        self.ready: Ready | None = None
        self.restarts = 0
        self.device: Device | None = None
        self._scheduler = scheduler
        self._listener = listener
        self._backoff = Backoff(config.max_restarts)
        self._scarcity = Backoff(sys.maxsize)
        """of starts that fail for want of something of ours, which cost the device no chance"""
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._closing: deque[str] = deque()
        self._memory: dict[str, tuple[StreamSpec, FrameMemory]] = {}
        self._job: Job[Work] | None = None
        self._slowest = 0.0
        """seconds of the slowest chunk so far"""
        self._warm = 0.0
        """seconds of the slowest full chunk at warm-up: chunks on a low rung tell nothing of it"""
        self._delay = 0.0
        """seconds until the device starts again"""
        self._log = Sparing(LOG_EVERY)

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
        """Serves until cancelled. A device that failed is tried again, ever more seldom: the cause may be gone."""
        try:
            while True:
                await self._live()
                await asyncio.sleep(self._delay)
                self.restarts += 1
        finally:
            self._forget_streams()

    async def _live(self) -> None:
        """One life of the device, from its start to its loss."""
        try:
            self.device = await self.start_device()
            await self._warm_up(self.device)
            await self._serve(self.device)
        except (DeviceLost, OSError, MemoryError, RuntimeError) as error:
            self._on_end(error)
        finally:
            if self.device is not None:
                await self.device.end()
                self.device = None

    async def _warm_up(self, device: Device) -> None:
        while True:
            match await device.receive(self.config.load_timeout):
                case Loaded() as loaded:
                    self.loaded = loaded
                    if self.state == "starting":
                        self._enter("warming")
                case Ready() as ready:
                    self.ready, self.reason = ready, None
                    self._scarcity.succeed()
                    self._warm = max(ready.chunk_seconds.values(), default=0.0)
                    return self._enter("ready")
                case Unusable(reason):
                    raise Unfit(reason)

    async def _serve(self, device: Device) -> None:
        while True:
            self._wake.clear()
            if device.lost:
                raise DeviceLost("it ended")
            try:
                await self._do_next(device)
            except DeviceLost:
                raise
            except Exception as error:
                await self._on_fault(error)
            self._job = None

    async def _do_next(self, device: Device) -> None:
        if self._closing:
            await self._close(device, self._closing[0])
            self._closing.popleft()
        elif job := self._scheduler.next():
            self._job = job
            await self._restore(device, job)
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
        if not isinstance(reply, Refused | Short):
            reply = await self._step(device, job, plan)
        match reply:
            case Stepped() as stepped:
                await self._hand_back(job, stepped, plan, started)
            case Refused(reason):
                self._listener.on_refused(job, reason)
            case Short(reason):
                self._on_shortage(reason)
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
        self._listener.on_restored(job, RestoredChunk(stepped, pixels, plan, started, finished))

    async def _close(self, device: Device, stream_id: str) -> None:
        if stream_id in self._memory:
            await device.request(Close(stream_id), self.config.step_timeout)
            self._memory.pop(stream_id)[1].close()

    def _on_end(self, error: Exception) -> None:
        """The device ended, or did not start: decides what that means, and when the next one starts."""
        if is_shortage(error) and self.state != "ready":
            self.shortages += 1
            self.reason, self._delay = f"the server lacks memory or descriptors: {error}", self._scarcity.fail()
            logger.error("the device process cannot start, and is tried again in %.1f s: %s", self._delay, error)
            return
        if not isinstance(error, DeviceLost | OSError):
            raise error
        if isinstance(error, Unfit):
            self._backoff.give_up()
        self._delay = self._backoff.fail()
        logger.error("the device process is lost, and starts again in %.1f s: %s", self._delay, error)
        self._on_lost(error)

    def _on_lost(self, error: Exception) -> None:
        """Every stream is gone. A device that has had its chances counts as failed until it is ready again."""
        lived, job, self._job = self.state == "ready", self._job, None
        self._forget_streams()
        if self._backoff.given_up:
            times = f"it was lost {self._backoff.failures} times in a row: {error}"
            self.reason = str(error) if isinstance(error, Unfit) else times
        if self.state != "failed":
            self._enter("failed" if self._backoff.given_up else "restarting")
        if lived:
            self._listener.on_device_lost(job)

    async def _on_fault(self, error: Exception) -> None:
        """The server failed at a chunk, or lacks something for it: no fault of the device, nor of other sessions."""
        if is_shortage(error):
            self._on_shortage(str(error))
            await asyncio.sleep(BREATH)
        elif self._job is not None:
            logger.error("a chunk of session %s failed", public(self._job.session_id), exc_info=error)
            self._listener.on_refused(self._job, f"an internal error: {error!r}")
        else:
            raise error

    def _on_shortage(self, reason: str) -> None:
        """What was to be done could not be: for want of something that is not the device's to give."""
        self.shortages += 1
        left_out = self._log.due("shortage", self._now())
        if left_out is not None:
            logger.error("memory or descriptors are missing: %s (%d more of these before)", reason, left_out)
        job, self._job = self._job, None
        if job is not None:
            self._listener.on_shortage(job)

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
    return spec.chunks.most_frames * spec.height * spec.width * 3
