"""RTP packets in, whole video frames out, and what to request from the sender. Pure: no I/O; time is data.

A frame is whole when its marker packet and everything before it has arrived, not when the next frame begins.
Missing packets are requested repeatedly. A hole that stays is given up, and then only a key frame helps.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import Field

from core.config import Config
from server.webrtc.limits import TokenBucket

SEQUENCES = 1 << 16
TAIL_REQUESTS = 2
"""requests for the end of a frame before the next frame shows whether there is more of it"""
FEW = 16
"""a request for so few packets is sent twice: it is lost as easily as they were"""
MISSES, MISS_BURST = 1000.0, 1024.0
"""missing packets that are noted and requested a second on average, and at once: as many as of 2,500 packets a second
when two fifths are lost. Each is some work, and a hostile sender leaves out what it likes"""
HURRY = 0.1
"""least seconds between two key frame requests that do not wait for their turn"""
H264_KEY = re.compile(b"\0\0\1[" + bytes(n for n in range(256) if n & 0x1F in (5, 7)) + b"]")
"""a start code and the first byte of an IDR slice or of parameter sets"""


class ReceptionConfig(Config):
    """When to request packets again, when to request a key frame, when to give up. Times are in seconds."""

    give_up: float = Field(0.4, gt=0, le=60)
    """a hole this old is given up; twice the round trip if that is longer"""
    plead_after: float = Field(0.2, gt=0, le=60)
    """a key frame is requested for a hole this old: it arrives at about the time when the hole is given up"""
    plead_every: float = Field(0.3, gt=0, le=60)
    """shortest time between two key frame requests; it doubles, four times at most, until one is answered"""
    nack_every: float = Field(0.06, gt=0, le=60)
    """time between two requests for one packet, until the round trip is known"""
    tail_after: float = Field(0.02, gt=0, le=60)
    """the next packet is requested when the end of a frame is missing and nothing arrived for so long"""
    max_hole: int = Field(256, ge=1, le=4096)
    """when more packets are missing than this, none is requested: the stream starts again at a key frame"""
    max_span: float = Field(0.6, gt=0, le=60)
    """a hole that spans more seconds of video than this is not filled either: its frames would be too late"""
    max_waiting: int = Field(2048, ge=64, le=16384)
    """packets that are kept behind a hole"""
    max_frame: int = Field(2 << 20, ge=1 << 16, le=1 << 26)
    """bytes of one encoded frame; a longer one is dropped"""
    max_parts: int = Field(2048, ge=64, le=16384)
    """packets of one frame; a frame of more is dropped"""


@dataclass(frozen=True)
class Packet:
    """One RTP packet of one video stream, its payload without the codec's descriptor."""

    sequence: int
    timestamp: int
    marker: bool
    payload_type: int
    data: bytes


@dataclass(frozen=True)
class EncodedFrame:
    """One whole encoded frame."""

    data: bytes
    timestamp: int
    """RTP timestamp, 90 kHz, 32 bits"""
    payload_type: int
    key: bool
    lost: bool
    """frames between this one and the one before it were lost"""
    arrival: float
    """when its last packet arrived, in the caller's clock"""


@dataclass(frozen=True)
class Requests:
    """What to request from the sender now."""

    nack: list[int] = field(default_factory=list)
    """RTP sequence numbers to send again"""
    key_frame: bool = False

    @property
    def copies(self) -> int:
        """How often to send the request for packets. The sender takes two requests in a row for one."""
        return 2 if len(self.nack) <= FEW else 1


@dataclass
class Missing:
    """A packet that later ones overtook."""

    since: float
    due: float
    """when it is requested next"""
    requested: float = 0
    """when it was requested last"""
    requests: int = 0


@dataclass
class ReceptionCounters:
    """What happened to one video stream so far."""

    packets: int = 0
    late: int = 0
    """packets that arrived twice, or after their hole was given up"""
    recovered: int = 0
    """packets that arrived because they were requested again"""
    nacks: int = 0
    key_frame_requests: int = 0
    frames: int = 0
    key_frames: int = 0
    given_up: int = 0
    """holes that were given up"""
    undecodable: int = 0
    """whole frames that were dropped while a key frame was awaited"""
    oversized: int = 0
    """frames that were dropped because they had too many bytes or packets"""


class FrameAssembler:
    """Puts the packets of one video stream in order and cuts them into frames."""

    def __init__(self, is_key: Callable[[int, bytes], bool], config: ReceptionConfig | None = None):
        """`is_key(payload_type, data)` says whether a frame that begins with `data` is a key frame."""
        self.config = config or ReceptionConfig()
        self.counters = ReceptionCounters()
        self._is_key = is_key
        self.fault: str | None = None
        """why a frame was dropped whole, in one sentence"""
        self._packets: dict[int, Packet] = {}
        """packets behind a hole, by number"""
        self._key_starts: set[int] = set()
        """those of them that begin a key frame"""
        self._parts: list[Packet] = []
        """packets of the frame that is being completed"""
        self._size = 0
        """bytes in `_parts`"""
        self._dropped_timestamp: int | None = None
        """of a frame that is dropped: whatever else arrives of it is dropped, too"""
        self._cursor = 0
        """number of the packet that is needed next"""
        self._highest = -1
        self._newest = 0
        self._tail: Missing | None = None
        """the end of the newest frame, while it has not arrived"""
        self._missing: dict[int, Missing] = {}
        self._needs_key = True
        self._lost = False
        self._misses = TokenBucket(MISSES, MISS_BURST)
        self._hurried = float("-inf")
        self._pleaded: float | None = None
        self._plea_pause = self.config.plead_every
        self._round_trip: float | None = None

    @property
    def waiting(self) -> bool:
        """Something is missing: `requests` is to be called again soon, packets or not."""
        tail = self._tail is not None and self._tail.requests < TAIL_REQUESTS
        return bool(self._missing) or tail or (self._needs_key and self._highest >= 0)

    def add(self, packet: Packet, now: float) -> list[EncodedFrame]:
        """The frames, in order, that `packet` completes."""
        self.counters.packets += 1
        number = self._unwrap(packet.sequence, packet.timestamp, now)
        if number < self._cursor or number in self._packets:
            self.counters.late += 1
            return []
        if self._is_hopeless(number, packet.timestamp, now):
            self._restart(number, now)
        for hole in range(self._highest + 1, number):
            self._missing[hole] = Missing(since=now, due=now)
        self._note_recovery(self._missing.pop(number, None), now)
        self._packets[number] = packet
        if number != self._cursor and self._is_key(packet.payload_type, packet.data):
            self._key_starts.add(number)
        if number > self._highest:
            self.counters.recovered += (
                self._tail is not None and self._tail.requests > 0 and number == self._highest + 1
            )
            self._highest, self._newest = number, packet.timestamp
            self._tail = None if packet.marker else Missing(since=now, due=now + self.config.tail_after)
        return self._take(now)

    def requests(self, now: float) -> tuple[list[EncodedFrame], Requests]:
        """The frames that giving up a hole sets free, and what to request from the sender now."""
        hole = self._missing.get(self._cursor)
        frames: list[EncodedFrame] = []
        if hole and (now - hole.since >= self._patience() or len(self._packets) > self.config.max_waiting):
            self._give_up()
            frames = self._take(now)
            hole = self._missing.get(self._cursor)
        old = hole is not None and now - hole.since >= self.config.plead_after
        return frames, Requests(self._due(now), self._plead(now, self._needs_key or old))

    def demand_key_frame(self) -> None:
        """The decoder cannot continue without a key frame."""
        self._needs_key = self._lost = True

    def restart(self) -> None:
        """The next packet begins another stream, with sequence numbers of its own."""
        self._jump(self._highest + 1)
        self._highest, self._dropped_timestamp = -1, None

    def _is_hopeless(self, number: int, timestamp: int, now: float) -> bool:
        """Whether too much is missing before a packet to request it."""
        hole = number - self._highest - 1
        if hole <= 0:
            return False
        span = (timestamp - self._newest) % (1 << 32) / 90000
        if hole + len(self._missing) > self.config.max_hole or span > self.config.max_span:
            return True
        return not self._misses.take(hole, now)

    def _unwrap(self, sequence: int, timestamp: int, now: float) -> int:
        """The packet's place in the stream: its 16-bit number, counted on."""
        if self._highest < 0:
            self._cursor = sequence + SEQUENCES
            self._highest = self._cursor - 1
            self._newest = timestamp
            self._pleaded = now if self._pleaded is None else self._pleaded
        ahead = (sequence - self._highest) % SEQUENCES
        return self._highest + (ahead if ahead < SEQUENCES // 2 else ahead - SEQUENCES)

    def _take(self, now: float) -> list[EncodedFrame]:
        """The frames that the packets at the cursor complete. Moves the cursor to the next hole."""
        frames = []
        while packet := self._packets.pop(self._cursor, None):
            self._key_starts.discard(self._cursor)
            self._cursor += 1
            if self._parts and self._parts[0].timestamp != packet.timestamp:
                frames.append(self._finish(now))
            if self._collect(packet) and packet.marker:
                frames.append(self._finish(now))
        return [frame for frame in frames if frame]

    def _collect(self, packet: Packet) -> bool:
        """Adds a packet to its frame; false when that frame is dropped because it is too long."""
        if packet.timestamp == self._dropped_timestamp:
            return False
        self._dropped_timestamp = None
        self._parts.append(packet)
        self._size += len(packet.data)
        if self._size <= self.config.max_frame and len(self._parts) <= self.config.max_parts:
            return True
        self.fault = f"a frame has more than {self.config.max_frame} bytes or {self.config.max_parts} packets"
        self.counters.oversized += 1
        self._dropped_timestamp = packet.timestamp
        self._parts, self._size = [], 0
        self.demand_key_frame()
        return False

    def _finish(self, now: float) -> EncodedFrame | None:
        """The frame of the collected packets; None when it is padding or cannot be decoded."""
        first, data = self._parts[0], b"".join(part.data for part in self._parts)
        self._parts, self._size = [], 0
        if not data:
            return None
        key = self._is_key(first.payload_type, data)
        if self._needs_key and not key:
            self.counters.undecodable += 1
            self._lost = True
            return None
        frame = EncodedFrame(data, first.timestamp, first.payload_type, key, self._lost, now)
        self._needs_key = self._lost = False
        self.counters.frames += 1
        self.counters.key_frames += key
        self._plea_pause = self.config.plead_every if key else self._plea_pause
        return frame

    def _patience(self) -> float:
        """How long a hole may last: less when a key frame waits behind it, nothing when we need that one."""
        if self._key_start() is None:
            return max(self.config.give_up, 2 * (self._round_trip or 0))
        return 0 if self._needs_key else self.config.plead_after

    def _key_start(self) -> int | None:
        """Where behind the hole a key frame begins."""
        return min(self._key_starts, default=None)

    def _give_up(self) -> None:
        """Gives up the hole: continues at a key frame that has begun to arrive, or at the next packet."""
        self.counters.given_up += 1
        start = self._key_start()
        self._jump(self._highest + 1 if start is None else start)

    def _restart(self, number: int, now: float) -> None:
        """So much is missing that the sender cannot repeat it: continues at `number`, requests a key frame at once."""
        self.counters.given_up += 1
        self._highest = number - 1
        self._jump(number)
        if now - self._hurried >= HURRY:
            self._hurried, self._pleaded = now, now - 4 * self._plea_pause

    def _jump(self, cursor: int) -> None:
        self._packets = {n: packet for n, packet in self._packets.items() if n >= cursor}
        self._missing = {n: missing for n, missing in self._missing.items() if n >= cursor}
        self._key_starts = {n for n in self._key_starts if n >= cursor}
        self._parts, self._size, self._tail = [], 0, None
        self._cursor = cursor
        self.demand_key_frame()

    def _note_recovery(self, missing: Missing | None, now: float) -> None:
        """Counts a packet that was requested, and learns the round trip from it.

        After one request, its delay is the round trip (Karn's algorithm). After several, it says something only when
        it arrives too soon to answer the latest: then it answers an earlier one, and we request too often.
        """
        if missing is None or missing.requests == 0:
            return
        self.counters.recovered += 1
        known, delay = self._round_trip, now - missing.requested
        if missing.requests > 1:
            if known is not None and delay > 0.5 * known:
                return
            delay = now - missing.since
        self._round_trip = delay if known is None else 0.8 * known + 0.2 * delay

    def _due(self, now: float) -> list[int]:
        """The packets to request (again) now."""
        round_trip = self.config.nack_every if self._round_trip is None else 1.2 * self._round_trip
        again = min(max(round_trip, 0.03), 0.3)
        numbers = [number for number, missing in self._missing.items() if missing.due <= now]
        for number in numbers:
            missing = self._missing[number]
            missing.requested, missing.requests = now, missing.requests + 1
            missing.due = now + again
        if self._tail is not None and self._tail.due <= now and self._tail.requests < TAIL_REQUESTS:
            numbers.append(self._highest + 1)
            self._tail.requests, self._tail.due = self._tail.requests + 1, now + again
        self.counters.nacks += bool(numbers)
        return [number % SEQUENCES for number in numbers]

    def _plead(self, now: float, wanted: bool) -> bool:
        if not wanted or self._pleaded is None or now - self._pleaded < self._plea_pause:
            return False
        self._pleaded = now
        self._plea_pause = min(2 * self._plea_pause, 4 * self.config.plead_every)
        self.counters.key_frame_requests += 1
        return True


@dataclass
class Timeline:
    """RTP timestamps (32 bits, wrapping) to presentation times that start at 0 and never decrease."""

    step: int = 3000
    """how far the time advances when the sender's clock jumps, in 1/90000 s"""
    _last: int | None = None
    _time: int = 0

    def map(self, timestamp: int) -> int:
        """The presentation time of `timestamp`; a jump back, or ahead by a minute, counts as one step."""
        if self._last is not None:
            ahead = (timestamp - self._last) % (1 << 32)
            self._time += ahead if 0 < ahead < 60 * 90000 else self.step
        self._last = timestamp
        return self._time


def is_vp8_key(data: bytes) -> bool:
    """Whether `data` begins a VP8 key frame: frame tag and start code (RFC 6386, 9.1)."""
    return len(data) >= 10 and not data[0] & 1 and data[3:6] == b"\x9d\x01\x2a"


def vp8_size(data: bytes) -> tuple[int, int]:
    """Width and height that a VP8 key frame declares (RFC 6386, 9.1)."""
    return int.from_bytes(data[6:8], "little") & 0x3FFF, int.from_bytes(data[8:10], "little") & 0x3FFF


def is_h264_key(data: bytes) -> bool:
    """Whether H.264 access unit data holds parameter sets or an IDR slice (ITU-T H.264, 7.3.1)."""
    return H264_KEY.search(data) is not None
