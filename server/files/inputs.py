"""Video files in: upright pictures with their own timestamps, audio packets on the side. Knows no model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import count, islice
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.stream import Disposition

from core.chunks import ChunkSpec
from core.errors import UsageError

Pixels = npt.NDArray[np.uint8]
"""One picture [H, W, 3], RGB, 0..255."""

AudioPacket: TypeAlias = "av.Packet[av.AudioStream]"

Carry = Callable[[AudioPacket], None]
"""Takes an audio packet of the source as it comes by."""

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
FOLDER_RATE = Fraction(16)
"""frames per second of a folder of pictures"""
UNSPECIFIED = 2
"""the code for "not said" of a colour space, its primaries and its transfer"""
LIMITED = 1
"""the code for luma in 16..235"""


@dataclass(frozen=True)
class Colour:
    """How the source codes colour: FFmpeg's codes of ISO/IEC 23091-2."""

    space: int = UNSPECIFIED
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED


@dataclass(frozen=True)
class Picture:
    pixels: Pixels
    pts: int
    """when it is shown, in units of the source's `time_base`"""


@dataclass(frozen=True)
class About:
    """What a source is, before its pictures are read."""

    width: int
    height: int
    """of the upright picture"""
    rate: Fraction
    """frames per second, on average"""
    time_base: Fraction
    """seconds per unit of `pts`"""
    length: int | None
    """number of pictures, where the source says so"""
    aspect: Fraction = Fraction(1)
    """width over height of one pixel"""
    colour: Colour = Colour()


class Source(Protocol):
    """Something to restore."""

    about: About
    audio: tuple[av.AudioStream, ...]
    damaged: int
    """packets that could not be decoded and were left out"""

    def pictures(self, size: tuple[int, int], carry: Carry) -> Iterator[Picture]:
        """All pictures in order, scaled to `size` = (height, width); audio goes to `carry` on the way."""
        ...

    def close(self) -> None: ...


def open_source(path: Path) -> Source:
    """A video file, a picture, or a folder of pictures. Raises UsageError for anything else."""
    if path.is_dir():
        return PictureFolder(path)
    return VideoFile(path)


class VideoFile:
    """A file that FFmpeg can read: a video or a single picture."""

    def __init__(self, path: Path):
        self.path = path
        self.damaged = 0
        first = self._first_picture()
        self._container = _open(path)
        self._video = _video_stream(self._container, path)
        self._video.thread_type = "AUTO"
        self.audio: tuple[av.AudioStream, ...] = tuple(self._container.streams.audio)
        self.about = _about(self._video, first)

    def pictures(self, size: tuple[int, int], carry: Carry) -> Iterator[Picture]:
        time_base, last = self.about.time_base, None
        step = max(1, round(1 / (self.about.rate * time_base)))
        for frame in _decode(self._container, (self._video, *self.audio), carry, self._skip):
            pts = 0 if last is None else last + step
            if frame.pts is not None and (last is None or frame.pts > last):
                pts = frame.pts
            last = pts
            yield Picture(_upright_pixels(frame, size), pts)

    def close(self) -> None:
        self._container.close()

    def _skip(self, error: FFmpegError) -> None:
        self.damaged += 1

    def _first_picture(self) -> av.VideoFrame:
        with _open(self.path) as container:
            video = _video_stream(container, self.path)
            errors: list[FFmpegError] = []
            for frame in _decode(container, (video,), leave_out, errors.append):
                return frame
        why = f": {errors[0].strerror}" if errors else ""
        raise UsageError(f"expected a video in {self.path}, found one without a picture that decodes{why}")


class PictureFolder:
    """A folder of equally large pictures, in the order of their names; numbers in names count as numbers."""

    audio: tuple[av.AudioStream, ...] = ()
    damaged = 0

    def __init__(self, path: Path):
        self._files = sorted((p for p in path.iterdir() if p.suffix.lower() in PICTURES), key=_natural)
        if not self._files:
            kinds = ", ".join(sorted(PICTURES))
            raise UsageError(f"expected pictures ({kinds}) in the folder {path}, found none")
        first = self._read(self._files[0])
        self.about = About(
            first.width, first.height, FOLDER_RATE, 1 / FOLDER_RATE, len(self._files), colour=Colour(1, 1, 1)
        )

    def pictures(self, size: tuple[int, int], carry: Carry) -> Iterator[Picture]:
        for pts, path in enumerate(self._files):
            frame = self._read(path)
            if (frame.width, frame.height) != (self.about.width, self.about.height):
                raise UsageError(
                    f"expected pictures of one size in a folder: {self._files[0].name} is "
                    f"{self.about.width}x{self.about.height}, {path.name} is {frame.width}x{frame.height}"
                )
            yield Picture(_upright_pixels(frame, size), pts)

    def close(self) -> None:
        """Nothing is held open between pictures."""

    @staticmethod
    def _read(path: Path) -> av.VideoFrame:
        with _open(path) as container:
            for frame in container.decode(_video_stream(container, path)):
                return frame
        raise UsageError(f"expected a picture in {path}, found none")


def read_picture(path: Path) -> Pixels:
    """The first picture of a file at its own size, [H, W, 3]."""
    source = VideoFile(path)
    try:
        about = source.about
        return next(source.pictures((about.height, about.width), leave_out)).pixels
    finally:
        source.close()


def read_clip(path: Path, size: tuple[int, int], frames: int | None) -> Pixels:
    """The first `frames` pictures of a video (all for None), [T, H, W, 3] at `size` = (height, width).

    The largest centred part of the size's shape is taken and averaged over areas.
    """
    source = open_source(path)
    try:
        about = source.about
        top, left, height, width = centred(about.height, about.width, *size)
        shown = (picture.pixels for picture in source.pictures((about.height, about.width), leave_out))
        parts = [resize(pixels[top : top + height, left : left + width], *size) for pixels in islice(shown, frames)]
        return np.stack(parts)
    finally:
        source.close()


def centred(height: int, width: int, like_height: int, like_width: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of the largest centred part shaped like `like_height` x `like_width`."""
    part_height = min(height, round(width * like_height / like_width))
    part_width = min(width, round(height * like_width / like_height))
    return (height - part_height) // 2, (width - part_width) // 2, part_height, part_width


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """[H, W, 3] at another size: area average down, bicubic up."""
    if pixels.shape[:2] == (height, width):
        return pixels
    rows, columns = pixels.shape[:2]
    if rows % height == 0 and columns % width == 0:  # swscale's area filter is not exact
        blocks = pixels.reshape(height, rows // height, width, columns // width, 3)
        means: Pixels = np.rint(blocks.mean(axis=(1, 3), dtype=np.float32)).astype(np.uint8)
        return means
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    way = "AREA" if rows > height else "BICUBIC"
    return _array(frame.reformat(width=width, height=height, interpolation=way))


def in_chunks(pictures: Iterator[Picture], spec: ChunkSpec) -> Iterator[list[Picture]]:
    """The pictures of chunk 0, 1, ...; the last list may be shorter than its chunk."""
    for index in count():
        chunk = list(islice(pictures, spec.frames(index)))
        if not chunk:
            return
        yield chunk


def leave_out(packet: AudioPacket) -> None:
    """A `Carry` for whoever wants no sound."""


def _open(path: Path) -> InputContainer:
    try:
        container = av.open(f"file:{path}")
    except FFmpegError as error:
        raise UsageError(f"expected a video or a picture in {path}, found none: {error.strerror}") from error
    if container.format.name == "tty":  # FFmpeg plays text files as terminals
        container.close()
        raise UsageError(f"expected a video or a picture in {path}, found text")
    return container


def _video_stream(container: InputContainer, path: Path) -> av.VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    raise UsageError(f"expected a video in {path}, found only {_kinds(container)}")


def _kinds(container: InputContainer) -> str:
    return ", ".join(sorted({stream.type for stream in container.streams})) or "an empty file"


def _decode(
    container: InputContainer, streams: tuple[Any, ...], carry: Carry, skip: Callable[[FFmpegError], None]
) -> Iterator[av.VideoFrame]:
    """The frames of the video stream in order; audio goes to `carry`, the error of a bad packet to `skip`."""
    for packet in container.demux(streams):
        if packet.stream.type == "audio":
            if packet.dts is not None:  # None: the end of the stream
                carry(packet)
            continue
        try:
            frames = packet.decode()
        except InvalidDataError as error:
            skip(error)
            continue
        yield from frames


def _about(video: av.VideoStream, first: av.VideoFrame) -> About:
    turned = first.rotation % 180 != 0
    width, height = (first.height, first.width) if turned else (first.width, first.height)
    aspect = video.sample_aspect_ratio or Fraction(1)
    rate = video.average_rate or video.guessed_rate or Fraction(25)
    time_base = video.time_base or 1 / rate
    length = video.frames or (round(video.duration * time_base * rate) if video.duration else None)
    return About(width, height, rate, time_base, length, 1 / aspect if turned else aspect, _colour(first))


def _colour(frame: av.VideoFrame) -> Colour:
    """What the restored file says of its colours; RGB becomes BT.709."""
    if "rgb" in frame.format.name or "gbr" in frame.format.name or frame.format.name.startswith(("bgr", "pal")):
        return Colour(1, 1, 1)
    return Colour(int(frame.colorspace), int(frame.color_primaries), int(frame.color_trc))


def _upright_pixels(frame: av.VideoFrame, size: tuple[int, int]) -> Pixels:
    height, width = size[::-1] if frame.rotation % 180 else size
    way = "AREA" if height < frame.height else "BICUBIC"
    pixels = _array(frame.reformat(width=width, height=height, format="rgb24", interpolation=way))
    return np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90))


def _array(frame: av.VideoFrame) -> Pixels:
    return cast(Pixels, frame.to_ndarray())


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts 9.png before 10.png."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", path.name)]
