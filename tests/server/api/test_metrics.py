"""What Prometheus reads: the format, what is counted, and that no label grows with the number of sessions."""

import asyncio
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from aiohttp.test_utils import TestClient, TestServer
from aiortc import RTCConfiguration, RTCPeerConnection, VideoStreamTrack
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from core.chunks import Chunk
from core.contract import SolverConfig
from core.operators.super_resolution import SuperResolution
from server.api.app import administered, create_app
from server.api.keys import SESSIONS
from server.api.metrics import admin_app
from server.device.messages import Stepped
from server.device.work import Plan, RestoredChunk, Work
from server.media.tracks import Outgoing
from server.scheduling.scheduler import Job
from server.sessions.outlet import ChunkReport
from server.sessions.session import clock
from server.sessions.telemetry import END_CODES
from server.settings import read_settings
from server.simulation.process import SimulatedProcess
from server.simulation.simulation import SimulatedDevice


@pytest.fixture
async def http():
    app = create_app(read_settings(max_sessions=2))
    sessions = app[SESSIONS]

    async def start_device():
        return SimulatedProcess(SimulatedDevice(seconds=0.01))

    sessions.worker.start_device = start_device
    async with TestClient(TestServer(app)) as client, TestClient(TestServer(admin_app(sessions))) as admin:
        await sessions.worker.settled()
        client.sessions, client.admin = sessions, admin
        yield client


async def offer():
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTrack(VideoStreamTrack())
    await pc.setLocalDescription(await pc.createOffer())
    body = {"sdp": pc.localDescription.sdp, "type": "offer", "mode": "simulate", "size": "128x96"}
    await pc.close()
    return body


async def read(http):
    """The samples: (name, labels) to value."""
    reply = await http.admin.get("/metrics")
    assert (reply.status, reply.content_type) == (200, "text/plain")
    samples = {}
    for family in text_string_to_metric_families(await reply.text()):
        assert family.documentation, f"{family.name} has no help"
        for sample in family.samples:
            key = sample.name, tuple(value for _, value in sorted(sample.labels.items()))
            assert key not in samples, f"{key} is told twice"
            samples[key] = sample.value
    return samples


def restored(session, rung="full", total=0.2):
    ms = {"x_init": 100 * total, "denoise": 900 * total, "total": 1000 * total}
    work = Work(
        None, SuperResolution(), SolverConfig(), False, 0, slots=(0,), timestamps=(0.0,), arrivals=(1.0,), submitted=1.0
    )
    job, plan = Job(session.id, Chunk(0, []), 2.0, work), Plan(rung, work.solver, False, 2.0)
    pixels = np.zeros((1, 96, 128, 3), np.uint8)
    return job, RestoredChunk(Stepped(pixels.shape, True, 0.1, None, None, ms), pixels, plan, 1.05, 1.05 + total)


async def test_sessions_refusals_and_the_device_are_counted(http):
    body = await offer()
    answers = [await (await http.post("/sessions", json=body)).json() for _ in range(2)]
    assert (await http.post("/sessions", json={**body, "queue": True})).status == 503
    assert (await http.post("/sessions", json={})).status == 422
    samples = await read(http)
    assert samples["avis_sessions", ("connecting",)] == 2
    assert samples["avis_sessions_opened_total", ()] == 2
    assert samples["avis_clients_waiting", ()] == 1
    assert samples["avis_refusals_total", ("full",)] == 1
    assert samples["avis_refusals_total", ("bad_setting",)] == 1
    assert samples["avis_device_state", ("ready",)] == 1
    assert sum(value for (name, _), value in samples.items() if name == "avis_device_state") == 1
    assert samples["avis_resident_memory_bytes", ("server",)] > 1e7
    assert samples["avis_open_fds", ("server",)] > 5
    await http.delete(f"/sessions/{answers[0]['id']}")
    assert (await read(http))["avis_sessions", ("connecting",)] == 1


async def test_chunks_frames_and_stages_are_counted_and_outlive_their_session(http):
    session_id = (await (await http.post("/sessions", json=await offer())).json())["id"]
    session = http.sessions.get(session_id)
    http.sessions.dispatch.on_restored(*restored(session, total=0.2))
    http.sessions.dispatch.on_restored(*restored(session, "x_init", total=0.04))
    session.figures.frames_in += 24
    session.figures.dropped["late"] += 2
    for latency in (0.9, 1.2, 30.0):
        session.figures.left(latency, 0.0)
    before = await read(http)
    assert before["avis_chunks_total", ("full",)] == before["avis_chunks_total", ("x_init",)] == 1
    assert before["avis_chunks_total", ("passthrough",)] == 0
    assert before["avis_frames_total", ("in",)] == 24
    assert before["avis_frames_dropped_total", ("late",)] == 2
    assert before["avis_frame_latency_seconds_sum", ("video",)] == pytest.approx(32.1)
    buckets = [
        before["avis_frame_latency_seconds_bucket", (le, "video")] for le in ("0.75", "1.0", "1.5", "10.0", "+Inf")
    ]
    assert buckets == [0, 1, 2, 2, 3]
    assert before["avis_chunk_seconds_count", ("total",)] == 2
    assert before["avis_chunk_seconds_sum", ("denoise",)] == pytest.approx(0.9 * 0.24)
    assert before["avis_chunk_seconds_bucket", ("0.1", "queue")] == 2
    http.sessions.end(session_id, "the test is over")
    await asyncio.wait(http.sessions._tasks)
    after = await read(http)
    for name in ("avis_chunks_total", "avis_frames_total", "avis_frames_dropped_total"):
        assert {key: after[key] for key in after if key[0] == name} == {
            key: before[key] for key in before if key[0] == name
        }, "a counter went back"


async def test_the_number_of_series_does_not_grow_with_sessions_nor_with_what_clients_send(http):
    body = await offer()

    async def visit(times):
        for turn in range(times):
            answer = await (await http.post("/sessions", json=body)).json()
            await http.post("/sessions", json={**body, "model": f"m{turn}"})
            await http.post(f"/nothing-{turn}", json={})
            await http.delete(f"/sessions/{answer['id']}")
        return set(await read(http)), answer["id"]

    (few, _), (many, name) = await visit(1), await visit(12)
    assert few == many
    assert not any(name in str(key) for key in many)


async def test_the_clients_port_has_no_metrics_and_the_admin_port_is_off_unless_asked_for(http):
    assert (await http.get("/metrics")).status == 404
    app = create_app(read_settings())
    async with administered(read_settings(), app) as address:
        assert address is None
    async with administered(read_settings(admin_port=0), app) as address:
        assert address.startswith("http://127.0.0.1:")


# --- what Prometheus and Grafana are told to look at ---------------------------------------------

ROOT = Path(__file__).parents[3]
SUFFIXES = {"counter": ["_total"], "info": ["_info"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
OF_PROMETHEUS = {"up": {"job", "instance"}}
"""series that Prometheus itself adds"""


@pytest.mark.parametrize(
    "host, status",
    [("evil.example", 421), ("evil.example:9090", 421), ("127.0.0.1:9090", 200), ("server:9090", 200), ("[::1]", 200)],
)
async def test_the_admin_port_answers_to_its_own_names_only(http, host, status):
    """A page whose name was made to point here read all figures."""
    reply = await http.admin.get("/metrics", headers={"Host": host})
    assert reply.status == status
    assert reply.headers["X-Content-Type-Options"] == "nosniff" and "Server" not in reply.headers


async def openmetrics(http):
    """The families, as the strict parser of OpenMetrics reads them."""
    reply = await http.admin.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert reply.content_type == "application/openmetrics-text"
    return list(parse_openmetrics(await reply.text()))


async def exported(http):
    """Each series that the server exports, with its labels."""
    session_id = (await (await http.post("/sessions", json=await offer())).json())["id"]
    session = http.sessions.get(session_id)
    http.sessions.dispatch.on_restored(*restored(session))
    session.figures.dropped["late"] += 1
    assert (await http.post("/sessions", json={})).status == 422
    series = {}
    for family in await openmetrics(http):
        assert family.samples, f"{family.name} has no sample"
        labels = {label for sample in family.samples for label in sample.labels}
        series |= {family.name + suffix: labels for suffix in SUFFIXES[family.type]}
    return series


def asked_for(expression):
    """Each series that a PromQL expression names, with the labels that select it."""
    selectors = re.findall(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*\{([^}]*)\}|(avis_\w+)", expression)
    return [(name or bare, set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", labels))) for name, labels, bare in selectors]


def alerts():
    rules = yaml.safe_load((ROOT / "docker/prometheus/alerts.yml").read_text())
    return [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


def panels():
    dashboard = json.loads((ROOT / "docker/grafana/dashboards/avis.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


async def test_the_server_speaks_openmetrics(http):
    families = await openmetrics(http)
    assert {"avis_build", "avis_chunks", "avis_event_loop_lag_seconds"} <= {family.name for family in families}


@pytest.mark.parametrize("expressions", [alerts(), panels()], ids=["alerts", "dashboard"])
async def test_every_expression_asks_for_what_the_server_exports(http, expressions):
    series = await exported(http) | OF_PROMETHEUS
    assert len(expressions) >= 10
    for expression in expressions:
        assert asked_for(expression), f"{expression} asks for nothing"
        for name, labels in asked_for(expression):
            assert name in series, f"{name} of {expression!r} is not exported"
            assert labels <= series[name] | {"instance", "job"}, f"{name} has no labels {labels - series[name]}"


def test_an_expression_that_asks_for_something_else_is_seen():
    assert asked_for('rate(avis_chunkz_total{rungs="full"}[5m]) / avis_x') == [
        ("avis_chunkz_total", {"rungs"}),
        ("avis_x", set()),
    ]


async def test_why_sessions_ended_how_well_chunks_were_done_and_whether_in_time(http):
    ids = [(await (await http.post("/sessions", json=await offer())).json())["id"] for _ in range(2)]
    session = http.sessions.get(ids[0])
    http.sessions.dispatch.on_restored(*restored(session, total=0.2))  # from 1.05 on; its deadline is 2.0
    http.sessions.dispatch.on_restored(*restored(session, "x_init", total=1.5))
    session.outlet._on_left(Outgoing(None, clock() - 0.5, ChunkReport({"ms": {}}, 0.0)), clock())
    await http.delete(f"/sessions/{ids[0]}")
    http.sessions.end(ids[1], "no video for 10 s", "timeout")
    samples = await read(http)
    closed = {code: samples["avis_sessions_closed_total", (code,)] for code in END_CODES}
    assert closed == {**dict.fromkeys(END_CODES, 0), "client": 1, "timeout": 1}
    assert samples["avis_session_seconds_count", ()] == 2
    assert samples["avis_chunk_deadline_misses_total", ()] == 1
    assert samples["avis_chunk_residual_ratio_bucket", ("0.05",)] == 0
    assert samples["avis_chunk_residual_ratio_bucket", ("0.1",)] == 2
    assert samples["avis_first_frame_seconds_count", ()] == 1


async def test_the_refusals_that_alerts_ask_for_are_told_before_the_first(http):
    samples = await read(http)
    assert samples["avis_refusals_total", ("full",)] == samples["avis_refusals_total", ("unauthorized",)] == 0


async def test_a_loop_that_is_held_is_seen(http):
    await asyncio.sleep(0.01)  # the watcher sleeps
    time.sleep(0.6)  # noqa: ASYNC251  this is the fault
    await asyncio.sleep(0.05)
    assert 0.2 < (await read(http))["avis_event_loop_lag_seconds", ()] < 5


async def test_what_happened_to_packets_outlives_the_connection(http):
    session_id = (await (await http.post("/sessions", json=await offer())).json())["id"]
    session = http.sessions.get(session_id)
    session.figures.wire.update(
        {"packets": 7, "given_up": 2, "flooded_packets": 5}
    )  # of a connection that another one replaced
    before = await read(http)
    await http.delete(f"/sessions/{session_id}")
    after = await read(http)
    assert before["avis_packets_total", ()] == after["avis_packets_total", ()] == 7
    assert after["avis_packets_lost_total", ()] == 2
    rejected = {
        reason: after["avis_packets_rejected_total", (reason,)] for reason in ("foreign", "malformed", "flooded")
    }
    assert rejected == {"foreign": 0, "malformed": 0, "flooded": 5}
