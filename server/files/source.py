"""What every input offers: upright pictures with their times, and what travels beside them. Knows no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, Protocol, TypeAlias

import av

from core.contract import Pixels
from server.files.colour import UNTAGGED, Colour

AnyPacket: TypeAlias = "av.Packet[Any]"
AnyStream: TypeAlias = "av.stream.Stream"

Carry = Callable[[AnyPacket], None]
"""Takes a packet of sound or subtitles of the source, in the order of the file."""


@dataclass(frozen=True)
class Picture:
    pixels: Pixels
    pts: int
    """when it is shown, in units of the source's `time_base`"""
    duration: int = 0
    """how long, in the same units; 0 where the source does not say"""


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
    colour: Colour = UNTAGGED
    holds: bool = False
    """whether each picture has a duration of its own, the last included, as in a GIF"""
    first_field: Literal["top", "bottom"] | None = None
    """of interlaced video, the lines that were recorded first"""

    @property
    def shape(self) -> Fraction:
        """Width over height of the picture as it is shown."""
        return Fraction(self.width, self.height) * self.aspect


@dataclass(frozen=True)
class Extras:
    """What a container holds beside its pictures."""

    streams: tuple[AnyStream, ...] = ()
    """sound, subtitles, attachments: in the order of the file"""
    metadata: dict[str, str] = field(default_factory=dict)
    video_metadata: dict[str, str] = field(default_factory=dict)
    chapters: tuple[dict[str, Any], ...] = ()

    def of_type(self, *kinds: str) -> tuple[AnyStream, ...]:
        return tuple(stream for stream in self.streams if stream.type in kinds)


class Source(Protocol):
    """Something to restore."""

    about: About
    extras: Extras
    notes: list[str]
    """what comes out otherwise than it went in: a phrase each"""
    damaged: int
    """packets or pictures that could not be decoded and were left out"""
    warnings: list[str]
    """other faults of the source, known once its pictures are read: a phrase each"""

    def pictures(self, size: tuple[int, int], carry: Carry) -> Iterator[Picture]:
        """All pictures in order, scaled to `size` = (height, width); other packets go to `carry` on the way."""
        ...

    def close(self) -> None: ...


def leave_out(packet: AnyPacket) -> None:
    """A `Carry` for callers that want no sound."""
