"""Restored pictures out: a video with its source's times and sound, or PNG files. Whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np

from core.errors import UsageError
from server.files.inputs import LIMITED, UNSPECIFIED, About, AudioPacket, Picture, Pixels

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""FFmpeg's name of the container for an OUT that ends so"""


class Sink(Protocol):
    """Where restored pictures go."""

    def write(self, picture: Picture) -> None: ...
    def carry(self, packet: AudioPacket) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...


class VideoWriter:
    """An H.264 file (VP9 in .webm), yuv420p, with the source's timestamps, colours and audio."""

    def __init__(self, path: Path, container_format: str, about: About, audio: tuple[av.AudioStream, ...], crf: int):
        webm = container_format == "webm"
        self._container = av.open(str(path), "w", format=container_format)
        self._about = about
        if webm:
            options = {"crf": str(crf + 8), "b": "0", "cpu-used": "4"}
            self._video = self._container.add_stream("libvpx-vp9", about.rate, options)
        else:
            self._video = self._container.add_stream("libx264", about.rate, {"crf": str(crf)})
        self._configure(self._video.codec_context)
        self._audio = {stream.index: self._copy_of(stream, container_format) for stream in audio}

    def write(self, picture: Picture) -> None:
        height, width = picture.pixels.shape[:2]
        even = np.pad(picture.pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        space = self._about.colour.space
        frame = av.VideoFrame.from_ndarray(even, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=None if space == UNSPECIFIED else space, dst_color_range=LIMITED
        )
        frame.pts, frame.time_base = picture.pts, self._about.time_base
        self._container.mux(self._video.encode(frame))

    def carry(self, packet: AudioPacket) -> None:
        packet.stream = self._audio[packet.stream.index]
        self._container.mux(packet)

    def finish(self) -> None:
        """Writes what the encoder still holds."""
        self._container.mux(self._video.encode(None))

    def close(self) -> None:
        self._container.close()

    def _configure(self, context: Any) -> None:
        about = self._about
        context.width, context.height = about.width + about.width % 2, about.height + about.height % 2
        context.pix_fmt, context.time_base = "yuv420p", about.time_base
        context.sample_aspect_ratio, context.color_range = about.aspect, LIMITED
        context.colorspace = about.colour.space
        context.color_primaries, context.color_trc = about.colour.primaries, about.colour.transfer
        context.thread_type = "AUTO"

    def _copy_of(self, stream: av.AudioStream, container_format: str) -> av.AudioStream:
        codec = stream.codec_context.codec.canonical_name
        if codec not in self._container.supported_codecs:
            raise UsageError(
                f"a {container_format} file cannot carry the source's {codec} audio as it is: "
                "choose an OUT that ends in .mkv or .mp4, or leave the sound out with --no-audio"
            )
        return self._container.add_stream_from_template(stream)


class PictureWriter:
    """Numbered PNG files in a folder, 000000.png and on."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._numbers = count()

    def write(self, picture: Picture) -> None:
        write_png(self._folder / f"{next(self._numbers):06d}.png", picture.pixels)

    def carry(self, packet: AudioPacket) -> None:
        """Pictures make no sound."""

    def finish(self) -> None:
        """Every picture is written already."""

    def close(self) -> None:
        """Nothing is held open between pictures."""


class SinglePictureWriter:
    """One PNG file."""

    def __init__(self, path: Path):
        self._path = path
        self._written = False

    def write(self, picture: Picture) -> None:
        if self._written:
            raise UsageError(
                "expected one picture for an OUT that is a .png file, found more: name a folder or a video"
            )
        write_png(self._path, picture.pixels)
        self._written = True

    def carry(self, packet: AudioPacket) -> None:
        """Pictures make no sound."""

    def finish(self) -> None:
        """The picture is written already."""

    def close(self) -> None:
        """Nothing is held open."""


def check_output(source: Path, path: Path) -> None:
    """Raises UsageError when `path` cannot become the restored `source`, before any work is done."""
    if not path.parent.is_dir():
        raise UsageError(f"expected an existing folder for OUT, found no {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"expected a folder that can be written to for OUT, found {path.parent} read-only")
    if path.exists() and source.exists() and path.samefile(source):
        raise UsageError(f"expected OUT to be another file than IN, found {path} for both")
    if path.exists() and not path.is_dir() and not path.is_file():
        raise UsageError(f"expected a file or a folder for OUT, found a device in {path}")
    if path.is_dir() and any(path.iterdir()):
        raise UsageError(f"expected a new or empty folder for OUT, found files in {path}")
    if not path.is_dir() and path.suffix.lower() not in FORMATS.keys() | {".png", ""}:
        kinds = ", ".join(sorted(FORMATS))
        raise UsageError(f"expected OUT to end in {kinds} or .png, or to be a folder, found {path.name}")


@contextmanager
def open_sink(path: Path, about: About, audio: tuple[av.AudioStream, ...] = (), crf: int = 16) -> Iterator[Sink]:
    """A sink for the block; `path` appears whole when the block succeeds, and not at all when it fails."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        sink = _new_sink(path, part, about, audio, crf)
        try:
            yield sink
            sink.finish()
        finally:
            sink.close()
        if path.is_dir():
            path.rmdir()  # empty, or check_output had refused it
        os.replace(part, path)
    finally:
        _remove(part)


def write_png(path: Path, pixels: Pixels) -> None:
    """`pixels` [H, W, 3], RGB, as a PNG file."""
    path.write_bytes(encode_png(pixels))


def encode_png(pixels: Pixels) -> bytes:
    """`pixels` [H, W, 3], RGB, as the bytes of a PNG file."""
    encoder: Any = av.CodecContext.create("png", "w")
    encoder.height, encoder.width = pixels.shape[:2]
    encoder.pix_fmt, encoder.time_base, encoder.thread_count = "rgb24", Fraction(1), 1
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def _new_sink(path: Path, part: Path, about: About, audio: tuple[av.AudioStream, ...], crf: int) -> Sink:
    suffix = path.suffix.lower()
    if suffix in FORMATS and not path.is_dir():
        return VideoWriter(part, FORMATS[suffix], about, audio, crf)
    if suffix == ".png" and not path.is_dir():
        return SinglePictureWriter(part)
    part.mkdir()
    return PictureWriter(part)


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part)
    else:
        part.unlink(missing_ok=True)
