import asyncio
import errno
import time
from collections import deque

import numpy as np
import pytest

from core.chunks import Chunk
from core.contract import SolverConfig
from core.operators.super_resolution import SuperResolution
from server.device import frame_memory
from server.device.backoff import Backoff
from server.device.messages import Done, Loaded, Ready, Refused, Short, Step, StreamSpec, Unusable
from server.device.process import DeviceLost
from server.device.work import Plan, Work
from server.device.worker import Worker, WorkerConfig
from server.scheduling.scheduler import Job, Scheduler
from server.simulation.process import SimulatedProcess
from server.simulation.simulation import SimulatedDevice

SPEC = StreamSpec(64, 96, "incoming", ("degraded", "restored"))


class Listener:
    """Keeps what it hears."""

    def __init__(self):
        self.restored, self.passed, self.refused, self.lost, self.states, self.short = [], [], [], [], [], []
        self.rung = "full"

    def begin(self, job, now):
        return Plan(self.rung, job.work.solver, job.work.gap, job.deadline)

    def on_restored(self, job, restored):
        self.restored.append((job, restored))

    def on_skipped(self, job):
        self.passed.append(job)

    def on_refused(self, job, reason):
        self.refused.append((job, reason))

    def on_shortage(self, job):
        self.short.append(job)

    def on_device_lost(self, job):
        self.lost.append(job)

    def on_state(self, state):
        self.states.append(state)


class Running:
    """A worker that runs, with its listener and the devices it started."""

    def __init__(self, devices, config):
        self.listener, self.scheduler = Listener(), Scheduler()
        self.worker = Worker(config or WorkerConfig(), self.scheduler, self.listener)
        self.worker._backoff.first = 0.01
        self.started = []
        self._devices = iter(devices)
        self.worker.start_device = self.start
        for session in "ab":
            self.scheduler.add(session)

    async def start(self):
        device = next(self._devices)
        if isinstance(device, Exception):
            raise device
        if isinstance(device, SimulatedDevice):
            device = SimulatedProcess(device)
        self.started.append(device)
        return device

    async def __aenter__(self):
        self.task = asyncio.create_task(self.worker.run())
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.wait([self.task])
        assert not self.worker._memory

    async def until(self, condition, seconds=10):
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.005)

    def submit(self, session, index, level=100, gap=False, **of_frames):
        frames = [np.full((16, 24, 3), level, np.uint8)] * (9 if index == 0 else 12)
        work = Work(
            SPEC, SuperResolution(), SolverConfig(), gap, index, tuple(range(len(frames))), (), (), 0.0, **of_frames
        )
        shed = self.scheduler.submit(Job(session, Chunk(index, frames), index, work, index == 0))
        self.worker.wake()
        return shed


def running(*devices, config=None):
    return Running(devices, config)


DONE = Done()
FAST = SimulatedDevice(seconds=0.005)


async def test_chunks_come_back_restored_to_their_own_session():
    async with running(FAST) as r:
        await r.until(lambda: r.worker.state == "ready")
        for session, level in (("a", 50), ("b", 200)):
            r.submit(session, 0, level)
        await r.until(lambda: len(r.listener.restored) == 2)
        for job, restored in r.listener.restored:
            assert restored.pixels.shape == (9, 64, 192, 3)
            assert (restored.pixels == (50 if job.session_id == "a" else 200)).all()
        assert r.listener.states == ["warming", "ready"]


async def test_what_waits_before_the_device_is_ready_is_restored_when_it_is():
    r = running(FAST)
    r.submit("a", 0)
    async with r:
        await r.until(lambda: len(r.listener.restored) == 1)


async def test_a_chunk_that_may_only_pass_never_reaches_the_device():
    async with running(FAST) as r:
        r.listener.rung = "passthrough"
        r.submit("a", 1)
        await r.until(lambda: len(r.listener.passed) == 1)
        assert not r.listener.restored


async def test_a_lost_device_is_started_again_and_the_chunk_on_it_is_named():
    async with running(SimulatedDevice(seconds=0.3), FAST) as r:
        await r.until(lambda: r.worker.state == "ready")
        r.submit("a", 0)
        await r.until(lambda: r.worker._job is not None)
        r.started[0].die()
        await r.until(lambda: r.listener.states[-1] == "ready" and len(r.started) == 2)
        assert [job.session_id for job in r.listener.lost] == ["a"]
        assert r.listener.states == ["warming", "ready", "restarting", "ready"]
        assert r.worker.restarts == 1
        assert r.worker.options.measured == r.worker.ready, "the next process would measure anew"
        r.submit("b", 0)
        await r.until(lambda: r.listener.restored)


async def test_a_device_lost_while_idle_is_started_again():
    async with running(FAST, FAST) as r:
        await r.until(lambda: r.worker.state == "ready")
        r.started[0].die()
        r.worker._wake.set()
        await r.until(lambda: len(r.started) == 2 and r.worker.state == "ready")
        assert r.listener.lost == [None]


async def test_a_device_that_never_restores_is_given_up_after_its_chances():
    config = WorkerConfig(max_restarts=2)
    async with running(*[OSError("no process")] * 3, config=config) as r:
        await r.until(lambda: r.worker.state == "failed")
        assert r.worker.restarts == 2
        assert r.worker.reason == "it was lost 3 times in a row: no process"
        await r.worker.settled()


async def test_a_device_that_failed_serves_again_when_the_cause_is_gone():
    """`failed` was final: six bad starts, and the server passed everything through until somebody restarted it."""
    config = WorkerConfig(max_restarts=1)
    async with running(*[OSError("no driver")] * 4, FAST, FAST, config=config) as r:
        r.worker._backoff.most = 0.005
        await r.until(lambda: r.worker.state == "failed")
        await r.until(lambda: r.worker.state == "ready")
        assert r.listener.states == ["restarting", "failed", "ready"]
        assert r.worker.reason is None and not r.listener.lost
        r.submit("a", 0)
        await r.until(lambda: r.listener.restored)


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "too many open files"), RuntimeError("can't start new thread")]
)
async def test_a_device_that_cannot_start_for_want_of_ours_loses_no_chance(error):
    async with running(*[error] * 4, FAST, config=WorkerConfig(max_restarts=1)) as r:
        r.worker._scarcity.first = 0.005
        await r.until(lambda: r.worker.shortages)
        assert r.worker.reason == f"the server lacks memory or descriptors: {error}"
        await r.until(lambda: r.worker.state == "ready")
        assert r.listener.states == ["warming", "ready"]
        assert (r.worker.reason, r.worker._backoff.failures) == (None, 0)


async def test_descriptors_that_are_missing_for_a_chunk_are_no_loss_of_the_device(monkeypatch):
    """EMFILE on a new stream's memory was taken for a lost device: six of them, and nobody was served any more."""
    async with running(FAST) as r:
        r.submit("b", 0)
        await r.until(lambda: r.listener.restored)
        with monkeypatch.context() as patch:
            patch.setattr(frame_memory, "anonymous_file", fails_with(OSError(errno.EMFILE, "too many open files")))
            r.submit("a", 0)
            await r.until(lambda: r.listener.short)
        r.submit("b", 1)
        r.submit("a", 0)
        await r.until(lambda: len(r.listener.restored) == 3)
        assert [job.session_id for job in r.listener.short] == ["a"]
        assert r.worker.shortages == 1 and len(r.started) == 1 and not r.listener.lost


def fails_with(error):
    def fail(*_):
        raise error

    return fail


async def test_a_device_that_lacks_memory_for_a_chunk_costs_that_stream_alone():
    greetings = [Loaded("m", "cpu", SolverConfig()), Ready({}, {})]
    async with running(Scripted(greetings, Short("no memory"))) as r:
        r.submit("a", 0)
        await r.until(lambda: r.listener.short)
        assert r.worker.state == "ready" and not r.listener.lost and not r.listener.refused


async def test_a_fault_of_ours_at_one_chunk_ends_its_session_and_no_other():
    """An exception while a chunk was planned ended the worker's task, and with it every stream."""
    async with running(FAST) as r:
        begin = r.listener.begin
        r.listener.begin = fails_with(OverflowError("too large"))
        r.submit("a", 0)
        await r.until(lambda: r.listener.refused)
        r.listener.begin = begin
        r.submit("b", 0)
        await r.until(lambda: r.listener.restored)
        ((job, reason),) = r.listener.refused
        assert job.session_id == "a" and "OverflowError" in reason
        assert len(r.started) == 1 and not r.listener.lost


class Noting(SimulatedProcess):
    """Keeps what it is asked."""

    async def request(self, request, patience, descriptor=None):
        self.asked = [*getattr(self, "asked", []), request]
        return await super().request(request, patience, descriptor)


async def test_the_device_is_told_of_gaps_and_of_the_frames_that_are_masked():
    async with running(Noting(FAST)) as r:
        await r.until(lambda: r.worker.state == "ready")
        r.submit("a", 0)
        r.submit("a", 1, gap=True, lost=(2, 3, 4), masked=(2, 3))
        await r.until(lambda: len(r.listener.restored) == 2)
        steps = [request for request in r.started[0].asked if isinstance(request, Step)]
        assert [(step.gap, step.lost) for step in steps] == [(False, ()), (True, (2, 3))]


class Hanging(SimulatedProcess):
    """A device that takes a chunk and is not heard of again."""

    async def request(self, request, patience, descriptor=None):
        await asyncio.sleep(patience)
        raise DeviceLost("it did not answer")


async def test_a_device_that_hangs_is_lost_after_the_patience_of_a_step():
    config = WorkerConfig(step_timeout=0.2)
    r = running(None, FAST, config=config)
    r._devices = iter([Hanging(FAST), FAST])
    async with r:
        await r.until(lambda: r.worker.state == "ready")
        r.submit("a", 0)
        start = time.monotonic()
        await r.until(lambda: r.listener.lost and r.worker.state == "ready")
        assert time.monotonic() - start < 5


class Scripted:
    """A device that says what it is told to."""

    lost = False

    def __init__(self, greetings, reply=DONE):
        self.greetings, self.reply, self.ended = list(greetings), reply, False

    async def receive(self, patience):
        return self.greetings.pop(0)

    async def request(self, request, patience, descriptor=None):
        return self.reply

    async def end(self):
        self.ended = True


async def test_a_device_that_cannot_be_used_says_why_and_is_tried_again_only_now_and_then():
    async with running(Scripted([Unusable("its weights are missing")]), FAST) as r:
        await r.until(lambda: r.worker.state == "failed")
        assert r.worker.reason == "its weights are missing"
        await r.until(lambda: r.started[0].ended)
        assert r.worker._delay >= 10


async def test_a_refused_chunk_is_its_sessions_fault_alone():
    greetings = [Loaded("m", "cpu", SolverConfig()), Ready({}, {})]
    async with running(Scripted(greetings, Refused("not finite"))) as r:
        r.submit("a", 0)
        await r.until(lambda: r.listener.refused)
        assert [(job.session_id, reason) for job, reason in r.listener.refused] == [("a", "not finite")]
        assert r.worker.state == "ready"
        assert not r.listener.lost


async def test_a_closed_session_gives_its_memory_back():
    async with running(FAST) as r:
        r.submit("a", 0)
        await r.until(lambda: r.listener.restored)
        assert set(r.worker._memory) == {"a"}
        r.worker.close("a")
        r.worker.close("never opened")
        await r.until(lambda: not r.worker._memory)


async def test_the_worker_ends_its_device_when_it_is_cancelled_in_a_chunk():
    async with running(SimulatedDevice(seconds=30)) as r:
        await r.until(lambda: r.worker.state == "ready")
        r.submit("a", 0)
        await r.until(lambda: r.worker._job is not None)
    assert r.started[0].lost


async def test_an_idle_worker_finds_what_is_not_sound_and_builds_it_anew():
    async with running(FAST, FAST, config=WorkerConfig(ping_every=0.02)) as r:
        await r.until(lambda: r.worker.state == "ready")
        await asyncio.sleep(0.1)
        assert len(r.started) == 1, "a sound worker was taken for a broken one"
        r.scheduler._lanes["a"].queue = BrokenQueue()
        await r.until(lambda: r.listener.lost)
        r.scheduler._lanes["a"].queue = deque()
        await r.until(lambda: len(r.started) == 2 and r.worker.state == "ready")


class BrokenQueue(deque):
    """Says that it is empty, and holds a job of somebody else."""

    def __bool__(self):
        return False

    def __iter__(self):
        return iter([Job("b", Chunk(0, []), 0.0, None)])


def test_backoff_grows_to_a_bound_and_starts_anew_after_a_success():
    backoff = Backoff(limit=3, first=1, factor=10, most=50, rarest=300)
    assert [(backoff.fail(), backoff.given_up) for _ in range(3)] == [(1, False), (10, False), (50, False)]
    assert [(backoff.fail(), backoff.given_up) for _ in range(4)] == [(s, True) for s in (100, 200, 300, 300)]
    backoff.succeed()
    assert backoff.fail() == 1 and not backoff.given_up
    backoff.give_up()
    assert backoff.fail() == 100 and backoff.given_up
    backoff.failures = 10**6
    assert backoff.fail() == 300


@pytest.mark.parametrize("slowest, patience", [(0.0, 30.0), (0.1, 5.0), (1.0, 10.0), (9.0, 30.0)])
async def test_patience_follows_the_pace_that_the_device_has_shown(slowest, patience):
    worker = Worker(WorkerConfig(), Scheduler(), Listener())
    worker._slowest = slowest
    assert worker._patience(Job("a", Chunk(1, []), 0, None)) == patience


@pytest.mark.parametrize("warm, slowest, patience", [(0.6, 0.02, 6.0), (4.0, 0.02, 30.0), (40.0, 0.02, 120.0)])
async def test_a_device_that_was_slow_at_warm_up_is_not_taken_for_lost(warm, slowest, patience):
    """A large model on a CPU: quick on x_init, and killed for the time of its first full chunk."""
    ready = Ready({(96, 64): warm}, {(96, 64): 0}, 0, {(96, 64): slowest})
    async with running(Scripted([Loaded("m", "cpu", SolverConfig()), ready])) as r:
        await r.until(lambda: r.worker.state == "ready")
        r.worker._slowest = slowest
        assert r.worker._patience(Job("a", Chunk(1, []), 0, None)) == patience
