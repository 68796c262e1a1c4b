"""The frames of a video file, for those who want no more of it. What is damaged is left out. Knows no tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
from av.error import FFmpegError
from av.stream import Disposition

from core.errors import UsageError


def decoded(path: Path) -> Iterator[av.VideoFrame]:
    """The frames of the first video track that is no cover, in order, as far as they can be read and decoded.

    Raises UsageError for a file that is no video, and for one of which no frame decodes.
    """
    try:
        container = av.open(f"file:{path}", "r", metadata_errors="replace")
    except (FFmpegError, OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"expected a video in {path}, found none: {why}") from error
    found = 0
    with container:
        tracks = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not tracks or tracks[0].codec_context is None:
            raise UsageError(f"expected a video in {path}, found none that can be decoded")
        for packet in packets(container, tracks[0]):
            for frame in frames_of(tracks[0], packet):
                found += 1
                yield frame
    if not found:
        raise UsageError(f"expected a video in {path}, found none whose pictures decode")


def packets(container: av.container.InputContainer, track: av.VideoStream) -> Iterator[av.Packet[av.VideoStream]]:
    """The packets of a track, to the end or to where the file cannot be read any more."""
    try:
        yield from container.demux(track)
    except FFmpegError:
        return


def frames_of(track: av.VideoStream, packet: av.Packet[av.VideoStream]) -> list[av.VideoFrame]:
    """The frames that a packet completes; none of a damaged one."""
    try:
        return track.codec_context.decode(packet)
    except (FFmpegError, EOFError):
        return []
