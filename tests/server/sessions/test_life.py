"""The life of sessions in any order: offered, connected, changed, resumed, lost, ended, with a device that dies.

Real sessions, connections and policies, a simulated device. After each step the books agree, and at the end nothing
is left: no place, task, descriptor or frame memory.
"""

import asyncio
import gc
import os
from fractions import Fraction
from functools import cache

import pytest
import uvloop
from aiortc import RTCConfiguration, RTCPeerConnection, VideoStreamTrack
from av import VideoFrame
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from core.operators.config import GaussianBlurConfig, InpaintingConfig, SuperResolutionConfig
from server.quotas import Quota
from server.refusals import Asks, Refusal
from server.sessions.config import SessionConfig
from server.sessions.negotiation import sdp_limits
from server.sessions.sessions import Sessions
from server.settings import read_settings
from server.simulation.process import SimulatedProcess
from server.simulation.simulation import SimulatedDevice
from server.webrtc.offer import parse_offer

SETTINGS = read_settings(max_sessions=3, admission="places", queue_most=2, max_restarts=1000)
ADDRESSES = ("192.0.2.1", "192.0.2.2")
EXPECTED = {"full", "too_many_sessions", "too_many_changes", "too_many_offers", "replaced", "warming"}
"""codes of refusals that a client may get here"""


async def offered():
    """The SDP of a browser that sends a picture."""
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTrack(VideoStreamTrack())
    await pc.setLocalDescription(await pc.createOffer())
    sdp = pc.localDescription.sdp
    await pc.close()
    return sdp


@cache
def sdp():
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as once:
        return once.run(offered())


OPERATORS = (SuperResolutionConfig, InpaintingConfig, GaussianBlurConfig)


class Life(RuleBasedStateMachine):
    """Clients that do anything at any time. `self.open` are the sessions that ought to be open, the oldest first."""

    @initialize()
    def begin(self):
        sdp()
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.open, self.devices = [], []
        self.runner.run(self.start())

    async def start(self):
        self.before = await self.left()
        self.sessions = Sessions(SETTINGS)
        worker = self.sessions.worker
        worker._backoff.first = worker._backoff.most = 0.001

        async def start_device():
            self.devices.append(SimulatedProcess(SimulatedDevice(seconds=0.002)))
            return self.devices[-1]

        worker.start_device = start_device
        self.task = asyncio.create_task(self.sessions.run())
        await self.until(lambda: worker.state == "ready")

    @staticmethod
    async def left():
        """Descriptors and tasks that there are."""
        gc.collect()
        return len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())

    @staticmethod
    async def until(condition):
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.002)

    def do(self, step):
        """Runs one step; the code of its refusal, if it was refused."""

        async def refused():
            try:
                await step
            except Refusal as refusal:
                assert refusal.code in EXPECTED, refusal
                return refusal.code
            finally:
                await asyncio.sleep(0.005)
            return None

        return self.runner.run(refused())

    def session(self, which):
        return self.sessions.get(self.open[which % len(self.open)])

    some = precondition(lambda self: self.open)

    @rule(address=st.sampled_from(ADDRESSES), size=st.sampled_from([None, (96, 64)]), queue=st.booleans())
    def offer(self, address, size, queue):
        asks = Asks(queue, None, address, (Quota(f"address {address}", sessions=2),))
        config = SessionConfig(size=size, mode="simulate")

        async def open_one():
            opened = await self.sessions.open(parse_offer(sdp(), sdp_limits(SETTINGS)), config, asks=asks)
            self.open.append(opened.session.id)

        code = self.do(open_one())
        assert (code is None) or len(self.open) == 3 or code in ("too_many_sessions", "warming", "full")

    @some
    @rule(which=st.integers(0, 2), frames=st.sampled_from([1, 9, 21]))
    def connect_and_send(self, which, frames):
        session = self.session(which)

        async def send():
            session.on_connection(session.pc, "connected")
            for number in range(frames):
                picture = VideoFrame(96, 64, "yuv420p")
                picture.pts, picture.time_base = number * 5625, Fraction(1, 90000)
                session._take(picture, asyncio.get_running_loop().time())
            await asyncio.sleep(0.02)

        self.do(send())

    @some
    @rule(which=st.integers(0, 2), operator=st.sampled_from(OPERATORS))
    def change(self, which, operator):
        session = self.session(which)
        self.do(self.sessions.change(session.id, session.wanted.model_copy(update={"operator": operator()})))

    @some
    @rule(which=st.integers(0, 2), attempts=st.integers(1, 3))
    def resume(self, which, attempts):
        session = self.session(which)

        async def dial():
            offer = parse_offer(sdp(), sdp_limits(SETTINGS))
            dials = [self.sessions.resume(session.id, offer) for _ in range(attempts)]
            results = await asyncio.gather(*dials, return_exceptions=True)
            faults = [result for result in results if isinstance(result, Exception)]
            assert {fault.code for fault in faults if isinstance(fault, Refusal)} <= EXPECTED, faults
            assert all(isinstance(fault, Refusal) for fault in faults), faults
            assert len(results) - len(faults) <= 1, "two attempts at once both took the connection's place"

        self.do(dial())

    @some
    @rule(which=st.integers(0, 2), failed=st.booleans())
    def end(self, which, failed):
        session = self.session(which)

        async def leave():
            if failed:
                session.on_connection(session.pc, "failed")
            else:
                self.sessions.end(session.id, "the client ended it", "client")

        self.do(leave())
        self.open.remove(session.id)

    @rule()
    def lose_the_device(self):
        async def die():
            self.devices[-1].die()
            self.sessions.worker.wake()
            count = len(self.devices)
            await self.until(lambda: len(self.devices) > count and self.sessions.worker.state == "ready")

        self.do(die())

    @invariant()
    def the_books_agree(self):
        if not hasattr(self, "sessions"):
            return
        ended_by_the_device = set(self.open) - {session.id for session in self.sessions}
        assert not ended_by_the_device or len(self.devices) > 2, "a session ended by itself"
        self.open = [one for one in self.open if one not in ended_by_the_device]
        assert [session.id for session in self.sessions] == self.open
        assert self.sessions.quotas.ids == set(self.open)
        assert self.sessions.line.waiting(0.0) <= 2
        self.sessions.check_integrity()

    def teardown(self):
        if not hasattr(self, "sessions"):
            return
        try:
            self.runner.run(self.finish())
        finally:
            self.runner.close()

    async def finish(self):
        for session_id in list(self.open):
            self.sessions.end(session_id, "the test is over", "client")
        await self.until(lambda: not self.sessions._tasks and not self.sessions.worker._memory)
        self.sessions.check_integrity()
        assert not len(self.sessions) and not self.sessions.quotas.ids and not self.sessions._paces
        assert not self.sessions.devices.waiting()
        self.task.cancel()
        await asyncio.wait([self.task])
        await self.sessions.close()
        for _ in range(200):
            after = await self.left()
            if after[0] <= self.before[0] and after[1] <= self.before[1]:
                return
            await asyncio.sleep(0.02)
        pytest.fail(f"descriptors and tasks: {self.before} before, {after} after")


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=5, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
