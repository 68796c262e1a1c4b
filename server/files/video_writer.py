"""Restored pictures as a video file, with the source's times, colours, sound, subtitles and titles."""

from __future__ import annotations

from typing import Any, BinaryIO, cast

import av
import numpy as np
from av.codec.context import Flags
from av.error import FFmpegError
from av.stream import Disposition

from core.errors import UsageError
from server.files.clock import Order
from server.files.colour import LIMITED, completed, to_frame
from server.files.containers import OPTIONS, Track, add_tracks, plan
from server.files.source import About, AnyPacket, Extras, Picture


class VideoWriter:
    """H.264 (VP9 in .webm), yuv420p. What the container cannot hold is refused here, before any work.

    `file` is a path for FFmpeg or an open file. Raises UsageError.
    """

    def __init__(
        self,
        file: str | BinaryIO,
        container_format: str,
        about: About,
        extras: Extras,
        crf: int = 16,
        transcode: bool = False,
    ):
        chosen = plan(extras, container_format, transcode)
        self.notes = list(chosen.notes)
        self._about = about
        self._colour = completed(about.colour, about.height, about.width)
        self._order = Order()
        self._refused: dict[int, int] = {}
        self._container = av.open(file, "w", format=container_format, container_options=OPTIONS)
        self._video = self._add_video(container_format, crf)
        self._video.metadata.update(extras.video_metadata)
        self._tracks: dict[int, Track] = add_tracks(self._container, chosen, container_format)
        self._container.metadata.update(extras.metadata)
        if extras.chapters:
            self._container.set_chapters(cast(Any, list(extras.chapters)))
        try:
            self._container.start_encoding()
        except (FFmpegError, ValueError) as error:
            raise UsageError(f"a {container_format} file cannot be written with these tracks: {error}") from error

    def write(self, picture: Picture) -> None:
        height, width = picture.pixels.shape[:2]
        even = np.pad(picture.pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = to_frame(even, self._colour)
        frame.pts, frame.time_base, frame.duration = picture.pts, self._about.time_base, picture.duration
        self._mux(self._video.encode(frame), self._video)

    def carry(self, packet: AnyPacket) -> None:
        """Takes a packet of another track of the source."""
        track = self._tracks.get(packet.stream_index)
        if track is not None:
            self._mux(track.packets(packet), track.stream)

    def finish(self) -> None:
        """Writes what the encoders still hold."""
        self._mux(self._video.encode(None), self._video)
        for track in self._tracks.values():
            self._mux(track.rest(), track.stream)
        for index, packets in self._refused.items():
            self.notes.append(f"{packets} packets of track {index} were refused by the container and left out")

    def close(self) -> None:
        self._container.close()

    def _mux(self, packets: Any, stream: Any) -> None:
        for packet in packets:
            self._order.correct(packet, stream.index, stream.time_base)
            packet.stream = stream
            try:
                self._container.mux(packet)
            except FFmpegError as error:
                if stream is self._video or isinstance(error, OSError):
                    raise OSError(error.errno, f"writing the video failed: {error.strerror}") from error
                self._refused[stream.index] = self._refused.get(stream.index, 0) + 1

    def _add_video(self, container_format: str, crf: int) -> Any:
        about = self._about
        if container_format == "webm":
            options = {"crf": str(crf + 8), "b": "0", "cpu-used": "4"}
            video = self._container.add_stream("libvpx-vp9", about.rate, options)
        else:
            options = {"crf": str(crf), **({"bf": "0"} if about.holds else {})}  # with B-frames, MP4 cuts the last hold
            video = self._container.add_stream("libx264", about.rate, options)
        context: Any = video.codec_context
        context.width, context.height = about.width + about.width % 2, about.height + about.height % 2
        context.pix_fmt, context.time_base = "yuv420p", about.time_base
        context.sample_aspect_ratio, context.color_range = about.aspect, LIMITED
        context.colorspace = self._colour.matrix
        context.color_primaries, context.color_trc = self._colour.primaries, self._colour.transfer
        context.thread_type = "AUTO"
        context.flags |= Flags.frame_duration
        video.disposition |= Disposition.default
        return video
