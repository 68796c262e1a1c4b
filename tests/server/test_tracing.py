"""A trace of a chunk: its stages one after the other within the time that it took, and all of it in the background."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise

import pytest
from aiohttp.test_utils import TestServer
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from core.errors import UsageError
from server.api.app import create_app
from server.api.keys import SESSIONS
from server.commands.checkup import examine
from server.sessions.channel import TOLD
from server.sessions.traces import tracer_of
from server.settings import read_settings
from server.simulation.process import SimulatedProcess
from server.simulation.simulation import SimulatedDevice
from server.tracing import ChunkTracer, stages, tracer_to

MS = {"fill": 687.5, "queue": 2.0, "x_init": 9.0, "encode": 1.0, "denoise": 150.0, "total": 160.0, "deliver": 300.0}
TOLD_OF = {"chunk": 3, "guided": True, "rung": "full", "residual": 0.01, "frames": 12, "lost": 0, "operator": "mask"}
REPORT = {**TOLD_OF, "ms": MS}
NOW = 1_800_000_000_000_000_000


def traced(reports, share=1.0):
    exporter = InMemorySpanExporter()
    tracer = ChunkTracer(exporter, share)
    for report in reports:
        tracer.trace("abcdefghijkl", report, NOW)
    tracer.close()
    return exporter.get_finished_spans()


def test_the_stages_follow_each_other_and_fill_the_time_of_the_chunk():
    told = list(stages(MS, 0, 987_500_000))
    assert [name for name, _, _ in told] == ["fill", "queue", "x_init", "encode", "denoise", "deliver"]
    assert told[0][1] == 0 and told[-1][2] == 987_500_000
    assert all(before[2] == after[1] for before, after in pairwise(told))
    assert told[4][2] - told[4][1] == 150_000_000


def test_a_stage_that_took_longer_than_there_was_does_not_reach_beyond_the_end():
    for _, start, end in stages({"fill": 5.0, "denoise": 900.0}, 0, 10_000_000):
        assert 0 <= start <= end <= 10_000_000


def test_a_chunk_is_one_span_with_its_stages_below_it():
    spans = traced([REPORT])
    [root] = [span for span in spans if span.parent is None]
    assert root.name == "chunk" and root.end_time == NOW
    assert root.end_time - root.start_time == 987_500_000
    assert root.attributes == {
        "avis.session": "abcdefgh", "avis.chunk": 3, "avis.guided": True, "avis.rung": "full", "avis.residual": 0.01,
        "avis.frames": 12, "avis.lost": 0, "avis.operator": "mask",
    }  # fmt: skip
    below = [span for span in spans if span.parent is not None]
    assert {span.parent.span_id for span in below} == {root.context.span_id}
    assert all(root.start_time <= span.start_time <= span.end_time <= root.end_time for span in below)


def test_a_chunk_that_passed_has_a_trace_too():
    passed = {**REPORT, "rung": "passthrough", "residual": None, "ms": {"fill": 687.5, "deliver": 30.0}}
    assert {span.name for span in traced([passed])} == {"chunk", "fill", "deliver"}


def test_a_share_is_traced_with_all_its_stages():
    spans = traced([REPORT] * 400, share=0.25)
    roots = [span for span in spans if span.parent is None]
    assert 50 < len(roots) < 150
    assert len(spans) == 7 * len(roots)


def test_traces_reach_a_collector():
    came = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            came.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        tracer = tracer_to(f"http://127.0.0.1:{server.server_port}/v1/traces", 1.0)
        tracer.trace("abcdefghijkl", REPORT, NOW)
        tracer.close()
        thread.join(10)
    [(path, body)] = came
    assert path == "/v1/traces" and b"denoise" in body and b"avis.rung" in body


def test_without_an_endpoint_there_is_none_and_without_the_extra_a_sentence(monkeypatch):
    assert tracer_of(read_settings()) is None
    monkeypatch.setitem(sys.modules, "server.tracing", None)
    with pytest.raises(UsageError, match=r"avis-server\[trace\]"):
        tracer_of(read_settings(trace_endpoint="http://127.0.0.1:4318/v1/traces"))
    with pytest.raises(UsageError, match="trace_endpoint"):
        read_settings(trace_endpoint="collector:4318")


def test_the_report_of_this_test_is_one_that_the_channel_tells():
    rest = {"slots": [0, 11], "timestamps": [0, 0.7], "dropped": 0, "shed": 0, "latency_ms": 9}
    TOLD.validate_json(json.dumps({**REPORT, **rest}))


class Kept:
    def __init__(self):
        self.traced, self.closed = [], False

    def trace(self, session_id, report, now):
        self.traced.append((session_id, report, now))

    def close(self):
        self.closed = True


async def test_every_chunk_of_a_session_is_traced_with_its_whole_report():
    """A real session over a real connection."""
    app = create_app(read_settings())
    sessions, kept = app[SESSIONS], Kept()
    sessions.tracer = kept

    async def start_device():
        return SimulatedProcess(SimulatedDevice(seconds=0.01))

    sessions.worker.start_device = start_device
    async with TestServer(app) as server:
        await sessions.worker.settled()
        assert "fault" not in {found.state for found in await examine(str(server.make_url("")))}
    assert kept.closed
    assert [report["chunk"] for _, report, _ in kept.traced] == list(range(len(kept.traced))) and kept.traced
    for _, report, _ in kept.traced:
        TOLD.validate_python(report)
        assert {name for name, *_ in stages(report["ms"], 0, 1)} >= {"fill", "deliver"}
