"""How good the next chunk of a session may be."""

import pytest

from core.chunks import Chunk
from core.contract import SolverConfig
from server.device.work import Work
from server.scheduling.costs import Workload
from server.scheduling.scheduler import Job
from server.sessions.account import Account

WORKLOAD = Workload(model="m", width=64, height=64)


def job(index, gap=False, **solver):
    work = Work(None, None, SolverConfig(**solver), gap, index, (), (), (), 0.0)
    return Job("s", Chunk(index, []), 10.0, work, index == 0)


def plan(account, job, now=0.0, cost=lambda rung, guided: 0.0):
    return account.plan(job, now, 2, job.deadline, cost)


def test_a_plan_changes_no_job_and_names_the_steps_and_the_phase():
    account, first = Account(WORKLOAD, phase=3), job(0)
    found = plan(account, first)
    assert (found.rung, found.solver.num_steps, found.solver.reinject_phase) == ("full", 2, 3)
    assert plan(account, job(1, num_steps=4)).solver.num_steps == 4
    assert first.work.solver == SolverConfig()


def test_an_opening_chunk_never_skips_the_device():
    account = Account(WORKLOAD, phase=0)
    assert plan(account, job(0), now=11.0, cost=lambda rung, guided: 1.0).rung == "x_init"
    assert plan(account, job(1), now=12.0, cost=lambda rung, guided: 1.0).rung == "passthrough"


def test_a_chunk_after_skipped_ones_follows_a_gap_and_the_one_after_it_does_not():
    account = Account(WORKLOAD, phase=0)
    assert not plan(account, job(0)).gap
    account.skipped = True
    assert plan(account, job(2)).gap
    assert not plan(account, job(3)).gap
    assert plan(account, job(4, gap=True)).gap


def test_a_gap_is_remembered_while_chunks_pass_through():
    account = Account(WORKLOAD, phase=0, skipped=True)
    assert plan(account, job(1), now=11.0, cost=lambda rung, guided: 1.0).rung == "passthrough"
    account.ladder.rung = "full"
    assert plan(account, job(2)).gap


def test_an_opening_chunk_follows_no_gap():
    account = Account(WORKLOAD, phase=0, skipped=True)
    assert not plan(account, job(0)).gap
    assert not plan(account, job(1)).gap


def test_after_a_reconnect_the_next_chunk_that_can_be_is_guided():
    account = Account(WORKLOAD, phase=0)
    plan(account, job(0, reinject_every=0))
    account.reconnected, account.ladder.rung = True, "x_init"
    assert plan(account, job(1, reinject_every=0)).solver.reinject_every == 0
    account.ladder.rung = "full"
    assert plan(account, job(2, reinject_every=0)).solver.reinject_every == 1
    assert plan(account, job(3, reinject_every=0)).solver.reinject_every == 0


@pytest.mark.parametrize(
    ("index", "state", "guided"),
    [
        (0, {}, {"full": True, "x_init": True}),
        (1, {}, {"full": False, "x_init": False}),
        (7, {}, {"full": True, "one_step": True, "no_reinjection": False}),
        (1, {"skipped": True}, {"full": True, "no_reinjection": True}),
        (1, {"reconnected": True}, {"full": True, "no_reinjection": True}),
    ],
)
def test_the_cost_of_a_chunk_is_asked_for_as_it_will_be_guided(index, state, guided):
    asked = {}

    def cost(rung, is_guided):
        asked[rung] = is_guided
        return 100.0

    plan(Account(WORKLOAD, phase=0, **state), job(index), cost=cost)
    assert {rung: asked[rung] for rung in guided if rung in asked} == {r: g for r, g in guided.items() if r in asked}
    assert "full" in asked
