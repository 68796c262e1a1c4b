"""What is said of a client: from the lines it told, and nothing else."""

import pytest

from server.loadtest.tally import Limits, Tally, quantile, worst

LIMITS = Limits(fps=16, budget=1.0, chunk_frames=12)


def frames(numbers, tag=3, latency=1.0, **line):
    """A line about frames that were sent 16 a second and came back after `latency`."""
    back = [[number, tag, number / 16, number / 16 + latency, None] for number in numbers]
    return {"event": "frames", "at": 0.0, "back": back, "sent": 0, "newest": 0, "unreadable": 0, **line}


def tally_of(*lines):
    tally = Tally(tag=3)
    for line in lines:
        tally.take(line)
    return tally


def test_a_session_without_fault():
    tally = tally_of({"event": "opened", "at": -0.5}, frames(range(320), sent=320))
    summary = tally.summary()
    assert summary["fps"] == pytest.approx(16)
    assert (summary["frames_sent"], summary["frames_back"]) == (320, 320)
    assert {summary[f"frames_{what}"] for what in ("lost", "wrong", "repeated", "unreadable")} == {0}
    assert summary["latency_ms"] == {"p50": 1000.0, "p95": 1000.0, "p99": 1000.0}
    assert summary["first_frame_ms"] == 1500.0
    assert summary["longest_gap_ms"] == 62.5
    assert tally.complaint(LIMITS, 2, 18) is None


def test_frames_of_another_session_and_frames_out_of_order_are_wrong():
    assert tally_of(frames([1, 2]), frames([3], tag=4)).wrong == 1
    assert tally_of(frames([1, 2, 5, 3])).wrong == 1
    assert tally_of(frames([1]), {**frames([]), "back": [[99, 3, None, 1.0, None]]}).wrong == 1


def test_a_frame_that_is_shown_twice_is_counted_once():
    summary = tally_of(frames([1, 2, 2, 2, 3])).summary()
    assert (summary["frames_back"], summary["frames_repeated"], summary["frames_wrong"]) == (3, 2, 0)


def test_frames_between_the_first_and_the_last_that_came_back_are_lost():
    assert tally_of(frames([5, 6, 9, 10])).summary()["frames_lost"] == 2


def test_what_is_sent_after_the_last_frame_that_counts_does_not_count():
    stopping = {"event": "stopping", "at": 0.0, "last": 11}
    summary = tally_of(frames(range(8), sent=12), stopping, frames(range(8, 30), sent=40)).summary()
    assert (summary["frames_sent"], summary["frames_back"], summary["frames_wrong"]) == (12, 12, 0)


def test_a_freeze_is_half_a_second_without_a_new_picture():
    summary = tally_of(frames(range(16)), frames(range(25, 30))).summary()
    assert (summary["freezes"], summary["longest_gap_ms"]) == (1, 625.0)


def test_reports_count_the_rungs_and_events_do_not():
    lines = [
        {"event": "report", "at": 1.0, "report": {"chunk": i, "rung": "full", "latency_ms": 900.0 + i}}
        for i in range(3)
    ]
    lines.append({"event": "report", "at": 2.0, "report": {"event": "rung", "rung": "x_init"}})
    summary = tally_of(*lines).summary()
    assert summary["rungs"] == {"full": 3}
    assert summary["server_latency_ms"] == {"p50": 901.0, "p95": 902.0}


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([frames(range(0, 320, 2))], "8.0 frames per second, 95% of 16 are due"),
        ([frames(range(320), latency=1.8)], "p95 1800 ms, 1750 at most"),
        ([frames(range(160)), frames(range(169, 320))], "a freeze of 0.62 s"),
        ([frames(range(320)), frames([1])], "1 wrong frames"),
        ([frames(range(320)), {"event": "failed", "reason": "it fell"}], "it fell"),
    ],
    ids=["few frames", "late", "frozen", "wrong", "failed"],
)
def test_a_session_that_does_not_hold_says_why(lines, complaint):
    relaxed = LIMITS if "freeze" not in complaint else LIMITS.model_copy(update={"share": 0.9})
    assert tally_of(*lines).complaint(relaxed, 2, 18).startswith("session 4: ")
    assert complaint in tally_of(*lines).complaint(relaxed, 2, 18)


def test_a_refusal_and_an_end_by_the_server_are_remembered():
    refused = tally_of({"event": "refused", "status": 503, "code": "full", "reason": "no time", "retry_after": 5.0})
    assert refused.refusal == "503 full: no time"
    assert refused.over
    ended = tally_of({"event": "end", "at": 1.0, "ended_by_server": True})
    assert ended.failure == "the server ended the session"
    assert ended.over


def test_quantiles_are_values_that_were_seen():
    assert quantile([], 0.5) is None
    assert quantile([3.0], 0.99) == 3.0
    assert quantile(list(range(1, 101)), 0.95) == 95
    assert quantile(list(range(1, 101)), 0.5) == 50


def test_a_step_of_a_ramp_is_as_good_as_its_worst_session():
    slow, good = tally_of(frames(range(0, 160, 2), latency=2.0)), tally_of(frames(range(160)))
    figures = worst([slow, good], 2.0, 8.0)
    assert figures["p95_ms"] == 2000.0
    assert figures["fps"] == pytest.approx(8.0, rel=0.05)


def passing(at, rung):
    return {"event": "report", "at": at, "report": {"chunk": 0, "rung": rung}}


def test_what_losing_the_device_cost_is_told_from_pictures_and_rungs():
    told = ((1.5, "full"), (2.8, "passthrough"), (3.5, "passthrough"), (4.3, "full"))
    reports = [passing(at, rung) for at, rung in told]
    tally = tally_of(frames(range(16)), frames(range(16, 64), latency=1.75), *reports)
    cost = tally.after(2.0, end=20.0)
    assert cost["longest_gap"] == pytest.approx(0.75)
    assert cost["passed_after"] == pytest.approx(0.8)
    assert cost["restored_after"] == pytest.approx(2.3)


def test_when_full_quality_is_back_is_told_and_whether_it_stays():
    told = ((1.0, "full"), (2.5, "x_init"), (3.5, "full"), (4.5, "one_step"), (5.5, "full"), (6.5, "full"))
    tally = tally_of(*(passing(at, rung) for at, rung in told))
    assert tally.relieved(2.0) == {"full_after": 1.5, "full_share": 0.75}
    assert tally.relieved(7.0) == {"full_after": None, "full_share": None}


def test_pictures_that_never_come_again_are_a_gap_to_the_end():
    cost = tally_of(frames([0])).after(11.0, end=20.0)
    assert cost == {"longest_gap": 9.0, "passed_after": None, "restored_after": None}


def test_each_visit_counts_its_frames_anew():
    tally = tally_of(*(line for number in (3, 0) for line in (frames([number]), {"event": "visited", "seconds": 1.0})))
    assert (tally.wrong, tally.visits) == (0, [1.0, 1.0])
