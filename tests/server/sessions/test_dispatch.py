"""What brings chunks to the device and back, with the real policies and no device."""

from dataclasses import replace

import pytest

from core.chunks import Chunk
from core.contract import SolverConfig
from core.models.table import MODELS
from server.device.messages import Loaded, Ready, Stepped, StreamSpec
from server.device.work import Plan, RestoredChunk, Work
from server.scheduling.scheduler import Job
from server.sessions.config import SessionConfig
from server.sessions.dispatch import Dispatch
from server.sessions.outlet import ReportChannel
from server.sessions.telemetry import SessionFigures
from server.settings import read_settings


class Session:
    """Keeps what becomes of its chunks."""

    def __init__(self, session_id):
        self.id, self.rung, self.figures = session_id, "full", SessionFigures()
        self.channel = ReportChannel(self.figures)
        self.restored, self.passed, self.starts = [], [], 0

    def deliver(self, job, restored):
        self.restored.append(job)

    def pass_through(self, job):
        self.passed.append(job)

    def start_over(self, jobs):
        self.starts += 1
        self.passed += jobs

    def show_rung(self, rung):
        self.rung = rung


@pytest.fixture
async def dispatch():
    ended = []
    dispatch = Dispatch(read_settings(backlog=2), lambda *end: ended.append(end))
    dispatch.ended = ended
    dispatch.worker.loaded = Loaded("tiny", "cpu", SolverConfig(num_steps=1))
    dispatch.worker.ready = Ready({(416, 240): 0.1}, {(416, 240): 10})
    dispatch.worker._enter("ready")
    return dispatch


def enter(dispatch, session_id, **config):
    session = Session(session_id)
    dispatch.reserve(session_id, SessionConfig(**config), 0.0)
    dispatch.attach(session)
    return session


def job(session, index, opening=None, deadline=None):
    work = Work(None, None, SolverConfig(), False, index, (index,), (0.0,), (0.0,), 0.0)
    deadline = 10.0 + 0.75 * index if deadline is None else deadline
    return Job(session.id, Chunk(index, []), deadline, work, index == 0 if opening is None else opening)


def restored(rung="full", deadline=10.0):
    stepped = Stepped((0, 0, 0, 3), False, 0.1, None, None, {"total": 100.0})
    return RestoredChunk(stepped, None, Plan(rung, SolverConfig(), False, deadline), 1.0, 1.1)


async def test_a_chunk_goes_to_the_device_and_back_to_its_session(dispatch):
    a, b = enter(dispatch, "a"), enter(dispatch, "b")
    dispatch.queue(a, job(a, 0))
    dispatch.queue(b, job(b, 0))
    first = dispatch.scheduler.next()
    assert dispatch.begin(first, 0.0).rung == "full"
    dispatch.on_restored(first, restored())
    assert (a.restored, b.restored) == ([first], [])
    dispatch.check_integrity({"a", "b"})


async def test_a_session_of_low_latency_has_short_chunks_at_their_own_cost_and_half_the_budget(dispatch):
    dispatch.worker.ready = Ready({(416, 240): 0.3}, {(416, 240): 10}, low_latency_seconds={(416, 240): 0.12})
    dispatch.on_state("ready")
    enter(dispatch, "low", latency="low")
    enter(dispatch, "usual")
    low, usual = (dispatch._accounts[name].workload for name in ("low", "usual"))
    assert (low.frames, low.period, low.budget) == (4, 0.25, usual.budget / 2)
    assert dispatch.admission.costs.cost(0.0, low) == pytest.approx(0.12)
    assert dispatch.admission.costs.cost(0.0, usual) == pytest.approx(0.3)


async def test_each_model_has_its_own_calendar_and_a_server_may_have_another(monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", replace(MODELS["tiny"], reinject_every=3))

    def guided_every(**settings):
        return Dispatch(read_settings(**settings), print).solver.reinject_every

    assert (guided_every(), guided_every(model="wan2.1-1.3b")) == (3, 7)
    assert guided_every(solver={"reinject_every": 0}) == 0


async def test_what_a_guided_chunk_costs_is_known_from_warm_up(dispatch):
    """Where every chunk is guided no other is ever measured, and the costs would never be learned."""
    size, short = (
        (416, 240),
        {"low_latency_seconds": {(416, 240): 0.12}, "low_latency_guided_seconds": {(416, 240): 0.15}},
    )
    dispatch.worker.ready = Ready({size: 0.3}, {size: 10}, guided_seconds={size: 0.36}, **short)
    dispatch.on_state("ready")
    for name, latency, seconds in (("a", "normal", 0.36), ("b", "low", 0.15)):
        enter(dispatch, name, latency=latency)
        workload = dispatch._accounts[name].workload
        assert dispatch.admission.costs.cost(0.0, workload, "full", True) == pytest.approx(seconds)


async def test_what_is_shed_passes_through_and_the_next_chunk_follows_a_gap(dispatch):
    session = enter(dispatch, "a")
    dispatch.begin(job(session, 0), 0.0)
    jobs = [job(session, index) for index in (1, 2, 3)]
    for one in jobs:
        dispatch.queue(session, one)
    assert session.passed == jobs[:1]
    assert session.figures.shed == 1
    assert dispatch.begin(dispatch.scheduler.next(), 0.0).gap


async def test_without_a_device_chunks_pass_through_and_the_stream_starts_over(dispatch):
    session = enter(dispatch, "a")
    dispatch.worker._enter("restarting")
    dispatch.queue(session, job(session, 1))
    assert (len(session.passed), session.starts) == (1, 1)
    assert not dispatch.scheduler.waiting()


async def test_a_device_that_is_lost_gives_every_waiting_chunk_back_to_its_session(dispatch):
    a, b = enter(dispatch, "a"), enter(dispatch, "b")
    on_device, waiting = job(a, 0), job(b, 0)
    dispatch.queue(b, waiting)
    dispatch.on_device_lost(on_device)
    assert (a.passed, b.passed) == ([on_device], [waiting])
    assert (a.figures.device_losses, b.figures.device_losses) == (1, 1)
    assert not dispatch.ended
    dispatch.check_integrity({"a", "b"})


async def test_a_shortage_at_one_chunk_gives_that_sessions_chunks_back_and_no_others(dispatch):
    a, b = enter(dispatch, "a"), enter(dispatch, "b")
    on_device, waiting, others = job(a, 1), job(a, 2), job(b, 1)
    dispatch.queue(a, waiting)
    dispatch.queue(b, others)
    dispatch.on_shortage(on_device)
    assert (a.passed, a.starts) == ([on_device, waiting], 1)
    assert (b.passed, b.starts, dispatch.scheduler.waiting()) == ([], 0, 1)
    assert not dispatch.ended
    dispatch.check_integrity({"a", "b"})


async def test_a_session_that_loses_the_device_twice_in_a_row_ends_and_no_other_does(dispatch):
    a, b = enter(dispatch, "a"), enter(dispatch, "b")
    dispatch.on_device_lost(job(a, 0))
    dispatch.on_restored(job(b, 0), restored())
    dispatch.on_device_lost(job(a, 0))
    assert [session_id for session_id, _, _ in dispatch.ended] == ["a"]


async def test_a_chunk_of_a_session_that_has_gone_is_skipped_and_forgotten(dispatch):
    session = enter(dispatch, "a")
    dispatch.release("a", 0.0)
    gone = job(session, 0)
    assert dispatch.begin(gone, 0.0).rung == "passthrough"
    dispatch.on_skipped(gone)
    dispatch.on_refused(gone, "why")
    dispatch.on_restored(gone, restored())
    assert not session.passed and not session.restored and not dispatch.ended
    dispatch.queue(session, gone)
    assert session.passed == [gone]
    dispatch.check_integrity(set())


async def test_a_session_is_shown_its_rung_as_it_goes_down_and_up(dispatch):
    session = enter(dispatch, "a")
    dispatch.on_restored(job(session, 1), restored(deadline=0.5))
    assert session.rung == "one_step"
    assert dispatch.begin(job(session, 2, deadline=-1.0), 0.0).rung == "passthrough"
    assert session.rung != "one_step"


async def test_a_solver_of_no_steps_of_its_own_takes_those_of_the_model(dispatch):
    """`{"solver": {"num_steps": 0}}` was answered with a 500: no workload has 0 steps."""
    session = enter(dispatch, "a", solver=SolverConfig(num_steps=0))
    assert dispatch._accounts["a"].workload.num_steps == 1
    dispatch.queue(session, job(session, 0))
    assert dispatch.begin(dispatch.scheduler.next(), 0.0).solver.num_steps == 1


def learn(dispatch, session, width, height):
    """The session's first frame fixes its size."""
    session.config = SessionConfig()
    session.spec = StreamSpec(height, width, "incoming", ("restored",), 0)
    dispatch.sized(session)


async def test_a_session_that_is_too_large_beside_others_ends_when_it_learns_its_size(dispatch):
    """It was admitted at the usual size, whatever it sent then: one of 1.05 million pixels took the device from all."""
    for other in "acd":
        enter(dispatch, other)
    session = enter(dispatch, "b")
    learn(dispatch, session, 416, 240)
    assert not dispatch.ended
    learn(dispatch, session, 832, 480)
    [(session_id, reason, code)] = dispatch.ended
    assert (session_id, code) == ("b", "full") and "832x480" in reason
    dispatch.check_integrity(set("abcd"))


async def test_a_session_alone_may_be_as_large_as_it_likes(dispatch):
    learn(dispatch, enter(dispatch, "a"), 832, 480)
    assert not dispatch.ended
    dispatch.check_integrity({"a"})


async def test_a_session_without_memory_for_its_size_ends(dispatch):
    dispatch.admission.config = dispatch.admission.config.model_copy(update={"memory_bytes": 30})
    learn(dispatch, enter(dispatch, "a"), 832, 480)
    assert dispatch.ended and "MiB" in dispatch.ended[0][1]
