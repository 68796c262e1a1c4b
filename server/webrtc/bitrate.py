"""The bit rate of restored video: where it starts, how it follows the receiver, how packets are paced and repeated.

Pure: time is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

REFERENCE_PIXELS = 832 * 480 * 16
"""pixels per second at which `REFERENCE_BPS` gives 40 dB of PSNR on footage of water and crowds, 45 dB on most"""
REFERENCE_BPS = 2_300_000
LEAST_BPS = 200_000
SHORT_ROUND_TRIP = 0.1
"""seconds; a path whose queue is full has a longer one"""
SHARE = 0.75
"""of the probed capacity that the first frames may take: the rest is for headers, retransmissions and key frames"""
LEAST_ANSWERS = 6
"""packets of a burst that must be answered, or the burst says nothing"""


@dataclass(frozen=True)
class Bitrates:
    """Bits per second of one video encoder: its first rate, and the bounds within which it follows the receiver."""

    start: int
    least: int
    most: int

    def clamp(self, bps: float) -> int:
        return int(min(max(bps, self.least), self.most))


def bitrates(width: int, height: int, fps: float) -> Bitrates:
    """The rates for a frame size. Small frames need more bits per pixel, hence the power (measured)."""
    pixels = width * height * fps
    start = int(REFERENCE_BPS * (pixels / REFERENCE_PIXELS) ** 0.58)
    return Bitrates(start, LEAST_BPS, max(2 * start, 4 * LEAST_BPS))


def capacity(answers: Sequence[float], size: int) -> float | None:
    """Bits per second of a path, from the times at which a burst of packets of `size` bytes was answered.

    None when too few were answered. A narrow path spreads a burst to the rate that it carries. A lost packet or a late
    answer makes it look narrower.
    """
    if len(answers) < LEAST_ANSWERS:
        return None
    return 8 * size * (len(answers) - 1) / max(max(answers) - min(answers), 1e-3)


@dataclass
class RateFollower:
    """Follows the receiver's estimate in few, large steps: each rebuilds the encoder and costs a key frame.

    It starts within `capacity`, the bits per second that the path carried when it was probed before the first frame.
    A receiver estimates little more than it gets. So an estimate below our rate says nothing while the frames are
    simple and we send less. Only an estimate clearly below what we do send lowers the rate.
    """

    rates: Bitrates
    capacity: float | None = None
    current: int = 0
    sent: float = 0
    """bits per second sent in the last seconds"""
    _estimate: float | None = None
    _loss: float = 0.0
    _binding: int = 0
    """number of estimates in a row below what was sent"""
    _changed: float | None = None

    def observe(self, estimate: float) -> None:
        """Takes the receiver's estimate of the bandwidth, in bits per second (REMB)."""
        self._binding = self._binding + 1 if estimate < 0.85 * self.sent else 0
        self._estimate = estimate

    def lose(self, share: float) -> None:
        """Takes the share of packets that the receiver reports lost. Above a tenth, the path is too narrow.

        The share is smoothed, since a report covers a dozen packets: at 5 % real loss, single reports reach 13 % but
        never 30 %. So 30 % is acted on at once. It halves the rate at most, since a blackout reports 100 % on an
        unchanged path.
        """
        self._loss += 0.4 * (share - self._loss)
        excess = share if share > 0.3 else self._loss
        if share > 0.1 and excess > 0.1:
            self._estimate, self._binding = self.current * max(0.5, 1 - excess), 2

    def choose(self, now: float, free: bool = False) -> int:
        """The rate to encode at from `now` on. `free`: a key frame is due anyway, so a change costs nothing."""
        wanted = self._wanted()
        if self._changed is None or self._worth(wanted, now - self._changed, free):
            self.current, self._changed = wanted, now
        return self.current

    def _wanted(self) -> int:
        usual = self.current or self._opening()
        if self._estimate is None:
            return usual
        heavy = self._estimate < 0.6 * self.sent
        if self._binding >= 2 or heavy:
            return self.rates.clamp(min(self._estimate, usual))
        return self.rates.clamp(max(self._estimate, usual))

    def _opening(self) -> int:
        """The first rate: the one for the frame size, or what the path carries if that is less."""
        if self.capacity is None:
            return self.rates.start
        return min(self.rates.start, self.rates.clamp(SHARE * self.capacity))

    def _worth(self, wanted: int, since: float, free: bool) -> bool:
        """Whether to change the rate: down at once when needed, up rarely, since a wrong step up fills a queue."""
        ratio = wanted / self.current
        if free:
            return not 0.9 <= ratio <= 1.1
        return (ratio < 0.8 and since >= 0.5) or (ratio > 1.4 and since >= 5.0)


@dataclass
class Pacer:
    """Spreads the packets of a large frame: sent in one burst, a key frame overflows the queue of a narrow link."""

    factor: float = 2.5
    """how much faster than the encoder's rate packets leave"""
    burst: int = 12_000
    """bytes that may leave at once: an ordinary frame, or a twentieth of a second if that is less"""
    _free: float = 0.0

    def wait(self, size: int, bps: float, now: float, capacity: float | None = None) -> float:
        """Seconds until a packet of `size` bytes may leave; `capacity` is that of the path in bits per second."""
        bps = max(bps, LEAST_BPS)
        rate = min(self.factor * bps, max(1.25 * bps, 0.9 * capacity if capacity else float("inf"))) / 8
        self._free = max(self._free, now - min(self.burst / rate, 0.05)) + size / rate
        return max(0.0, self._free - now)


class Repeats:
    """How often a requested packet is sent again.

    Not at all while the answer to the last request is under way: behind a full queue, each answer arrived five times.
    Over a short path the second answer is sent twice, since a third would be too late for smooth playback. At most a
    quarter of the rate is spent: a receiver that loses more needs a lower rate, not more retransmissions.
    """

    def __init__(self, limit: int = 1024):
        self._limit = limit
        self._sent: dict[int, float] = {}
        self._budget, self._counted = 0.0, float("-inf")
        """bytes that may be sent again, as of when"""

    def copies(self, sequence: int, bps: float, round_trip: float, now: float) -> int:
        before = self._sent.get(sequence)
        allowance = 0.25 * max(bps, LEAST_BPS) / 8
        self._budget = min(allowance, self._budget + allowance * (now - self._counted))
        self._counted = now
        if self._budget < 1200 or (before is not None and now - before < max(0.02, 0.8 * round_trip)):
            return 0
        self._sent.pop(sequence, None)
        self._sent[sequence] = now
        if len(self._sent) > self._limit:
            del self._sent[next(iter(self._sent))]
        copies = 2 if before is not None and round_trip < SHORT_ROUND_TRIP else 1
        self._budget -= 1200 * copies
        return copies
