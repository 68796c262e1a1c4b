"""All sources of one server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.sessions.negotiation import rtc_config
from server.sessions.streams import Streams
from server.settings import Settings
from server.sources.config import SourceConfig
from server.sources.reader import Reader, ThreadReader, reading
from server.sources.source import Source
from server.sources.track import SourceTrack
from server.sources.whep import WhepReader


class Sources:
    """The sources that a server pulls, by their names."""

    def __init__(self, streams: Streams, configs: Mapping[str, SourceConfig]):
        streams.reserved = frozenset(configs)
        self.settings: Settings = streams.settings
        self.all = {name: Source(name, config, streams, self._reader) for name, config in configs.items()}

    async def want(self, name: str) -> None:
        """Starts the source `name` for a player, and waits for its picture. Raises Refusal; other names pass."""
        if (source := self.all.get(name)) is not None:
            await source.want()

    def report(self) -> dict[str, Any]:
        return {name: source.report() for name, source in self.all.items()}

    def state(self) -> dict[str, Any]:
        """What anybody may know: which source is read, and why one is not."""
        return {name: {"state": source.state, "fault": source.fault} for name, source in self.all.items()}

    def _reader(self, config: SourceConfig, track: SourceTrack, name: str) -> Reader:
        rtc = rtc_config(self.settings, self.settings.fps)
        if config.kind == "whep":
            return WhepReader(config, rtc, track)
        return ThreadReader(reading(config, rtc), track, name)
