"""One session's account with the device: how good its next chunk may be. Pure: `now` is an argument, in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from core.contract import Rung
from server.device.work import Plan, Work
from server.scheduling.costs import ON_CALENDAR, Workload
from server.scheduling.ladder import Ladder
from server.scheduling.scheduler import Job, is_due


@dataclass
class Account:
    """What the device has to do for one session, and what it did for it lately."""

    workload: Workload
    phase: int
    """shift of its calendar of guided chunks, see Scheduler.add"""
    ladder: Ladder = field(default_factory=Ladder)
    skipped: bool = False
    """chunks skipped the device since the last one that it began to restore"""
    reconnected: bool = False
    """frames come over another connection than before: the next chunk that can be is guided"""
    suspect: bool = False
    """its chunk was on the device when the device was lost"""

    def plan(
        self, job: Job[Work], now: float, num_steps: int, deadline: float, cost: Callable[[Rung, bool], float]
    ) -> Plan:
        """What the device does with a chunk that is about to start, to be ready at `deadline`.

        `num_steps` is the model's own number, where the session asks for none. `cost` gives the seconds of a chunk, by
        rung and whether it is guided.
        """
        asked = job.work.solver
        steps = {"num_steps": asked.num_steps or num_steps, "reinject_phase": self.phase}
        solver = asked.model_copy(update=steps)
        self.ladder.adapt(solver.num_steps)
        rung = self._choose_rung(job, now, deadline, cost)
        gap = job.work.gap or (self.skipped and not job.opening)
        if rung != "passthrough":
            self.skipped = False
        if self.reconnected and (job.opening or rung in ON_CALENDAR):
            solver = solver if job.opening else solver.model_copy(update={"reinject_every": 1})
            self.reconnected = False
        return Plan(rung, solver, gap, deadline)

    def _choose_rung(self, job: Job[Work], now: float, deadline: float, cost: Callable[[Rung, bool], float]) -> Rung:
        due = is_due(job.chunk.index, job.work.solver.reinject_every, self.phase)
        grounds = job.opening or job.work.gap or self.skipped or self.reconnected

        def seconds(rung: Rung) -> float:
            return cost(rung, grounds or (due and rung in ON_CALENDAR))

        if job.opening:
            return self.ladder.choose(now, deadline, seconds, lowest="x_init")
        if self.ladder.rung == "passthrough":
            return "passthrough"
        return self.ladder.choose(now, deadline, seconds)
