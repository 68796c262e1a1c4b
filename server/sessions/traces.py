"""Whoever traces chunks, as sessions know it: nobody, unless the settings name a collector."""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast

from core.errors import UsageError
from server.settings import Settings


class Tracer(Protocol):
    def trace(self, session_id: str, report: dict[str, Any], now: int) -> None:
        """Traces a chunk whose report is complete. `now`: nanoseconds since 1970, when its first frame left."""
        ...

    def close(self) -> None:
        """Sends what is left. Blocks for a moment."""
        ...


def tracer_of(settings: Settings) -> Tracer | None:
    """The tracer that the settings ask for. Raises UsageError without the extra."""
    if settings.trace_endpoint is None:
        return None
    try:
        tracing = importlib.import_module("server.tracing")
    except ImportError as error:
        raise UsageError(f'trace_endpoint needs the extra: pip install "avis-server[trace]" ({error})') from error
    return cast(Tracer, tracing.tracer_to(settings.trace_endpoint, settings.trace_share))
