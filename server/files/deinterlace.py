"""Interlaced pictures to whole ones, by FFmpeg's bwdif. Progressive pictures pass as they are."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av
from av.error import BlockingIOError as Again
from av.filter import Graph


class Deinterlacer:
    """One picture for each frame (two fields). Starts with the first interlaced picture of a stream."""

    def __init__(self, video: av.VideoStream):
        self._video = video
        self._graph: Graph | None = None
        self._shape: tuple[int, int, str] | None = None
        self.used = False

    def __call__(self, frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        for frame in frames:
            self.used |= frame.interlaced_frame
            if not self.used:
                yield frame
                continue
            shape = frame.width, frame.height, frame.format.name
            if shape != self._shape:
                yield from self._end()
                self._graph, self._shape = self._new_graph(frame), shape
            assert self._graph is not None
            self._graph.vpush(frame)
            yield from self._ready()
        yield from self._end()

    def _new_graph(self, frame: av.VideoFrame) -> Graph:
        graph = Graph()
        source = graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=frame.time_base or self._video.time_base,
        )
        graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink"))
        graph.configure()
        return graph

    def _ready(self) -> Iterator[av.VideoFrame]:
        assert self._graph is not None
        base = self._video.time_base or Fraction(1)
        while True:
            try:
                frame = self._graph.vpull()
            except (Again, EOFError):
                return
            if frame.pts is not None and frame.time_base is not None:
                scale = frame.time_base / base
                frame.pts, frame.duration = round(frame.pts * scale), round(frame.duration * scale)
                frame.time_base = base
            yield frame

    def _end(self) -> Iterator[av.VideoFrame]:
        if self._graph is not None:
            self._graph.vpush(None)
            yield from self._ready()
            self._graph = None
