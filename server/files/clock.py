"""The times of one file: every packet on one clock that starts at zero and does not jump. Pure: times are data."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from server.files.source import AnyPacket

MICROSECOND = Fraction(1, 1_000_000)
JUMP = 10_000_000
"""microseconds: a packet this far from where its stream should be starts another recording"""
FALL = 100_000
"""microseconds: a packet this far before its predecessor starts another recording"""
LOST = 30 * 3600 * 1_000_000
"""microseconds: in a file whose clock may not jump, a time this far off is not a time"""


@dataclass
class Clock:
    """Moves packet times to a common clock, as `ffmpeg` does without `-copyts`.

    `start` is the time (microseconds) of the file's first packet. Formats that are made to be cut and joined
    (`jumps`, FFmpeg's AVFMT_TS_DISCONT) may restart their clock anywhere: all streams then move together, so that
    pictures and sound stay aligned.
    """

    start: int = 0
    jumps: bool = False
    _offset: int = field(init=False)
    _next: dict[int, int] = field(default_factory=dict)
    """stream: when its next packet is due, microseconds on the common clock"""
    _last: int | None = None

    def __post_init__(self) -> None:
        self._offset = -self.start

    def correct(self, packet: AnyPacket) -> None:
        """Rewrites `pts` and `dts` of `packet`. A packet without a time follows its predecessor."""
        base, index = packet.time_base, packet.stream_index
        if packet.dts is None and packet.pts is None:
            packet.dts = packet.pts = in_units(self._next.get(index, 0), base)
        else:
            self._move(packet, self._offset, base)
            self._resume(packet, index, base)
        if packet.dts is not None:
            self._last = in_microseconds(packet.dts, base)
            self._next[index] = self._last + in_microseconds(packet.duration or 0, base)

    def _resume(self, packet: AnyPacket, index: int, base: Fraction) -> None:
        """Closes the gap before a packet that belongs to another recording."""
        if packet.dts is None:
            return
        now = in_microseconds(packet.dts, base)
        due = self._next.get(index)
        expected = self._last if due is None else due
        if expected is None:
            return
        ahead = now - expected
        if self.jumps and (abs(ahead) > JUMP or (due is not None and ahead < -FALL)):
            self._offset -= ahead
            self._move(packet, -ahead, base)
        elif not self.jumps and abs(ahead) > LOST:
            packet.dts = packet.pts = in_units(expected, base)

    @staticmethod
    def _move(packet: AnyPacket, microseconds: int, base: Fraction) -> None:
        units = in_units(microseconds, base)
        packet.dts = None if packet.dts is None else packet.dts + units
        packet.pts = None if packet.pts is None else packet.pts + units


@dataclass
class Order:
    """Keeps the decoding times of each output stream strictly increasing, which every muxer asks for."""

    _last: dict[int, int] = field(default_factory=dict)

    def correct(self, packet: AnyPacket, stream: int, base: Fraction) -> None:
        """Rewrites the times of `packet` in units of `base`: the smallest change that a muxer accepts."""
        scale = packet.time_base / base
        packet.duration = round((packet.duration or 0) * scale)
        dts = packet.pts if packet.dts is None else packet.dts
        pts = packet.dts if packet.pts is None else packet.pts
        packet.time_base = base
        if dts is None or pts is None:
            return
        after = self._last.get(stream)
        packet.dts = round(dts * scale) if after is None else max(round(dts * scale), after + 1)
        packet.pts = max(round(pts * scale), packet.dts)
        self._last[stream] = packet.dts


def in_units(microseconds: int, base: Fraction) -> int:
    return round(microseconds * MICROSECOND / base)


def in_microseconds(units: int, base: Fraction) -> int:
    return round(units * base / MICROSECOND)
