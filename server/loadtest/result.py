"""What a load test found: as JSON, and as a table for people. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from server.loadtest.growth import growth
from server.loadtest.tally import Tally, milliseconds, quantile


@dataclass
class Outcome:
    """All that a load test saw."""

    clients: list[Tally] = field(default_factory=list)
    bad: list[Tally] = field(default_factory=list)
    """clients that misbehaved on purpose"""
    steps: list[dict[str, Any]] = field(default_factory=list)
    """of a ramp"""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """what the server told of itself, every two seconds"""
    models: list[Any] = field(default_factory=list)
    phases: list[dict[str, Any]] = field(default_factory=list)
    """of a test with a client that misbehaves: without it, with it, without it again; or of one with a crowd"""
    relieved: float | None = None
    """when the crowd was told to leave"""
    killed: float | None = None
    """when the device process was"""
    ended: float = 0.0


def summary(outcome: Outcome, settings: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a load test."""
    opened = [tally for tally in outcome.clients if tally.refusal is None]
    result: dict[str, Any] = {
        "settings": settings,
        "sessions": [tally.summary() for tally in opened],
        "refused": len(outcome.clients) - len(opened),
        "refusals": [tally.refusal for tally in outcome.clients if tally.refusal is not None],
        "server": {"models": outcome.models, **device_summary(outcome.samples), "growth": growth(outcome.samples)},
    }
    if outcome.steps:
        held = [step["sessions"] for step in outcome.steps if step["held"]]
        result["ramp"] = {"max_sessions": max(held, default=0), "steps": outcome.steps}
    if outcome.bad:
        result["misbehaving"] = [tally.summary() for tally in outcome.bad]
    if len(outcome.phases) == 3:
        result["disturbance"] = disturbance(outcome.phases)
    if outcome.relieved is not None and len(outcome.phases) == 2:
        result["overload"] = overload(outcome, outcome.relieved)
    if outcome.killed is not None:
        result["kill"] = kill_summary(outcome, outcome.killed)
    if any(tally.visits for tally in outcome.clients):
        result["cycles"] = cycles_summary(outcome)
    return result


def disturbance(phases: list[dict[str, Any]]) -> dict[str, Any]:
    """How far the worst p95 of the others moved while one misbehaved, and how far it moves by itself."""
    before, during, after = (phase["p95_ms"] for phase in phases)
    known = None not in (before, during, after)
    return {
        "phases": phases,
        "moved_percent": round(100 * (2 * during / (before + after) - 1), 1) if known else None,
        "by_itself_percent": round(100 * (after / before - 1), 1) if known else None,
    }


def overload(outcome: Outcome, moment: float) -> dict[str, Any]:
    """What a crowd cost in latency, and when the session that stayed had full quality again."""
    alone, crowd = (phase["p95_ms"] for phase in outcome.phases)
    known = None not in (alone, crowd)
    return {
        "phases": outcome.phases,
        "p95_ratio": round(crowd / alone, 2) if known else None,
        **outcome.clients[0].relieved(moment),
    }


def kill_summary(outcome: Outcome, moment: float) -> dict[str, Any]:
    """What killing the device cost the sessions, the worst of each; None where it never came."""
    seen = [tally.after(moment, outcome.ended) for tally in outcome.clients]
    worst_of = {
        name: None if any(one[name] is None for one in seen) else round(max(one[name] or 0.0 for one in seen), 2)
        for name in ("longest_gap", "passed_after", "restored_after")
    }
    return {**worst_of, "connections_lost": sum(tally.failure is not None for tally in outcome.clients)}


def cycles_summary(outcome: Outcome) -> dict[str, Any]:
    visits = [seconds for tally in outcome.clients for seconds in tally.visits]
    waited = [seconds for seconds in visits if seconds is not None]
    quantiles = {f"p{p}": milliseconds(quantile(waited, p / 100)) for p in (50, 95)}
    reasons: Counter[str] = sum((tally.reasons for tally in outcome.clients), Counter())
    failed = len(visits) - len(waited)
    return {"done": len(waited), "failed": failed, "reasons": dict(reasons), "first_frame_ms": quantiles}


def device_summary(samples: list[dict[str, Any]]) -> dict[str, Any]:
    loads = [sample["load"] for sample in samples if sample.get("load") is not None]
    if not loads:
        return {}
    restarts = max(sample.get("restarts", 0) for sample in samples)
    return {"load_mean": round(sum(loads) / len(loads), 3), "load_max": max(loads), "restarts": restarts}


def table(result: dict[str, Any]) -> str:
    """The same for people."""
    head = (
        "session",
        "fps",
        "sent",
        "back",
        "lost",
        "wrong",
        "p50",
        "p95",
        "p99 ms",
        "freezes",
        "gap ms",
        "psnr",
    )
    stayed = [] if "cycles" in result else list(enumerate(result["sessions"], 1))
    rows = [head, *(row(index, session) for index, session in stayed)] if stayed else []
    widths = [max(len(line[column]) for line in rows) for column in range(len(head))] if rows else []
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in rows]
    lines += [f"session {i}: {rungs(s)}" for i, s in stayed if s["rungs"]]
    lines += [f"refused: {refusal}" for refusal in result["refusals"]]
    for step in result.get("ramp", {}).get("steps", []):
        told = "held" if step["held"] else f"did not hold: {step['why']}"
        lines.append(f"{step['sessions']:>3} sessions: p95 {shown(step['p95_ms'])} ms, {told}")
    if "ramp" in result:
        lines.append(f"the most sessions that held: {result['ramp']['max_sessions']}")
    lines += [sentence for part, told in TOLD.items() if part in result for sentence in told(result[part])]
    lines += growth_lines(result["server"]["growth"])
    return "\n".join(lines)


def told_disturbance(part: dict[str, Any]) -> list[str]:
    p95s = [f"{phase['companion']}: {shown(phase['p95_ms'])} ms" for phase in part["phases"]]
    moved, noise = (shown(part[name], 1) for name in ("moved_percent", "by_itself_percent"))
    return [f"the others' p95 by phase ({', '.join(p95s)}) moved by {moved} %; by itself it moves by {noise} %"]


def told_overload(part: dict[str, Any]) -> list[str]:
    alone, crowd = (shown(phase["p95_ms"]) for phase in part["phases"])
    ratio, after, kept = (shown(part[name], 2) for name in ("p95_ratio", "full_after", "full_share"))
    return [
        f"p95 alone {alone} ms, worst of the crowd {crowd} ms, {ratio} times as much; "
        f"full quality {after} s after it left, kept for {kept} of the chunks from then on"
    ]


def told_kill(part: dict[str, Any]) -> list[str]:
    return [
        f"device killed: longest gap {shown(part['longest_gap'], 2)} s, "
        f"passed after {shown(part['passed_after'], 2)} s, restored after {shown(part['restored_after'], 2)} s, "
        f"connections lost: {part['connections_lost']}"
    ]


def told_cycles(part: dict[str, Any]) -> list[str]:
    first = part["first_frame_ms"]
    return [
        f"cycles: {part['done']} done, {part['failed']} failed, first frame p50 {shown(first['p50'])} "
        f"p95 {shown(first['p95'])} ms",
        *(f"failed {count}: {reason}" for reason, count in part["reasons"].items()),
    ]


TOLD: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "disturbance": told_disturbance,
    "overload": told_overload,
    "kill": told_kill,
    "cycles": told_cycles,
}
"""how the parts of a result are told, which some tests have"""


def growth_lines(found: dict[str, dict[str, float | None]]) -> list[str]:
    """What the server held, one figure a line; memory in MiB."""
    lines = []
    for name, figures in found.items():
        unit = 2**20 if name.endswith("bytes") else 1
        values = [shown(value / unit, 1) for value in figures.values() if value is not None]
        label = name.replace("_bytes", " MiB").replace("_", " ")
        told = "before {}, after {}, most {}, {} an hour" if len(values) == 4 else "before {}, after {}, most {}"
        lines.append(f"{label}: {told.format(*values)}")
    return lines


def row(index: int, session: dict[str, Any]) -> tuple[str, ...]:
    latency = session["latency_ms"]
    return (
        str(index),
        shown(session["fps"], 1),
        *(str(session[key]) for key in ("frames_sent", "frames_back", "frames_lost", "frames_wrong")),
        *(shown(latency[key]) for key in ("p50", "p95", "p99")),
        str(session["freezes"]),
        shown(session["longest_gap_ms"]),
        shown(session["psnr"], 1),
    )


def rungs(session: dict[str, Any]) -> str:
    chunks = ", ".join(f"{count} {rung}" for rung, count in session["rungs"].items())
    ended = f"; {session['failure']}" if session["failure"] else ""
    return f"chunks {chunks}{ended}"


def shown(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
