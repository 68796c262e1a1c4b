"""What a container can hold beside the pictures, and how each track gets into it: as it is, or encoded anew."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import av
from av.container import OutputContainer
from av.error import FFmpegError
from av.stream import Disposition

from core.errors import UsageError
from server.files.source import AnyPacket, AnyStream, Extras

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""FFmpeg's name of the container for an OUT that ends so"""
SOUND = {"mp4": "aac", "mov": "aac", "matroska": "aac", "webm": "libopus"}
"""the encoder of sound that a container cannot hold as it is"""
TEXT = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}
"""the encoder of subtitles that it cannot hold as they are"""
TEXTS = {"subrip", "srt", "ass", "ssa", "webvtt", "mov_text", "text"}
"""subtitle codecs that are text"""
OPTIONS = {"strict": "experimental"}
"""lets the MP4 muxer take TrueHD, which it has long written well"""


@dataclass(frozen=True)
class Plan:
    """What happens to each track of the source."""

    copied: tuple[AnyStream, ...] = ()
    encoded: tuple[AnyStream, ...] = ()
    notes: tuple[str, ...] = ()
    """what is left out or changed, a phrase each"""


def plan(extras: Extras, container_format: str, transcode: bool) -> Plan:
    """How the tracks of `extras` go into a container. Raises UsageError for sound that it cannot hold."""
    copied, encoded, notes = [], [], []
    for stream in extras.streams:
        codec = codec_name(stream)
        if accepts(container_format, stream):
            copied.append(stream)
        elif stream.type == "audio":
            if not transcode:
                raise UsageError(no_room(stream, container_format))
            encoded.append(stream)
            notes.append(f"the sound (track {stream.index}) was encoded from {codec} to {SOUND[container_format]}")
        elif codec in TEXTS:
            encoded.append(stream)
            notes.append(f"the subtitles (track {stream.index}) became {TEXT[container_format]}")
        else:
            kind = {"subtitle": "subtitles", "attachment": "attachment"}.get(stream.type, stream.type)
            notes.append(f"the {kind} (track {stream.index}, {codec}) do not fit into {container_format}: left out")
    return Plan(tuple(copied), tuple(encoded), tuple(notes))


def no_room(stream: AnyStream, container_format: str) -> str:
    """Says where sound that a container cannot hold could go instead."""
    others = [suffix for suffix, name in FORMATS.items() if suffix != ".m4v" and accepts(name, stream)]
    elsewhere = f"choose an OUT that ends in {' or '.join(others)}, " if others else ""
    return (
        f"a {container_format} file cannot carry the source's {codec_name(stream)} audio as it is: {elsewhere}"
        "encode it with --transcode-audio, or leave the sound out with --no-audio"
    )


def codec_name(stream: AnyStream) -> str:
    context = stream.codec_context
    return str(context.codec.canonical_name) if context is not None else "data"


def accepts(container_format: str, stream: AnyStream) -> bool:
    """Whether the muxer takes `stream` as it is: it is asked with a file of its own."""
    if stream.type == "attachment":
        return container_format == "matroska"
    try:
        trial = av.open(io.BytesIO(), "w", format=container_format, container_options=OPTIONS)
        trial.add_stream_from_template(stream)
        trial.start_encoding()
    except (FFmpegError, ValueError):
        return False
    return True


class Track(Protocol):
    """One track on its way into the output."""

    stream: AnyStream
    """of the output"""

    def packets(self, packet: AnyPacket) -> Iterable[AnyPacket]: ...
    def rest(self) -> Iterable[AnyPacket]: ...


class Copied:
    """A track whose packets go along as they are."""

    def __init__(self, output: OutputContainer, source: AnyStream):
        self.stream = output.add_stream_from_template(source)

    def packets(self, packet: AnyPacket) -> list[AnyPacket]:
        return [packet]

    def rest(self) -> list[AnyPacket]:
        return []


class Sound:
    """Sound that is decoded and encoded anew. What does not decode is silent."""

    def __init__(self, output: OutputContainer, source: Any, encoder: str):
        rate = 48000 if encoder == "libopus" else source.codec_context.sample_rate
        channels = min(source.codec_context.layout.nb_channels, 2)
        self.stream: Any = output.add_stream(encoder, rate, layout="stereo" if channels == 2 else "mono")
        self._decoder = source.codec_context
        self._resampler: av.AudioResampler | None = None

    def packets(self, packet: AnyPacket) -> list[AnyPacket]:
        try:
            frames: list[Any] = packet.decode()
        except FFmpegError:
            return []
        return [encoded for frame in frames for encoded in self._encode(frame)]

    def rest(self) -> list[AnyPacket]:
        if self._resampler is None:
            return []
        return [*self._encode(None), *self.stream.encode(None)]

    def _encode(self, frame: av.AudioFrame | None) -> list[AnyPacket]:
        context = self.stream.codec_context
        if self._resampler is None:
            self._resampler = av.AudioResampler(
                context.format, context.layout, context.sample_rate, context.frame_size or None
            )
        return [packet for part in self._resampler.resample(frame) for packet in self.stream.encode(part)]


class Text:
    """Subtitles in another text format."""

    def __init__(self, output: OutputContainer, source: Any, encoder: str):
        self.stream: Any = output.add_stream(encoder)  # its context is one of subtitles
        self.stream.time_base = source.time_base
        self._decoder: Any = source.codec_context
        self._decoder.open(strict=False)
        context: Any = self.stream.codec_context
        context.subtitle_header = self._decoder.subtitle_header or b""

    def packets(self, packet: AnyPacket) -> list[AnyPacket]:
        try:
            subtitle = self._decoder.decode2(packet)
            if subtitle is None or not len(subtitle):
                return []
            encoded: AnyPacket = self.stream.codec_context.encode_subtitle(subtitle)
        except FFmpegError:
            return []
        encoded.time_base = packet.time_base
        encoded.pts = encoded.dts = packet.pts
        encoded.duration = packet.duration
        return [encoded]

    def rest(self) -> list[AnyPacket]:
        return []


def add_tracks(output: OutputContainer, chosen: Plan, container_format: str) -> dict[int, Track]:
    """The tracks of `chosen` in `output`, by their index in the source, with their languages, titles and flags."""
    tracks: dict[int, Track] = {}
    for stream in sorted((*chosen.copied, *chosen.encoded), key=lambda stream: stream.index):
        if stream in chosen.copied:
            track: Track = Copied(output, stream)
        elif stream.type == "audio":
            track = Sound(output, stream, SOUND[container_format])
        else:
            track = Text(output, stream, TEXT[container_format])
        label(track.stream, stream)
        tracks[stream.index] = track
    choose_defaults([track.stream for track in tracks.values()])
    return tracks


def label(target: AnyStream, source: AnyStream) -> None:
    """Language, title and flags of a track. MP4 calls the title of a track its name."""
    found = dict(source.metadata)
    if "name" in found and "title" not in found:
        found["title"] = found.pop("name")
    for key in ("ENCODER", "encoder", "DURATION", "vendor_id"):
        found.pop(key, None)
    target.metadata.update(found)
    if source.type != "attachment":
        target.disposition = source.disposition


def choose_defaults(streams: list[AnyStream]) -> None:
    """Makes the first sound track the default one where the source had none."""
    sound = [stream for stream in streams if stream.type == "audio"]
    default = Disposition.default
    if sound and not any(stream.disposition & default for stream in sound):
        sound[0].disposition |= default
