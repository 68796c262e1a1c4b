"""Encoding once for many: the players of a stream share an encoder in each quality class. Knows no network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from av import VideoFrame

from server.webrtc.bitrate import LEAST_BPS, bitrates
from server.webrtc.encoder import Encoded, FollowingEncoder, PictureEncoder

CLASSES = (1.0, 0.5, 0.25)
"""their rates as parts of the one that fits the frame, the best class first"""
KEPT = 16
"""encoded pictures that a class keeps for players that are behind. One that misses a picture waits for a key frame"""
IDLE = 5.0
"""seconds after which a class that nobody plays gives its encoder back"""


def class_rate(number: int, width: int, height: int, fps: float) -> int:
    """Bits per second of a class."""
    return max(LEAST_BPS, int(CLASSES[number] * bitrates(width, height, fps).start))


def class_for(bps: int, width: int, height: int, fps: float) -> int:
    """The best class that a path of `bps` bits per second carries; the last one where it carries none."""
    fitting = (number for number in range(len(CLASSES)) if class_rate(number, width, height, fps) <= 1.05 * bps)
    return next(fitting, len(CLASSES) - 1)


class QualityClass:
    """One encoder and its last pictures, numbered. A key frame that is asked for too early is delayed, not dropped."""

    def __init__(self, key_frame_every: float):
        self.pictures = PictureEncoder()
        self.used = float("-inf")
        """when it encoded last"""
        self._every = key_frame_every
        self._made: dict[int, tuple[int, asyncio.Future[Encoded]]] = {}
        """pictures that are encoded or about to be, by their timestamps, the oldest first"""
        self._count = 0
        self._newest: int | None = None
        self._key_wanted = False
        self._last_key = float("-inf")

    def want_key_frame(self) -> None:
        self._key_wanted = True

    def find(self, pts: int) -> tuple[int, asyncio.Future[Encoded]] | None:
        return self._made.get(pts)

    def is_past(self, pts: int) -> bool:
        """Whether a later picture was encoded, so that this one cannot be any more."""
        return self._newest is not None and pts <= self._newest

    def take_key(self, now: float) -> bool:
        """Whether the next picture becomes a key frame."""
        self.used = now
        key = self._key_wanted and now >= self._last_key + self._every
        if key:
            self._key_wanted, self._last_key = False, now
        return key

    def add(self, pts: int, picture: asyncio.Future[Encoded]) -> None:
        self._made[pts] = (self._count, picture)
        self._count, self._newest = self._count + 1, pts
        if len(self._made) > KEPT:
            del self._made[next(iter(self._made))]


class QualityClasses:
    """The encoders of one stream, one at work at a time: they read the same pictures."""

    def __init__(self, fps: float, key_frame_every: float, now: Callable[[], float]):
        self.fps = fps
        self.now = now
        self._every = key_frame_every
        self._classes: dict[int, QualityClass] = {}
        self._busy: asyncio.Future[Encoded] | None = None

    @property
    def running(self) -> list[int]:
        """The classes that have an encoder."""
        return sorted(self._classes)

    def want_key_frame(self, number: int) -> None:
        """A player of that class cannot decode what follows without a key frame."""
        self._of(number).want_key_frame()

    async def encode(self, number: int, frame: VideoFrame, key: bool) -> tuple[int, Encoded] | None:
        """A picture in that class, with its number there; None for one that came too late to be encoded.

        `key`: a key frame is wanted, for which it is too late where another player has asked for the picture already.
        """
        found, pts = self._of(number), frame.pts
        assert pts is not None, "a frame that is played has its time"
        while (made := found.find(pts)) is None:
            if found.is_past(pts):
                return None
            if self._busy is None or self._busy.done():
                if key:
                    found.want_key_frame()
                self._busy = self._begin(number, frame)
                found.add(pts, self._busy)
            else:
                await asyncio.wait([self._busy])
        count, picture = made
        return count, picture.result() if picture.done() else await asyncio.shield(picture)

    def _begin(self, number: int, frame: VideoFrame) -> asyncio.Future[Encoded]:
        now, found = self.now(), self._of(number)
        self._classes = {n: one for n, one in self._classes.items() if one is found or now - one.used < IDLE}
        bps, key = class_rate(number, frame.width, frame.height, self.fps), found.take_key(now)
        return asyncio.get_running_loop().run_in_executor(None, found.pictures.encode, frame, bps, key)

    def _of(self, number: int) -> QualityClass:
        return self._classes.setdefault(number, QualityClass(self._every))


class SharedEncoder(FollowingEncoder):
    """One player's part in the encoders of its stream: it plays the class that its path carries."""

    def __init__(self, classes: QualityClasses):
        super().__init__(classes.fps, classes.now)
        self.rebuilds = 0
        self._classes = classes
        self._number: int | None = None
        """of its class"""
        self._last: int | None = None
        """number of its last picture in that class; None when only a key frame can follow"""

    async def encode(self, frame: VideoFrame, key: bool) -> tuple[list[bytes], int]:
        """The payloads of one frame, and its RTP timestamp before the random offset.

        No payload while the player waits for a key frame. `key`: the player asks for one.
        """
        number = class_for(self._choose(frame, key or self._last is None), frame.width, frame.height, self._fps)
        if number != self._number:
            self._number, self._last = number, None
            self.rebuilds += 1
        made = await self._classes.encode(number, frame, key or self._last is None)
        if made is None or not self._follows(*made):
            self._last = None
            self._classes.want_key_frame(number)
            return [], 0
        self._last, encoded = made
        if key and not encoded.key:
            self._classes.want_key_frame(number)
        self._note_sent(encoded)
        return encoded.payloads, encoded.timestamp

    def _follows(self, number: int, encoded: Encoded) -> bool:
        """Whether the player can decode this picture after its last one."""
        return encoded.key or (self._last is not None and number == self._last + 1)
