"""What a client may say about its session, and how long a session may wait. Pure."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from core.chunks import ChunkSpec
from core.config import Config
from core.contract import LATENTS, Latency, Mode, Panel, SolverConfig
from core.operators.config import OperatorConfig, SuperResolutionConfig
from server.media.recording import Record
from server.settings import Settings
from server.values import Size

WORDS = ("operator", "mode", "size", "fps", "latency", "seed", "record", "tier")
"""what may be said of a session in words, as in a query; the tier is the solver's"""
NUMBERS = {"fps", "seed"}
NUMBER = re.compile(r"-?\d{1,15}(\.\d{1,15})?", re.A)


def from_words(words: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a SessionConfig that are given in words; an operator is its kind, or its JSON.

    What is no number where one is expected stays as it is, for the validation to name it. Raises ValueError.
    """
    return {name: from_word(name, value) if isinstance(value, str) else value for name, value in words.items()}


def from_word(name: str, text: str) -> Any:
    if name == "operator":
        try:
            return json.loads(text) if text.startswith("{") else {"kind": text}
        except (ValueError, RecursionError) as error:
            raise ValueError(f"operator is not JSON: {error}") from error
    if name in NUMBERS and NUMBER.fullmatch(text):
        return float(text) if "." in text else int(text)
    return text


LOW_BUDGET = 0.5
"""share of the usual latency budget that a session of low latency has"""


class SessionState(enum.Enum):
    CONNECTING = "connecting"
    STREAMING = "streaming"
    DRAINING = "draining"
    CLOSED = "closed"


def as_tuple(value: object) -> object:
    """A JSON array as a tuple; other values as they are."""
    return tuple(value) if isinstance(value, list) else value


class SessionConfig(Config):
    """What a client may say about its session."""

    operator: OperatorConfig = Field(default_factory=SuperResolutionConfig)
    """the degradation that the video suffered (incoming), or that is applied to it first (simulate)"""
    mode: Mode = "incoming"
    """whether the video that comes is degraded already, or clean and degraded here"""
    fps: float = Field(16.0, ge=1, le=60)
    """frames per second that are restored"""
    size: Size | None = None
    """WIDTHxHEIGHT of a restored frame; unset takes what fits the first frame"""
    latency: Latency = "normal"
    """low restores 4 frames at a time, not 12: half a second sooner at 16 fps, and a little less well"""
    solver: SolverConfig = Field(default_factory=SolverConfig)
    """how the restoration is done"""
    panels: Annotated[tuple[Panel, ...], BeforeValidator(as_tuple)] = Field(("restored",), min_length=1, max_length=5)
    """pictures of the same frame, side by side in the frames that go back"""
    record: Record = "nothing"
    """what the server keeps of the session, where it may: nothing, restored, or both sides"""
    seed: int = Field(0, ge=0, lt=2**31)
    """seed of the noise"""

    @property
    def chunks(self) -> ChunkSpec:
        """How long its chunks are."""
        return ChunkSpec(LATENTS[self.latency])

    def budget(self, settings: Settings) -> float:
        """Seconds from a chunk's last frame to its deadline."""
        return settings.latency_budget * (LOW_BUDGET if self.latency == "low" else 1)

    @model_validator(mode="after")
    def _shows_what_is_known(self) -> SessionConfig:
        if self.mode == "incoming" and "original" in self.panels:
            raise ValueError("panels may hold original in mode simulate only: what comes in is the measurement")
        return self


@dataclass
class Deadlines:
    """When a session has waited long enough, in seconds. Pure."""

    connect: float
    first_frame: float
    idle: float
    most: float
    """0: a session may live as long as it likes"""

    @classmethod
    def of(cls, settings: Settings) -> Deadlines:
        """The deadlines that the settings name."""
        return cls(
            settings.connect_timeout, settings.first_frame_timeout, settings.idle_timeout, settings.max_session_time
        )

    def expired(
        self, now: float, opened: float, dialled: float, connected: float | None, seen: float, last_frame: float | None
    ) -> str | None:
        """Why the session must end at `now`, or None.

        `opened` is when it began; `dialled`, `connected` and `last_frame` are of its present connection, which may have
        taken the place of one that was lost. `seen` is the last frame over any connection, or `opened`: who dials anew
        again and again, and sends nothing, holds a place no longer than who dials once more.
        """
        if self.most and now - opened > self.most:
            return f"a session may last {self.most:g} s"
        if last_frame is None and now - seen > self.idle + self.connect + self.first_frame:
            return f"no video for {now - seen:.0f} s, over any connection"
        if connected is None:
            return f"no connection within {self.connect:g} s" if now - dialled > self.connect else None
        if last_frame is None:
            waited = now - connected > self.first_frame
            return f"no video within {self.first_frame:g} s of the connection" if waited else None
        return f"no video for {self.idle:g} s" if now - last_frame > self.idle else None


def fit_size(config: SessionConfig, width: int, height: int, settings: Settings) -> tuple[int, int]:
    """(width, height) of restored frames for an input of `width` x `height`: multiples of 16 within the limits."""
    enlarges = 1.0
    if config.mode == "incoming":
        enlarges = 480 / config.operator.measurement_size(480, 480)[0]
    width, height = round(width * enlarges), round(height * enlarges)
    shrink = min(1.0, (settings.max_pixels / (width * height)) ** 0.5)
    least = -(-settings.min_side // 16) * 16
    width, height = (max(least, int(side * shrink) // 16 * 16) for side in (width, height))
    longest = max(least, settings.max_pixels // min(width, height) // 16 * 16)
    return min(width, longest), min(height, longest)
