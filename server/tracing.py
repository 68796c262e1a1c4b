"""Traces of chunks for OpenTelemetry: one span a chunk, from the arrival of its first frame to the departure of it
restored, and one below it for each stage. Needs the extra `trace`, so it is imported only where traces are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

from server.logs import public

STAGES = ("x_init", "encode", "denoise", "prox", "decode", "cache", "transfer")
"""what the device does, in this order; prox and decode may alternate, and are told as one each"""
TOLD = ("chunk", "guided", "rung", "residual", "frames", "lost", "operator", "psnr")
"""what of a report becomes an attribute"""


class ChunkTracer:
    """Sends traces in the background. A collector that does not answer costs traces and nothing else."""

    def __init__(self, exporter: SpanExporter, share: float = 1.0):
        """`share` of the chunks is traced, chosen by chance."""
        about = Resource.create({"service.name": "avis", "service.version": version("avis-server")})
        self._provider = TracerProvider(resource=about, sampler=TraceIdRatioBased(share), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("avis")

    def trace(self, session_id: str, report: dict[str, Any], now: int) -> None:
        """Traces a chunk whose report is complete. `now`: nanoseconds since 1970, when its first frame left."""
        began = now - nanoseconds(report["ms"]["fill"] + report["ms"]["deliver"])
        told = {f"avis.{name}": report[name] for name in TOLD if report.get(name) is not None}
        attributes = {"avis.session": public(session_id), **told}
        root = self._tracer.start_span("chunk", start_time=began, attributes=attributes)
        within = trace.set_span_in_context(root)
        for name, start, end in stages(report["ms"], began, now):
            self._tracer.start_span(name, within, start_time=start).end(end)
        root.end(now)

    def close(self) -> None:
        """Sends what is left. Blocks for a moment."""
        self._provider.shutdown()


def stages(ms: dict[str, float], began: int, left: int) -> Iterator[tuple[str, int, int]]:
    """(name, start, end) of each stage one after the other, in nanoseconds; the last ends when the frame left."""
    at = began
    for name in ("fill", "queue", *STAGES):
        if name in ms:
            end = min(left, at + nanoseconds(ms[name]))
            yield name, at, end
            at = end
    yield "deliver", at, left


def nanoseconds(ms: float) -> int:
    return round(1e6 * ms)


def tracer_to(endpoint: str, share: float) -> ChunkTracer:
    """A tracer that sends to the collector at `endpoint`, OTLP over HTTP."""
    return ChunkTracer(OTLPSpanExporter(endpoint=endpoint), share)
