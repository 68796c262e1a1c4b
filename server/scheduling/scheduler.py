"""Which chunk the device restores next. Pure: no I/O, no threads, no clock; time is data, in seconds."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from core.chunks import Chunk
from core.contract import Pixels

W = TypeVar("W")


@dataclass(frozen=True, eq=False)
class Job(Generic[W]):
    """One chunk of one session, wanted by `deadline`. Nobody changes it: what the device does with it is a Plan."""

    session_id: str
    chunk: Chunk[Pixels]
    deadline: float
    """when the restored chunk is wanted: the arrival of its last frame plus the session's budget"""
    work: W
    """all that the device needs beside the frames, and what the session wants back with the result"""
    opening: bool = False
    """the first chunk of a stream: it has its own length and anchors the rest, so it is never shed"""


@dataclass
class _Lane(Generic[W]):
    """One session's queue, and its place in the common calendar of re-injections."""

    spacing: float
    """seconds between its chunks at the fastest pace that is its due"""
    cycle: float
    slot: float
    """when in each `cycle` seconds it is guided"""
    queue: deque[Job[W]] = field(default_factory=deque)
    turn: float = float("-inf")
    """the deadline its next chunk would have, had it kept its pace so far"""


@dataclass
class Scheduler(Generic[W]):
    """Earliest deadline first over sessions; the chunks of one session in order, at most `backlog` waiting.

    A chunk that comes ahead of its session's pace, in the burst after a stall, counts as due at that pace.

    A session that runs more than `burst` chunks ahead of its pace has the excess shed at the door, even when
    the device is idle: it can neither take another's turn nor make it wait for a chunk that was not due.
    """

    backlog: int = 2
    """chunks of one session that may wait"""
    burst: int = 2
    """chunks by which a session may run ahead of its pace, as it does after a network stall"""
    tolerance: float = 0.1
    """fraction by which a session's pace may exceed its frame rate, so that no clock's drift costs a chunk"""
    _lanes: dict[str, _Lane[W]] = field(default_factory=dict)

    def add(self, session_id: str, period: float = 0.75, reinject_every: int = 0, now: float = 0.0) -> int:
        """Opens the queue of a session of one chunk every `period` seconds, and returns its phase.

        The phase, in [0, reinject_every), shifts its guided chunks away from the others': see `is_due`.
        """
        if session_id in self._lanes:
            raise ValueError(f"session {session_id} has a queue already")
        if period <= 0:
            raise ValueError(f"the chunk period must be above 0 seconds, not {period}")
        cycle = period * reinject_every
        phase, slot = self._spread(cycle, period, reinject_every, now)
        self._lanes[session_id] = _Lane(period * (1 - self.tolerance), cycle, slot)
        return phase

    def remove(self, session_id: str) -> list[Job[W]]:
        """Forgets a session, known or not, and returns its jobs that still waited."""
        lane = self._lanes.pop(session_id, None)
        return list(lane.queue) if lane else []

    def submit(self, job: Job[W]) -> list[Job[W]]:
        """Queues `job` and returns what was shed, oldest first: `job` itself when it is ahead of its pace.

        A job that opens a stream supersedes all that waits: those chunks belong to a stream that ended.
        """
        lane = self._lanes[job.session_id]
        shed = list(lane.queue) if job.opening else self._excess(lane, job)
        lane.queue = deque(old for old in lane.queue if old not in shed)
        if job not in shed:
            lane.queue.append(job)
        return shed

    def next(self) -> Job[W] | None:
        """Takes the job to restore next, None when nothing waits."""
        lanes = [lane for lane in self._lanes.values() if lane.queue]
        if not lanes:
            return None
        lane = min(lanes, key=self._due)
        job = lane.queue.popleft()
        lane.turn = max(job.deadline, lane.turn) + lane.spacing
        return job

    @property
    def ids(self) -> set[str]:
        """The sessions that have a queue."""
        return set(self._lanes)

    def waiting(self, session_id: str | None = None) -> int:
        """Jobs that wait, of one session or of all."""
        lanes = self._lanes.values() if session_id is None else [self._lanes[session_id]]
        return sum(len(lane.queue) for lane in lanes)

    def check_integrity(self) -> None:
        """Raises AssertionError when a queue is too long, out of order, or holds another session's job."""
        for session_id, lane in self._lanes.items():
            jobs, indices = list(lane.queue), [job.chunk.index for job in lane.queue]
            owners = {job.session_id for job in jobs}
            assert owners <= {session_id}, f"{session_id} holds jobs of {owners}"
            assert len(jobs) <= self.backlog, f"{session_id} holds {len(jobs)} jobs, at most {self.backlog}"
            assert indices == sorted(set(indices)), f"{session_id} holds chunks in the order {indices}"
            assert not any(job.opening for job in jobs[1:]), f"{session_id} opens a stream behind another job"

    @staticmethod
    def _due(lane: _Lane[W]) -> tuple[float, float]:
        """When a session's next chunk counts as due; of equal ones, the one whose turn is sooner comes first."""
        return max(lane.queue[0].deadline, lane.turn), lane.turn

    def _excess(self, lane: _Lane[W], job: Job[W]) -> list[Job[W]]:
        """What must go before `job` can wait: nothing, the oldest that opens no stream, or `job` itself."""
        ahead = min(len(lane.queue), self.backlog - 1)
        over_pace = lane.turn + (ahead - self.burst) * lane.spacing > job.deadline
        over_backlog = len(lane.queue) >= self.backlog
        if not over_pace and not over_backlog:
            return []
        oldest = next((old for old in lane.queue if not old.opening), job)
        return [job if over_pace else oldest]

    def _spread(self, cycle: float, period: float, every: int, now: float) -> tuple[int, float]:
        """The phase whose guided chunks come farthest from all others', and when in the cycle they come."""
        if every < 2:
            return 0, 0.0
        taken = [lane.slot for lane in self._lanes.values() if lane.cycle == cycle]
        slots = [(now - phase * period) % cycle for phase in range(every)]
        gaps = [min((_apart(slot, other, cycle) for other in taken), default=0.0) for slot in slots]
        best = gaps.index(max(gaps))
        return best, slots[best]


def _apart(a: float, b: float, cycle: float) -> float:
    """The distance of two moments on a circle of `cycle` seconds."""
    return min((a - b) % cycle, (b - a) % cycle)


def is_due(index: int, every: int, phase: int) -> bool:
    """Whether the calendar guides chunk `index`: every `every`-th, shifted by `phase`; 0 guides none."""
    return every > 0 and (index + phase) % every == 0
