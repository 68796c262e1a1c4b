"""What FFmpeg can read: a video, a stream or one picture. Upright pictures on one clock, other packets on the side."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.format import Flags as FormatFlags
from av.sidedata.sidedata import Type
from av.stream import Disposition

from core.contract import Pixels
from core.errors import UsageError
from server.files.clock import MICROSECOND, Clock
from server.files.colour import Coding, Unconvertible, coding, side_data, to_pixels
from server.files.deinterlace import Deinterlacer
from server.files.geometry import EXIF, Orientation, from_display_matrix, place, scaled_size
from server.files.paths import named, open_container
from server.files.source import About, AnyPacket, Carry, Extras, Picture
from server.files.stills import exif_orientation

DECLARES_LENGTH = {"mov", "matroska", "avi", "flv", "asf"}
"""formats whose header says how long the file is; elsewhere FFmpeg estimates it from what is there"""
MISSING = 0.5
"""seconds: a file that ends this much before its declared end was cut off"""
BOTTOM_FIRST = (3, 4)
"""values of AVFieldOrder whose bottom field is shown first"""
ANIMATIONS = {"gif", "apng"}
"""formats whose pictures have durations of their own"""
TECHNICAL = re.compile(
    r"(major_brand|minor_version|compatible_brands|encoder|duration|vendor_id|rotate|_statistics_.*|bps|number_of_.*)"
    r"(-\w+)?$",
    re.IGNORECASE,
)
"""metadata that describe the file as it was coded, and are wrong for the restored one"""


class VideoFile:
    """A `Source`. It is read once, from the start to the end, so that a pipe serves as well as a file."""

    def __init__(self, path: Path, deinterlace: bool = True):
        self.path = path
        self.damaged = 0
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self._container, self._pipe = open_container(path)
        try:
            self._open(deinterlace)
        except BaseException:
            self.close()
            raise

    def _open(self, deinterlace: bool) -> None:
        self._video = video_stream(self._container, self.path)
        self._video.thread_type = "AUTO"
        self._others = carried_streams(self._container)
        flags: Any = self._container.format.flags
        self._clock = Clock(self._container.start_time or 0, bool(flags & FormatFlags.ts_discont.value))
        self._end = 0.0
        self._errors: list[FFmpegError] = []
        self._early: list[AnyPacket] = []
        self._carry: Carry = self._early.append
        self._frames = self._decode()
        self._first = self._first_frame()
        self._orientation = orientation(self._first, self._container, self.path)
        self._coding = self._checked_coding(self._first)
        self.about = about(self._container, self._video, self._first, self._orientation, self._coding)
        self.extras = extras(self._container, self._video, self._others)
        self._deinterlacer = Deinterlacer(self._video) if deinterlace else None
        self.notes = changes(self._container, self._video, self._coding, self._first, self._others)

    def pictures(self, size: tuple[int, int], carry: Carry) -> Iterator[Picture]:
        """All pictures in order, scaled to `size` = (height, width); other packets go to `carry` on the way."""
        for packet in self._early:
            carry(packet)
        self._early.clear()
        self._carry = carry
        frames: Iterator[av.VideoFrame] = chain([self._first], self._frames)
        if self._deinterlacer:
            frames = self._deinterlacer(frames)
        times = Times(max(1, round(1 / (self.about.rate * self.about.time_base))))
        for frame in frames:
            pixels = self._pixels(frame, size)
            if pixels is not None:
                yield Picture(pixels, times.next(frame.pts), frame.duration or 0)
        self._finish()

    def close(self) -> None:
        self._container.close()
        if self._pipe:
            self._pipe.close()

    def _decode(self) -> Iterator[av.VideoFrame]:
        """The frames of the video stream in order, to the end or to where the file cannot be read any more."""
        packets = self._container.demux(self._video, *self._others)
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError as error:
                self.warnings.append(f"reading stopped before the end: {named(error.strerror or 'an error')}")
                packet = None
            except InterruptedError as error:
                raise KeyboardInterrupt from error
            if packet is None:
                yield from self._decoded(None)
                return
            if packet.size:
                self._clock.correct(packet)
                self._note_end(packet)
            if packet.stream is self._video:
                yield from self._decoded(packet)
            elif packet.size:
                self._carry(packet)

    def _decoded(self, packet: AnyPacket | None) -> list[av.VideoFrame]:
        try:
            return self._video.codec_context.decode(packet)
        except EOFError:  # the end of the file has emptied the decoder already
            return []
        except FFmpegError as error:
            self.damaged += 1
            self._errors.append(error)
            return []

    def _first_frame(self) -> av.VideoFrame:
        for frame in self._frames:
            return frame
        why = f": {named(self._errors[0].strerror or 'an error')}" if self._errors else ""
        raise UsageError(f"expected a video in {named(self.path)}, found one without a picture that decodes{why}")

    def _checked_coding(self, frame: av.VideoFrame) -> Coding:
        """How the pictures are coded. Raises UsageError, before any work, where they cannot become RGB."""
        try:
            found = coding(frame)
            to_pixels(frame, found, 16, 16)
        except Unconvertible as error:
            raise UsageError(
                f"expected colours that can be converted to RGB in {named(self.path)}, found the matrix {error}"
            ) from error
        except (FFmpegError, ValueError) as error:
            raise UsageError(
                f"cannot convert the pictures of {named(self.path)} to RGB: they are {frame.format.name}"
            ) from error
        return found

    def _pixels(self, frame: av.VideoFrame, size: tuple[int, int]) -> Pixels | None:
        """The upright picture at `size`, or None for one that cannot be converted.

        A recording that changes its size on the way keeps its shape, between black bars.
        """
        found, first = self._coding, self._first
        try:
            if (frame.format.name, frame.colorspace) != (first.format.name, first.colorspace):
                found = coding(frame)
            inner = size
            if (frame.height, frame.width) != (first.height, first.width):
                upright = self._orientation.size(frame.height, frame.width)
                inner = scaled_size(
                    Fraction(upright[1], upright[0]) * Fraction(size[1], size[0]) / shape(self.about), size, "inside"
                )
            pixels = to_pixels(frame, found, *self._orientation.size(*inner))
        except (FFmpegError, ValueError):
            self.damaged += 1
            return None
        return place(self._orientation.upright(pixels), size)

    def _note_end(self, packet: AnyPacket) -> None:
        if packet.pts is not None:
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            self._end = max(self._end, end)

    def _finish(self) -> None:
        """Says what the source lacked, now that it was read."""
        declared = declared_seconds(self._container)
        if declared is not None and self._end < declared - MISSING:
            self.warnings.append(f"cut off: it ends after {self._end:.2f} s of the {declared:.2f} s that it declares")
        if self._deinterlacer and self._deinterlacer.used:
            self.notes.append("interlaced pictures were deinterlaced (bwdif)")


@dataclass
class Times:
    """Presentation times that always increase: a picture without a useful one follows its predecessor by `step`."""

    step: int
    last: int | None = None

    def next(self, pts: int | None) -> int:
        if pts is None or (self.last is not None and pts <= self.last):
            pts = 0 if self.last is None else self.last + self.step
        self.last = pts
        return pts


def shape(about: About) -> Fraction:
    """Width over height in pixels."""
    return Fraction(about.width, about.height)


def video_stream(container: InputContainer, path: Path) -> av.VideoStream:
    """The default video track, else the first; a cover is none. Raises UsageError."""
    found = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not found:
        raise UsageError(f"expected a video in {named(path)}, found only {kinds(container)}")
    decoded = [stream for stream in found if stream.codec_context is not None]
    if not decoded:
        raise UsageError(f"expected a video in {named(path)}, found one whose codec FFmpeg cannot decode")
    return next((stream for stream in decoded if stream.disposition & Disposition.default), decoded[0])


def kinds(container: InputContainer) -> str:
    """What there is beside a video."""
    covers = any(stream.disposition & Disposition.attached_pic for stream in container.streams.video)
    found = {stream.type for stream in container.streams if stream.type != "video"}
    return " and ".join([*sorted(found), *(["a cover picture"] if covers else [])]) or "an empty file"


def carried_streams(container: InputContainer) -> tuple[Any, ...]:
    """The sound and subtitle streams: what can go along by its packets."""
    return tuple(s for s in container.streams if s.type in ("audio", "subtitle") and s.codec_context is not None)


def extras(container: InputContainer, video: av.VideoStream, others: tuple[Any, ...]) -> Extras:
    attachments = tuple(stream for stream in container.streams if stream.type == "attachment")
    start = container.start_time or 0
    chapters = tuple(moved(chapter, start) for chapter in container.chapters())
    return Extras((*others, *attachments), kept(container.metadata), kept(video.metadata), chapters)


def moved(chapter: Any, start: int) -> dict[str, Any]:
    """A chapter on the clock that starts at `start` microseconds."""
    shift = round(start * MICROSECOND / chapter["time_base"])
    return {**chapter, "start": max(0, chapter["start"] - shift), "end": max(0, chapter["end"] - shift)}


def kept(metadata: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if not TECHNICAL.match(key)}


def orientation(frame: av.VideoFrame, container: InputContainer, path: Path) -> Orientation:
    matrix = side_data(frame, Type.DISPLAYMATRIX)
    if matrix is not None:
        return from_display_matrix(matrix)
    if container.format.name.endswith("_pipe"):  # one picture: its orientation is in its EXIF
        return EXIF[exif_orientation(path)]
    return {90: EXIF[8], -90: EXIF[6], 180: EXIF[3], -180: EXIF[3]}.get(round(frame.rotation), Orientation())


def about(
    container: InputContainer, video: av.VideoStream, first: av.VideoFrame, upright: Orientation, source: Coding
) -> About:
    height, width = upright.size(first.height, first.width)
    aspect = video.sample_aspect_ratio or Fraction(1)
    aspect = aspect if Fraction(1, 16) <= aspect <= 16 else Fraction(1)
    rate = video.average_rate or video.guessed_rate or Fraction(25)
    rate = rate if 0 < rate <= 1000 else Fraction(25)
    time_base = video.time_base or 1 / rate
    length = video.frames or (round(video.duration * time_base * rate) if video.duration else None)
    shown = 1 / aspect if upright.transposed else aspect
    holds = container.format.name in ANIMATIONS
    return About(width, height, rate, time_base, length, shown, source.colour, holds, first_field(video, first))


def first_field(video: av.VideoStream, first: av.VideoFrame) -> Literal["top", "bottom"] | None:
    """The lines that interlaced video recorded first; top where it does not say."""
    if not first.interlaced_frame:
        return None
    return "bottom" if video.codec_context.field_order in BOTTOM_FIRST else "top"


def changes(
    container: InputContainer, video: av.VideoStream, source: Coding, first: av.VideoFrame, others: tuple[Any, ...]
) -> list[str]:
    """What of the source is not in the restored video, whatever its container."""
    found = []
    if source.high_range:
        found.append(f"high dynamic range ({'PQ' if source.transfer == 16 else 'HLG'}) was tone-mapped to BT.709")
    if source.bits > 8:
        found.append(f"{source.bits} bits per sample became 8")
    if source.alpha and first.format.name not in ("bgra", "rgba", "pal8", "argb", "abgr"):
        found.append("transparency was left out")
    taken = {video.index, *(stream.index for stream in others)}
    for stream in container.streams:
        if stream.index in taken or stream.type == "attachment":
            continue
        if stream.type == "data" and container.chapters():  # the text track of the chapters themselves
            continue
        cover = stream.type == "video" and stream.disposition & Disposition.attached_pic
        found.append(f"the {'cover picture' if cover else stream.type + ' track'} {stream.index} was left out")
    return found


def declared_seconds(container: InputContainer) -> float | None:
    """How long the file's header says it is."""
    if container.duration is None or not DECLARES_LENGTH & set(container.format.name.split(",")):
        return None
    return float(container.duration * MICROSECOND)
