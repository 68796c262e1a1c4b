"""A session's sound, passed on with the same delay as the restored video. Knows no codec.

Encoded packets are delayed and sent on unchanged: nothing is decoded, so nothing is lost to a second encoding. The
delay is the latency of the video frames that leave, followed in steps too small to be heard.
"""

from __future__ import annotations

import asyncio
import bisect
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from statistics import median
from typing import Any, Generic, TypeVar

import av
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from server.media.tracks import changed_or_due

P = TypeVar("P")


@dataclass
class SoundPlayout(Generic[P]):
    """Packets on their sender's clock, delayed by `delay` seconds. Pure: no I/O; time is data, in seconds."""

    tolerance: float = 0.02
    """how far the delay may be from the video's latency before it is changed"""
    patience: float = 0.04
    """a packet that is later than this is dropped"""
    capacity: int = 1000
    """packets that may wait: 20 s of 20 ms each; the oldest are dropped"""
    dropped: int = 0

    delay: float | None = None
    """None until the first video frame has left: sound waits for it"""
    _latencies: deque[float] = field(default_factory=lambda: deque(maxlen=15))
    _offset: float | None = None
    """arrival time minus source time, smoothed"""
    _waiting: list[tuple[float, int, P]] = field(default_factory=list)
    _count: int = 0
    _last: float = float("-inf")
    """source time plus delay of the packet that left last"""

    def put(self, packet: P, source: float, arrival: float) -> None:
        """Takes the packet of source time `source`, and puts it in order."""
        offset = arrival - source
        if self._offset is None or abs(offset - self._offset) > 0.5:
            self._offset = offset
        self._offset += 0.02 * (offset - self._offset)
        self._count += 1
        bisect.insort(self._waiting, (source, self._count, packet))
        if len(self._waiting) > self.capacity:
            del self._waiting[0]
            self.dropped += 1

    def follow(self, latency: float) -> None:
        """A video frame left `latency` seconds after it arrived."""
        self._latencies.append(latency)
        settled = median(self._latencies)
        if self.delay is None or abs(settled - self.delay) > self.tolerance:
            self.delay = settled

    def due(self) -> float | None:
        """When the next packet leaves; None while none can."""
        if not self._waiting or self.delay is None or self._offset is None:
            return None
        return self._waiting[0][0] + self._offset + self.delay

    def take(self, now: float) -> tuple[float, P] | None:
        """The packet that leaves by `now`, with its output time; None when none is due."""
        while (due := self.due()) is not None and due <= now:
            source, _, packet = self._waiting.pop(0)
            assert self.delay is not None
            out = source + self.delay
            if now - due <= self.patience and out > self._last:
                self._last = out
                return out, packet
            self.dropped += 1
        return None


class CarriedTrack(MediaStreamTrack):
    """The outgoing sound of a session."""

    kind = "audio"

    def __init__(self, playout: SoundPlayout[av.Packet[Any]] | None = None):
        super().__init__()
        self.playout: SoundPlayout[av.Packet[Any]] = playout or SoundPlayout()
        self._changed = asyncio.Event()
        self._origin: float | None = None

    def put(self, packet: av.Packet[Any], arrival: float) -> None:
        """Takes an encoded packet that arrived at `arrival`."""
        assert packet.pts is not None and packet.time_base is not None
        self.playout.put(packet, float(packet.pts * packet.time_base), arrival)
        self._changed.set()

    def follow(self, latency: float) -> None:
        """A video frame left `latency` seconds after it arrived."""
        self.playout.follow(latency)
        self._changed.set()

    def stop(self) -> None:
        super().stop()
        self._changed.set()

    async def recv(self) -> av.Packet[Any]:
        """The next packet, when it is due: the peer connection sends it unchanged."""
        clock: Callable[[], float] = asyncio.get_running_loop().time
        while self.readyState == "live":
            taken = self.playout.take(clock())
            if taken is not None:
                return self._stamp(*taken)
            await changed_or_due(self._changed, self.playout.due())
        raise MediaStreamError("the session ended")

    def _stamp(self, out: float, packet: av.Packet[Any]) -> av.Packet[Any]:
        """The packet with its output time, in the time base it arrived with."""
        if self._origin is None:
            self._origin = out
        unit = packet.time_base or Fraction(1, 48000)
        packet.pts = round((out - self._origin) / unit)
        return packet
