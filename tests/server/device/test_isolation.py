"""Sessions that share a device, from frames handed in to frames handed back: each as if it were alone."""

import asyncio
import random

import numpy as np
import pytest
import pytest_asyncio

from core.chunks import Chunk
from core.contract import SolverConfig
from core.operators.averages import TemporalAverage
from core.operators.blur import GaussianBlur
from core.operators.masks import Inpainting
from core.operators.super_resolution import SuperResolution
from server.device.messages import DeviceOptions, StreamSpec
from server.device.work import Plan, Work
from server.device.worker import Worker, WorkerConfig
from server.scheduling.scheduler import Job, Scheduler

HEIGHT, WIDTH, CHUNKS, MOST = 64, 96, 4, 8

pytestmark = [pytest.mark.asyncio(loop_scope="module")]


class Clip:
    """What one session sends: its own pictures, operator, mode, settings and seed."""

    def __init__(self, number):
        rng = np.random.default_rng(number)
        operators = (SuperResolution(), Inpainting(), GaussianBlur(sigma=2.0), TemporalAverage())
        self.operator = operators[number % len(operators)]
        self.spec = StreamSpec(HEIGHT, WIDTH, "incoming" if number % 3 == 2 else "simulate", seed=number)
        self.rungs = [*rng.choice(["full", "no_reinjection", "x_init"], CHUNKS - 2), "full", "full"]
        self.solver = SolverConfig(num_steps=1 + number % 2, reinject_every=2, reinject_phase=number % 2)
        size = (HEIGHT, WIDTH)
        if self.spec.mode == "incoming":
            size = self.operator.measurement_size(HEIGHT, WIDTH)
        base = rng.integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3), np.uint8)
        picture = base.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]]
        self.frames = [np.roll(picture, shift, 1) for shift in range(9 + 12 * (CHUNKS - 1))]

    def chunk(self, index):
        start = 9 + 12 * (index - 1) if index else 0
        return Chunk(index, self.frames[start : start + (12 if index else 9)])


class Streams:
    """Hears the worker, and hands each session its next chunk when it has one back."""

    def __init__(self):
        self.scheduler = Scheduler()
        options = DeviceOptions(model="tiny", device="cpu", threads=1, warm_sizes=((WIDTH, HEIGHT),), log_level="error")
        self.worker = Worker(WorkerConfig(options), self.scheduler, self)
        self.order = random.Random(0)
        self.clips, self.pixels, self.faults, self.served = {}, {}, [], []
        self.all_back = asyncio.Event()

    async def restore(self, clips):
        """Every frame that each of the clips gets back when they run beside each other, bytes by clip."""
        self.clips, self.pixels, self.served = dict(clips), {name: [] for name in clips}, []
        self.all_back.clear()
        for name in self.clips:
            self.scheduler.add(name)
            self.submit(name, 0)
        async with asyncio.timeout(60):
            await self.all_back.wait()
        self.scheduler.check_integrity()
        for name in self.clips:
            assert self.scheduler.remove(name) == []
            self.worker.close(name)
        assert not self.faults
        return {name: b"".join(chunk.tobytes() for chunk in chunks) for name, chunks in self.pixels.items()}

    def submit(self, name, index):
        clip = self.clips[name]
        work = Work(clip.spec, clip.operator, clip.solver, False, index, (), (), (), 0.0)
        deadline = index + self.order.random()  # so that the device takes them in no order of its own
        assert self.scheduler.submit(Job(name, clip.chunk(index), deadline, work, index == 0)) == []
        self.worker.wake()

    def begin(self, job, now):
        self.served.append(job.session_id)
        rung = self.clips[job.session_id].rungs[job.chunk.index]
        return Plan(rung, job.work.solver, job.work.gap, job.deadline)

    def on_restored(self, job, restoration):
        done = self.pixels[job.session_id]
        done.append(restoration.pixels)
        if len(done) < CHUNKS:
            self.submit(job.session_id, len(done))
        elif all(len(chunks) == CHUNKS for chunks in self.pixels.values()):
            self.all_back.set()

    def on_skipped(self, job):
        self.faults.append((job.session_id, "it passed"))

    def on_refused(self, job, reason):
        self.faults.append((job.session_id, reason))
        self.all_back.set()

    def on_device_lost(self, job):
        self.faults.append("the device was lost")
        self.all_back.set()

    def on_state(self, state): ...


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def streams():
    streams = Streams()
    task = asyncio.create_task(streams.worker.run())
    async with asyncio.timeout(90):
        await streams.worker.settled()
    assert streams.worker.state == "ready", streams.worker.reason
    yield streams
    task.cancel()
    await asyncio.wait([task])


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def alone(streams):
    """What each session gets when it has the device to itself."""
    return {number: (await streams.restore({f"{number}": Clip(number)}))[f"{number}"] for number in range(MOST)}


@pytest.mark.parametrize("sessions", [2, MOST])
async def test_each_session_gets_every_bit_that_it_would_get_alone(streams, alone, sessions):
    together = await streams.restore({f"{number}": Clip(number) for number in range(sessions)})
    for number in range(sessions):
        assert together[f"{number}"] == alone[number], f"session {number} was not alone"
    turns = sum(a != b for a, b in zip(streams.served, streams.served[1:], strict=False))
    assert turns >= sessions, "the sessions did not take turns: they were as good as alone"


async def test_the_sessions_that_are_compared_are_not_alike(alone):
    """The test above can fail: another session's frames, state or noise would show."""
    assert len(set(alone.values())) == MOST


async def test_the_noise_and_the_past_of_a_session_are_in_every_bit(streams, alone):
    """It can fail by less than a whole picture, too: by another seed, and by what the chunk before left behind."""
    other_seed, other_past = Clip(1), Clip(1)
    other_seed.spec = StreamSpec(HEIGHT, WIDTH, other_seed.spec.mode, seed=99)
    before = slice(-24, -12)
    other_past.frames[before] = [255 - frame for frame in other_past.frames[before]]
    changed = await streams.restore({"seed": other_seed, "past": other_past})
    last = 12 * HEIGHT * WIDTH * 3
    assert changed["seed"] != alone[1]
    assert changed["past"][-last:] != alone[1][-last:]
