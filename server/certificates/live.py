"""Certifies a video while it is written: a chunk's line is signed as soon as its pictures can be decoded.

What a crash leaves of it holds up to there, and lacks the end. Knows no session and no container.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
from av import VideoFrame
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.config import Config
from core.contract import Pixels, Rung, SolverConfig, TrustShares
from core.operators.config import OperatorConfig
from server.certificates.certificate import sidecar_of
from server.certificates.chain import Chain
from server.certificates.hashes import file_record, planes
from server.certificates.records import ChunkRecord, End, Header


@dataclass(frozen=True)
class Facts:
    """What is known of a restored chunk beside its pictures."""

    y: Sequence[Pixels]
    """as the device got it"""
    size: tuple[int, int]
    """(height, width) of a restored frame"""
    operator: OperatorConfig
    solver: SolverConfig
    rung: Rung
    guided: bool = False
    residual: float | None = None
    """None of a chunk that passed through"""
    trust: TrustShares | None = None
    """where the session shows the trust map"""
    lost: tuple[int, ...] = ()


@dataclass
class _Open:
    """A chunk whose line is not signed yet."""

    facts: Facts
    times: list[float] = field(default_factory=list)
    """of its pictures so far, in seconds"""
    closed: bool = False
    """no picture of it will follow"""
    given: Any = field(default_factory=hashlib.sha256)
    """over its pictures as the encoder gets them"""
    decoded: Any = field(default_factory=hashlib.sha256)
    """over its pictures as they decode"""
    count: int = 0
    """pictures of it that were decoded"""


HeaderOf = Callable[[Facts], Header]


class LiveCertificate:
    """`begin` each chunk, then tell its `picture`s and what the encoder made of them; `finish` the closed file."""

    def __init__(self, video: Path, key: Ed25519PrivateKey, header_of: HeaderOf):
        self._video, self._header_of = video, header_of
        self._chain = Chain(key)
        self._file: Any = None
        self._decoder: Any = None
        self._open: deque[_Open] = deque()
        self._chunks = self._frames = 0
        self._start: float | None = None
        self._signed: Facts | None = None
        """of the last line"""

    def begin(self, facts: Facts) -> None:
        """The pictures that follow are those of another chunk."""
        if self._file is None:
            self._file = sidecar_of(self._video).open("xb")
            self._sign(self._header_of(facts))
        if self._open:
            self._open[-1].closed = True
        self._open.append(_Open(facts))
        self._sign_ready()

    def picture(self, frame: VideoFrame, time: float) -> None:
        """A picture, as the encoder gets it, and when it is shown."""
        self._start = time if self._start is None else self._start
        chunk = self._open[-1]
        chunk.times.append(time - self._start)
        chunk.given.update(planes(frame))

    def encoded(self, packets: Sequence[Any], encoder: Any) -> None:
        """What the encoder made of the pictures so far."""
        if self._decoder is None and packets:
            self._decoder = av.CodecContext.create(encoder.codec.canonical_name, "r")
            self._decoder.extradata, self._decoder.thread_count = encoder.extradata, 1
        for packet in packets:
            self._take(self._decoder.decode(packet))

    def finish(self, warnings: Sequence[str]) -> None:
        """The file is closed. Signs the chunks that are left, and the end."""
        if self._file is None:
            return
        try:
            if self._decoder is not None:
                self._take(self._decoder.decode(None))
            self._open[-1].closed = True
            self._sign_ready()
            lost = [f"{len(self._open)} chunks could not be decoded"] if self._open else []
            self._sign(
                End(
                    chunks=self._chunks,
                    frames=self._frames,
                    file=file_record(self._video),
                    measurement=None,
                    damaged=0,
                    warnings=(*warnings, *lost),
                )
            )
        finally:
            self._file.close()

    def _take(self, frames: Sequence[VideoFrame]) -> None:
        for frame in frames:
            self._open[0].decoded.update(planes(frame))
            self._open[0].count += 1
            self._sign_ready()

    def _sign_ready(self) -> None:
        """Signs each chunk whose pictures are all decoded; of one without pictures the file holds nothing."""
        while self._open and self._open[0].closed and self._open[0].count == len(self._open[0].times):
            chunk = self._open.popleft()
            if chunk.times:
                self._sign(self._record(chunk))
                self._chunks, self._frames = self._chunks + 1, self._frames + chunk.count
                self._signed = chunk.facts

    def _record(self, chunk: _Open) -> ChunkRecord:
        facts, before = chunk.facts, self._signed or chunk.facts
        measurement = hashlib.sha256()
        for picture in facts.y:
            measurement.update(picture.tobytes())
        return ChunkRecord(
            chunk=self._chunks,
            first=self._frames,
            frames=chunk.count,
            shown=(round(chunk.times[0], 6), round(chunk.times[-1], 6)),
            y=measurement.hexdigest(),
            restored=chunk.given.hexdigest(),
            decoded=chunk.decoded.hexdigest(),
            rung=facts.rung,
            guided=facts.guided,
            residual=facts.residual,
            residual_file=None,
            trust=facts.trust,
            lost=facts.lost,
            operator=None if facts.operator == before.operator else facts.operator.model_dump(mode="json"),
            solver=None if facts.solver == before.solver else facts.solver.model_dump(mode="json"),
        )

    def _sign(self, record: Config) -> None:
        self._file.write(self._chain.line(record.model_dump(mode="json")))
        self._file.flush()
