"""A device process without a process and a model, for tests of what drives it."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import suppress

import numpy as np

from core.contract import Pixels, SolverConfig
from server.device.frame_memory import FrameMemory
from server.device.messages import (
    Close,
    Done,
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
)
from server.device.process import DeviceLost
from server.scheduling.costs import ON_CALENDAR
from server.scheduling.scheduler import is_due
from server.simulation.simulation import SimulatedDevice


class SimulatedProcess:
    """A device process that takes its time and gives frames back as they came, enlarged to the restored size.

    What server.device.worker.Worker drives, without a process and without a model; a death ends it as a kill would.
    """

    def __init__(self, behaviour: SimulatedDevice, seed: int = 0):
        self._behaviour = behaviour
        self._random = random.Random(seed)
        self._began = asyncio.get_running_loop().time()
        self._greetings: list[Reply] = [Loaded("simulated", "simulated", SolverConfig(num_steps=2)), Ready({}, {})]
        self._streams: dict[str, tuple[StreamSpec, FrameMemory, int]] = {}
        """what was opened, where its frames lie, and how many chunks it had"""
        self._dead = asyncio.Event()

    pid: int | None = None
    """it has no process"""

    @property
    def lost(self) -> bool:
        return self._dead.is_set() or self._left() <= 0

    def die(self) -> None:
        """Ends at once, with whatever it works on."""
        self._dead.set()

    async def receive(self, patience: float) -> Reply:
        if self.lost or not self._greetings:
            raise DeviceLost("it ended")
        return self._greetings.pop(0)

    async def request(self, request: Request, patience: float, descriptor: int | None = None) -> Reply:
        if isinstance(request, Step) and request.stream_id in self._streams:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._dead.wait(), min(self._cost(request), self._left()))
        if self.lost:
            raise DeviceLost("it ended")
        match request:
            case Open():
                return self._open(request, descriptor)
            case Step():
                return self._step(request)
            case Close(stream_id):
                self._close(stream_id)
                return Done()
            case Ping():
                return Done()

    async def end(self) -> None:
        self.die()
        for stream_id in list(self._streams):
            self._close(stream_id)

    def _left(self) -> float:
        """Seconds until it dies."""
        return min(self._behaviour.deaths, default=float("inf")) - self._age()

    def _age(self) -> float:
        return asyncio.get_running_loop().time() - self._began

    def _cost(self, request: Step) -> float:
        return self._behaviour.cost(self._age(), request.rung, self._guided(request), self._random)

    def _guided(self, request: Step) -> bool:
        chunks = self._streams[request.stream_id][2]
        return chunks == 0 or (request.rung in ON_CALENDAR and is_due(chunks, request.solver.reinject_every, 0))

    def _open(self, request: Open, descriptor: int | None) -> Reply:
        if descriptor is None:
            return Refused("an Open comes with a descriptor, found none")
        self._close(request.stream_id)
        memory = FrameMemory(os.dup(descriptor), request.input_bytes, request.output_bytes)
        self._streams[request.stream_id] = request.spec, memory, 0
        return Done()

    def _step(self, request: Step) -> Reply:
        if request.stream_id not in self._streams:
            return Refused(f"stream {request.stream_id} is not open")
        spec, memory, chunks = self._streams[request.stream_id]
        guided = self._guided(request)
        frames = enlarge(memory.read_input(request.shape), spec.height, spec.width)
        panels = np.concatenate([frames] * len(spec.panels), axis=2)
        memory.write_output(panels)
        self._streams[request.stream_id] = spec, memory, chunks + 1
        count, height, width, _ = panels.shape
        return Stepped((count, height, width, 3), guided, 0.0, None, None, {"total": 1000 * self._behaviour.seconds})

    def _close(self, stream_id: str) -> None:
        entry = self._streams.pop(stream_id, None)
        if entry is not None:
            entry[1].close()


def enlarge(frames: Pixels, height: int, width: int) -> Pixels:
    """Frames [T, h, w, 3] to [T, height, width, 3] by the nearest pixel."""
    rows = np.arange(height) * frames.shape[1] // height
    columns = np.arange(width) * frames.shape[2] // width
    return frames[:, rows[:, None], columns]
