"""Frames in, chunks out: the half of a session that faces the network. Pure: `now` is an argument, in seconds.

Converting a frame to pixels takes a moment, so it happens between two calls: `accept` queues frames, `next` hands out
the frame to convert, `fill` takes its pixels.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from av import VideoFrame

from core.chunks import Chunk, Chunker, ChunkSpec
from core.contract import Pixels
from server.media.sampling import FrameSampler
from server.sessions.telemetry import SessionFigures

INBOX = 8
"""frames that may wait to be converted, beside those that fill a pause; over that, the oldest is dropped"""
MASKED = 0.5
"""largest share of a chunk's frames that may be lost and masked. Beyond it the rest does not determine them: a frozen
picture was nearer to the truth (8 of 9 lost, two clips, super-resolution and temporal average: by 0.7 to 1.2 dB)"""
PAUSE = 0.25
"""repeats longer than this (seconds) mean that the source paused, not that it is slow"""


@dataclass
class SlottedFrame:
    """One frame in its slot."""

    slot: int
    """place at the session's frame rate"""
    timestamp: float
    """of the source, in seconds"""
    arrival: float
    """by the server's clock, in seconds"""
    picture: VideoFrame
    gap: bool = False
    """frames are missing before this one"""
    lost: bool = False
    """the network lost this frame: `picture` is the frame before it"""
    pause: bool = False
    """repeats the frame before it, because the source paused"""


@dataclass(frozen=True)
class FilledChunk:
    """A chunk whose frames are complete, with what is known of each frame."""

    chunk: Chunk[Pixels]
    gap: bool
    """frames are missing before this chunk"""
    slots: tuple[int, ...]
    timestamps: tuple[float, ...]
    arrivals: tuple[float, ...]
    lost: tuple[int, ...]
    """indices of frames that the network lost; the frame before each is repeated in its place"""
    masked: tuple[int, ...]
    """those of them that the operator does not measure"""
    standing: tuple[int, ...]
    """slots of frames that repeat the one before them while the source paused"""


class Intake:
    """Gives the frames of one session their slots and fills chunks with them. Counts what it drops in `figures`."""

    def __init__(self, fps: float, idle_pause: float, figures: SessionFigures, chunks: ChunkSpec):
        """`idle_pause`: seconds without a frame up to which the slots that stayed empty are filled."""
        self._fps = fps
        self._limit = INBOX + round(idle_pause * fps)
        self._figures = figures
        self._sampler = FrameSampler(fps, max_fill=idle_pause)
        self._chunks = chunks
        self._chunker: Chunker[tuple[SlottedFrame, Pixels]] = Chunker(chunks)
        self._inbox: deque[SlottedFrame] = deque()
        self._last: VideoFrame | None = None
        """the last frame, which fills slots that stay empty after it"""
        self._gap = False
        """frames are missing before the next chunk"""
        self._reconnected = False
        """the next frame is the first of another connection, whose timestamps begin anew"""
        self._shift = 0.0
        self._last_source: tuple[float, float] | None = None
        """timestamp and arrival of the last frame"""

    @property
    def pending(self) -> int:
        """Frames that wait for their chunk to fill."""
        return self._chunker.pending

    def accept(self, picture: VideoFrame, now: float, lost: bool = False) -> None:
        """Queues the frame in its slot, after repeats of the frame before it in the slots that stayed empty.

        `lost`: the network lost frames before this one.
        """
        lost = lost or self._reconnected
        timestamp = self._source_time(float(picture.time or 0.0), now)
        sample = self._sampler.accept(timestamp, now)
        if sample.slot is None:
            self._figures.dropped["rate"] += 1
            return
        pause = sample.repeats > PAUSE * self._fps
        for slot in range(sample.slot - sample.repeats, sample.slot):
            self._queue(SlottedFrame(slot, timestamp, now, self._last or picture, lost=lost, pause=pause))
        self._figures.frames_lost += sample.repeats if lost else 0
        self._figures.frames_repeated += 0 if lost else sample.repeats
        self._queue(SlottedFrame(sample.slot, timestamp, now, picture, sample.gap))
        self._last = picture

    def next(self) -> SlottedFrame | None:
        """Takes the next frame to convert. A gap before it discards the chunk that was filling.

        A chunk that spans a gap would be false to every temporal operator.
        """
        if not self._inbox:
            return None
        frame = self._inbox.popleft()
        if frame.gap:
            self._figures.dropped["gap"] += self._chunker.pending
            self._chunker = Chunker(self._chunks, self._chunker.index)
            self._gap = True
        return frame

    def fill(self, frame: SlottedFrame, pixels: Pixels) -> FilledChunk | None:
        """Adds a converted frame; returns the chunk that it completes, if any."""
        chunk = self._chunker.push((frame, pixels))
        if chunk is None:
            return None
        frames = [frame for frame, _ in chunk.frames]
        lost = tuple(index for index, frame in enumerate(frames) if frame.lost)
        frozen = len(lost) > MASKED * len(frames)
        gap, self._gap = self._gap, frozen
        return FilledChunk(
            Chunk(chunk.index, [pixels for _, pixels in chunk.frames]),
            gap,
            slots=tuple(frame.slot for frame in frames),
            timestamps=tuple(frame.timestamp for frame in frames),
            arrivals=tuple(frame.arrival for frame in frames),
            lost=lost,
            masked=() if frozen else lost,
            standing=tuple(frame.slot for frame in frames if frame.pause and (frozen or not frame.lost)),
        )

    def reconnect(self) -> None:
        """The next frame comes over another connection."""
        self._reconnected = True

    def open_stream(self) -> None:
        """The next chunk opens a stream; frames of a later chunk that was filling are dropped."""
        if self._chunker.index != 0:
            self._figures.dropped["gap"] += self._chunker.pending
            self._chunker = Chunker(self._chunks)

    def _source_time(self, time: float, now: float) -> float:
        """A timestamp on the session's own time line, on which a new connection goes on."""
        if self._reconnected and self._last_source is not None:
            last, arrival = self._last_source
            self._shift = last + (now - arrival) - time
        self._reconnected = False
        self._last_source = (time + self._shift, now)
        return time + self._shift

    def _queue(self, frame: SlottedFrame) -> None:
        if len(self._inbox) >= self._limit:
            self._inbox.popleft()
            self._figures.dropped["overrun"] += 1
            self._inbox[0].gap = True
        self._inbox.append(frame)
