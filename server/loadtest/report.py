"""The page of a load test: a table and curves as inline SVG, in one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from core.errors import UsageError
from server.loadtest.growth import Point, series
from server.loadtest.tally import Tally, quantile

WIDTH, HEIGHT = 860, 220
LEFT, RIGHT, TOP, BOTTOM = 96, 12, 26, 30
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")

RUNGS = ("passthrough", "x_init", "no_reinjection", "one_step", "full")
"""worst first: the height of a rung in its chart"""

STYLE = """
body{font:14px/1.5 system-ui,sans-serif;margin:24px auto;max-width:900px;padding:0 16px}
body{color:#111;background:#fff}h1{font-size:20px}
table{border-collapse:collapse;margin:12px 0}
td,th{padding:3px 10px;text-align:right;border-bottom:1px solid #ddd}
svg{display:block;margin:14px 0;max-width:100%}text{font:11px system-ui,sans-serif;fill:#555}
"""


@dataclass(frozen=True)
class Chart:
    """Lines over seconds of the test."""

    title: str
    lines: list[list[Point]]
    right: float
    """seconds at the right edge, the same for all charts"""
    labels: tuple[str, ...] = ()
    """names of the values 0, 1, 2, … instead of numbers"""

    def svg(self) -> str:
        points = [point for line in self.lines for point in line]
        if not points:
            return ""
        top = float(len(self.labels) - 1) if self.labels else 1.1 * max(y for _, y in points) or 1.0
        place = _scale(self.right, top)
        lines = [_polyline(line, COLOURS[i % len(COLOURS)], place) for i, line in enumerate(self.lines) if line]
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self.title)}">'
            f'<text x="{LEFT}" y="14" style="font-size:13px;fill:#111">{escape(self.title)}</text>'
            f"{self._axis_y(top, place)}{_axis_x(self.right, place)}{''.join(lines)}</svg>"
        )

    def _axis_y(self, top: float, place: Callable[[float, float], Point]) -> str:
        count = len(self.labels) - 1 if self.labels else 4
        digits = 0 if top >= 20 else 2
        names = self.labels or tuple(f"{top * i / count:.{digits}f}" for i in range(count + 1))
        heights = [place(0, top * i / count)[1] for i in range(count + 1)]
        return "".join(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="#eee"/>'
            f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{escape(name)}</text>'
            for y, name in zip(heights, names, strict=True)
        )


def write_report(
    path: Path, result: dict[str, Any], tallies: Sequence[Tally], samples: list[dict[str, Any]], began: float
) -> None:
    """Writes the page; `began` is second 0 of its curves."""
    try:
        path.write_text(page(result, tallies, samples, began), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write the report {path}: {error.strerror}") from error


def page(result: dict[str, Any], tallies: Sequence[Tally], samples: list[dict[str, Any]], began: float) -> str:
    right = max([1.0, *(t.frames[-1].at - began for t in tallies if t.frames)])
    charts = [
        Chart("latency, input to output, p95 of each second (ms)", [latency_curve(t, began) for t in tallies], right),
        Chart("new pictures in each second", [rate_curve(t, began) for t in tallies], right),
        Chart("rung of each chunk", [rung_curve(t, began) for t in tallies], right, RUNGS),
        Chart("PSNR of each chunk, told by the server (dB)", [psnr_curve(t, began) for t in tallies], right),
        Chart("load of the device (1 = all of its time)", [load_curve(samples, began)], right),
        Chart("resident memory of the server and of its device process (MiB)", memory_curves(samples, began), right),
        Chart("descriptors, threads and tasks of the server", count_curves(samples, began), right),
    ]
    settings = result["settings"]
    title = (
        f"{settings['width']}x{settings['height']} at {settings['fps']:g} frames per second, "
        f"{settings['operator']['kind']}, sessions: {len(result['sessions'])}"
    )
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Load test</title><style>{STYLE}</style>"
        f"<h1>Load test: {escape(title)}</h1>{outcome(result)}{sessions_table(result)}"
        f"{''.join(chart.svg() for chart in charts)}</html>\n"
    )


def outcome(result: dict[str, Any]) -> str:
    lines = [f"<p>refused: {result['refused']}</p>" if result["refused"] else ""]
    if "ramp" in result:
        lines.append(f"<p>the most sessions that held: <b>{result['ramp']['max_sessions']}</b></p>")
        rows = [
            f"<tr><td>{step['sessions']}</td><td>{step['p95_ms']}</td><td>{step['fps']}</td>"
            f"<td style='text-align:left'>{'held' if step['held'] else escape(step['why'])}</td></tr>"
            for step in result["ramp"]["steps"]
        ]
        lines.append(f"<table><tr><th>sessions<th>p95 ms<th>least fps<th></tr>{''.join(rows)}</table>")
    return "".join(lines)


def sessions_table(result: dict[str, Any]) -> str:
    keys = (
        "fps",
        "frames_sent",
        "frames_back",
        "frames_lost",
        "frames_wrong",
        "freezes",
        "longest_gap_ms",
        "psnr",
    )
    head = "".join(f"<th>{escape(key.replace('_', ' '))}" for key in (*keys, "p50", "p95", "p99 ms"))
    rows = []
    for index, session in enumerate(result["sessions"]):
        values = [*(session[key] for key in keys), *session["latency_ms"].values()]
        cells = "".join(f"<td>{'-' if value is None else value}</td>" for value in values)
        dot = f"<td style='color:{COLOURS[index % len(COLOURS)]}'>● {index + 1}</td>"
        rows.append(f"<tr>{dot}{cells}</tr>")
    return f"<table><tr><th>session{head}</tr>{''.join(rows)}</table>"


def latency_curve(tally: Tally, began: float) -> list[Point]:
    return _per_second(tally, began, lambda start: quantile(tally.latencies(start, start + 1), 0.95), 1000)


def rate_curve(tally: Tally, began: float) -> list[Point]:
    return _per_second(tally, began, lambda start: tally.rate(start, start + 1), 1)


def rung_curve(tally: Tally, began: float) -> list[Point]:
    return [(at - began, float(RUNGS.index(chunk["rung"]))) for at, chunk in tally.chunks if chunk["rung"] in RUNGS]


def psnr_curve(tally: Tally, began: float) -> list[Point]:
    return [(at - began, float(chunk["psnr"])) for at, chunk in tally.chunks if chunk.get("psnr") is not None]


def load_curve(samples: list[dict[str, Any]], began: float) -> list[Point]:
    known = [(s["at"] - began, float(s["load"])) for s in samples if s.get("load") is not None]
    return [(at, load) for at, load in known if at >= 0]


def memory_curves(samples: list[dict[str, Any]], began: float) -> list[list[Point]]:
    found = series(samples)
    names = ("server_rss_bytes", "device_rss_bytes")
    return [[(at - began, value / 2**20) for at, value in found.get(name, []) if at >= began] for name in names]


def count_curves(samples: list[dict[str, Any]], began: float) -> list[list[Point]]:
    found = series(samples)
    names = ("server_fds", "server_threads", "tasks")
    return [[(at - began, value) for at, value in found.get(name, []) if at >= began] for name in names]


def _per_second(tally: Tally, began: float, value: Callable[[float], float | None], factor: float) -> list[Point]:
    """The value of each full second from the first frame to the last."""
    if not tally.frames:
        return []
    first, last = int(tally.frames[0].at - began) + 1, int(tally.frames[-1].at - began)
    values = [(float(second), value(began + second)) for second in range(first, last)]
    return [(second, factor * found) for second, found in values if found is not None]


def _scale(right: float, top: float) -> Callable[[float, float], Point]:
    def place(x: float, y: float) -> Point:
        across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return round(LEFT + across * x / right, 1), round(HEIGHT - BOTTOM - down * y / top, 1)

    return place


def _axis_x(right: float, place: Callable[[float, float], Point]) -> str:
    marks = [right * i / 6 for i in range(7)]
    return "".join(f'<text x="{place(x, 0)[0]}" y="{HEIGHT - 10}" text-anchor="middle">{x:.0f} s</text>' for x in marks)


def _polyline(line: list[Point], colour: str, place: Callable[[float, float], Point]) -> str:
    places = [place(max(0.0, x), max(0.0, y)) for x, y in line]
    points = " ".join(f"{x},{y}" for x, y in places)
    dots = "".join(f'<circle cx="{x}" cy="{y}" r="1.8" fill="{colour}"/>' for x, y in places)
    return f'<polyline fill="none" stroke="{colour}" stroke-width="1.2" points="{points}"/>{dots}'
