"""What the server counts, as Prometheus reads it: `GET /metrics` on the admin port, in OpenMetrics for who accepts it.

Nothing is counted here. The figures of sessions that live and of those that ended are added up when they are asked
for; no label names a session, a client or anything else of which there may be any number.
"""

from __future__ import annotations

import asyncio
import os
import resource
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import get_args

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from server.api.guards import say_headers
from server.api.keys import Handler
from server.api.loop_lag import LoopLag
from server.api.origins import is_known_host
from server.api.usage import usage_of
from server.device.worker import WorkerState
from server.pushes.push import Push
from server.scheduling.ladder import RUNGS
from server.sessions.config import SessionState
from server.sessions.sessions import Sessions
from server.sessions.telemetry import END_CODES, Histogram, SessionFigures
from server.sources.sources import Sources

REJECTED = ("foreign", "malformed", "flooded")
"""why packets of a peer are dropped"""
ALERTED = ("full", "unauthorized")
"""codes of refusals that alerts ask for: Prometheus sees no increase in a series that begins with one"""


class SessionsCollector(Collector):
    """Reads the figures of all sessions and their device."""

    def __init__(self, sessions: Sessions, lag: LoopLag):
        self._sessions = sessions
        self._lag = lag

    def collect(self) -> Iterator[Metric]:
        about = {
            "version": version("avis-server"),
            "model": self._sessions.settings.model,
            "device": self._sessions.devices.name,
        }
        yield InfoMetricFamily("avis_build", "What runs here.", value=about)
        yield from self._of_sessions()
        yield from self._of_device()
        yield from of_figures(self._sessions.totals())
        yield from self._of_processes()

    def _of_sessions(self) -> Iterator[Metric]:
        sessions, now = self._sessions, asyncio.get_running_loop().time()
        states = Counter(session.state.value for session in sessions)
        known = {state.value: states[state.value] for state in SessionState if state is not SessionState.CLOSED}
        yield gauges("avis_sessions", "Sessions that are open.", "state", known)
        yield gauge("avis_sessions_most", "Sessions that may be open at a time.", sessions.settings.max_sessions)
        yield counter("avis_sessions_opened", "Sessions that were opened.", sessions.opened_total)
        closed: dict[str, float] = {code: sessions.closed[code] for code in END_CODES}
        yield counters("avis_sessions_closed", "Sessions that ended, by why.", "code", closed)
        yield histogram("avis_session_seconds", "Seconds that sessions lived which ended.", sessions.lives)
        yield gauge("avis_clients_waiting", "Refused clients that wait in line.", sessions.line.waiting(now))
        refusals: dict[str, float] = {**dict.fromkeys(ALERTED, 0), **sessions.refusals}
        yield counters("avis_refusals", "Requests to open something that were refused.", "code", refusals)

    def _of_device(self) -> Iterator[Metric]:
        devices, now = self._sessions.devices, asyncio.get_running_loop().time()
        counted = Counter(worker.state for worker in devices.workers)
        states = {state: counted[state] for state in get_args(WorkerState)}
        restarts = sum(worker.restarts for worker in devices.workers)
        yield gauges("avis_device_state", "Devices that are in each state.", "state", states)
        shortages = sum(worker.shortages for worker in devices.workers)
        text = "Times that memory or descriptors were missing for a chunk, or for a device's start."
        yield counter("avis_device_shortages", text, shortages)
        yield counter("avis_device_restarts", "Times that a device process was started again.", restarts)
        yield gauge("avis_device_load_ratio", "Share of the devices' time that the sessions take.", devices.load(now))
        yield gauge("avis_device_slowness_ratio", "Times that the slowest is slower than warm.", devices.slowness(now))
        yield gauge("avis_chunks_waiting", "Chunks that wait for a device.", devices.waiting())
        yield histograms("avis_chunk_seconds", "Seconds of each stage of a chunk.", "stage", devices.stages())
        text = "How far restored chunks are from what was measured: |y - A(x)| over |y|."
        yield histogram("avis_chunk_residual_ratio", text, devices.residuals())
        yield counter("avis_chunk_deadline_misses", "Chunks that were restored too late.", devices.late)

    def _of_processes(self) -> Iterator[Metric]:
        workers = self._sessions.devices.workers
        names = ["device"] if len(workers) == 1 else [f"device {index}" for index in range(len(workers))]
        pids = {"server": os.getpid(), **dict(zip(names, (worker.pid for worker in workers), strict=True))}
        found = {process: usage_of(pid) for process, pid in pids.items()}
        usages = {process: usage for process, usage in found.items() if usage is not None}
        for name, text, attribute in (
            ("avis_resident_memory_bytes", "Resident memory.", "rss_bytes"),
            ("avis_open_fds", "Open file descriptors.", "fds"),
            ("avis_threads", "Threads.", "threads"),
        ):
            yield gauges(name, text, "process", {key: getattr(usage, attribute) for key, usage in usages.items()})
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        yield gauge("avis_open_fds_most", "File descriptors that the server may have open.", most)
        lag = self._lag.longest(asyncio.get_running_loop().time())
        yield gauge("avis_event_loop_lag_seconds", "Longest time lately that the event loop was held.", lag)
        yield gauge("avis_tasks", "Tasks of the server's event loop.", len(asyncio.all_tasks()))
        shared = sum(worker.memory_bytes for worker in workers)
        yield gauge("avis_frame_memory_bytes", "Memory shared with device processes.", shared)


class RelaysCollector(Collector):
    """Reads the figures of the sources and pushes of the server. There are as many as its settings name."""

    def __init__(self, sources: Sources, pushes: Mapping[str, Push]):
        self._sources = sources
        self._pushes = pushes

    def collect(self) -> Iterator[Metric]:
        yield from self._of_pushes()
        reports = self._sources.report()

        def values(key: str) -> dict[str, float]:
            return {name: report[key] for name, report in reports.items()}

        live: dict[str, float] = {name: report["state"] == "live" for name, report in reports.items()}
        failed: dict[str, float] = {name: report["state"] == "failed" for name, report in reports.items()}
        yield gauges("avis_source_live", "Whether a source gives pictures now.", "source", live)
        yield gauges("avis_source_failed", "Whether a source that is wanted gives none.", "source", failed)
        yield counters("avis_source_faults", "Times that a source failed.", "source", values("faults"))
        yield counters("avis_source_frames", "Frames of a source.", "source", values("frames"))
        text = "Frames of a source that the server did not take in time."
        yield counters("avis_source_frames_dropped", text, "source", values("frames_dropped"))

    def _of_pushes(self) -> Iterator[Metric]:
        live: dict[str, float] = {name: push.state == "live" for name, push in self._pushes.items()}
        faults: dict[str, float] = {name: push.faults for name, push in self._pushes.items()}
        yield gauges("avis_push_live", "Whether a stream is pushed to another server now.", "push", live)
        yield counters("avis_push_faults", "Times that a push failed.", "push", faults)


def of_figures(figures: SessionFigures) -> Iterator[Metric]:
    """What all sessions counted together."""
    rungs: dict[str, float] = {rung: figures.chunks[rung] for rung in RUNGS}
    yield counters("avis_chunks", "Chunks that went back to their sessions.", "rung", rungs)
    yield counter("avis_chunks_guided", "Chunks that were guided.", figures.guided)
    yield counter("avis_chunks_shed", "Chunks that passed since others waited.", figures.shed)
    yield counter("avis_chunks_failed", "Chunks that failed by their session's own fault.", figures.failed)
    ways = {"in": figures.frames_in, "out": figures.frames_left}
    yield counters("avis_frames", "Frames that came and that left.", "way", ways)
    made_up = {"slow": figures.frames_repeated, "lost": figures.frames_lost}
    yield counters("avis_frames_made_up", "Frames made up for some that did not come.", "reason", made_up)
    yield counters("avis_frames_dropped", "Frames that came and did not leave.", "reason", figures.dropped)
    yield counter("avis_reports_dropped", "Reports that a data channel did not take.", figures.reports_dropped)
    yield counter("avis_sessions_resumed", "Connections that took the place of a lost one.", figures.resumed)
    yield from of_the_wire(figures.wire)
    text = "Seconds from the offer to the first frame that left."
    yield histogram("avis_first_frame_seconds", text, figures.first_frame)
    name, text = "avis_frame_latency_seconds", "Seconds from a frame's arrival to its departure."
    yield histograms(name, text, "path", {"video": figures.latency})


def of_the_wire(wire: Mapping[str, int]) -> Iterator[Metric]:
    """What happened to the packets of incoming video."""
    for name, text, key in (
        ("avis_packets", "Packets of video that came.", "packets"),
        ("avis_packets_lost", "Holes between packets that were given up.", "given_up"),
        ("avis_packets_recovered", "Packets that came since they were asked for again.", "recovered"),
        ("avis_packets_late", "Packets that came twice or too late.", "late"),
        ("avis_packets_resent", "Packets of restored video that were sent again.", "retransmitted"),
        ("avis_key_frame_requests", "Key frames that clients were asked for.", "key_frame_requests"),
        ("avis_frames_refused", "Encoded frames that were not decoded: too large, or damaged.", "frames_refused"),
    ):
        yield counter(name, text, wire.get(key, 0))
    rejected: dict[str, float] = {reason: wire.get(f"{reason}_packets", 0) for reason in REJECTED}
    text = "Packets of peers that were dropped: of no negotiated stream, malformed, or beyond the rate."
    yield counters("avis_packets_rejected", text, "reason", rejected)


def gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def counters(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def histogram(name: str, text: str, values: Histogram) -> Metric:
    return HistogramMetricFamily(name, text, buckets=buckets(values), sum_value=values.sum)


def histograms(name: str, text: str, label: str, values: Mapping[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=[label])
    for key, one in values.items():
        family.add_metric([key], buckets(one), one.sum)
    return family


def buckets(values: Histogram) -> list[tuple[str, float]]:
    return [("+Inf" if bound is None else str(bound), count) for bound, count in values.cumulative()]


def admin_app(
    sessions: Sessions,
    names: tuple[str, ...] = (),
    sources: Sources | None = None,
    pushes: Mapping[str, Push] | None = None,
) -> web.Application:
    """What the admin port of a server serves: for operators, not for clients. `names` are the server's public ones."""
    lag = LoopLag()

    async def watch_the_loop(app: web.Application) -> AsyncIterator[None]:
        task = asyncio.get_running_loop().create_task(lag.run())
        yield
        task.cancel()
        await asyncio.wait([task])

    collectors: list[Collector] = [SessionsCollector(sessions, lag)]
    if sources is not None:
        collectors.append(RelaysCollector(sources, pushes or {}))
    app = metrics_app(collectors, names)
    app.cleanup_ctx.append(watch_the_loop)
    return app


def metrics_app(collectors: Iterable[Collector], names: tuple[str, ...] = ()) -> web.Application:
    """`GET /metrics` with what `collectors` read, for whoever calls it by an address or one of the public `names`."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    @web.middleware
    async def check_host(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not is_known_host(request.headers.getall("Host", []), names, short=True):
            raise web.HTTPMisdirectedRequest(text="this server has no such name: say --public-host for its names\n")
        return await handler(request)

    app = web.Application(middlewares=[check_host])
    app.add_routes([web.get("/metrics", metrics)])
    app.on_response_prepare.append(say_headers)
    return app
