"""What server and device process say to each other: one request, one reply. Pixels go by FrameMemory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from core.chunks import ChunkSpec
from core.contract import LATENTS, Latency, Mode, Panel, Rung, SolverConfig, TrustShares
from core.operators.config import OperatorConfig


@dataclass(frozen=True)
class DeviceOptions:
    """What the device process is told at its start."""

    model: str = "tiny"
    device: str = "auto"
    weights: Literal["pretrained", "random"] = "pretrained"
    codec: str | None = None
    model_settings: dict[str, Any] = field(default_factory=dict)
    """settings of the model itself: see core.model_settings"""
    threads: int = 0
    """CPU threads; 0 leaves it to torch"""
    warm_sizes: tuple[tuple[int, int], ...] = ()
    """(width, height) of restored frames; none takes the model's own"""
    solver: dict[str, Any] = field(default_factory=dict)
    """settings of a session's solver where it says nothing and the model does not know better"""
    hash_weights: bool = False
    """tell the SHA-256 of the weights"""
    log_level: str = "info"
    log_format: Literal["console", "json"] = "console"
    measured: Ready | None = None
    """what warm-up measured in an earlier life of the process"""


@dataclass(frozen=True)
class StreamSpec:
    """What is fixed for the life of a stream."""

    height: int
    width: int
    """of a restored frame, in pixels"""
    mode: Mode
    panels: tuple[Panel, ...] = ("restored",)
    seed: int = 0
    latency: Latency = "normal"

    @property
    def chunks(self) -> ChunkSpec:
        """How long its chunks are."""
        return ChunkSpec(LATENTS[self.latency])


@dataclass(frozen=True)
class Open:
    """Opens a stream, in place of one of the same id. The descriptor of its frame memory follows."""

    stream_id: str
    spec: StreamSpec
    operator: OperatorConfig
    input_bytes: int
    output_bytes: int


@dataclass(frozen=True)
class Step:
    """Restores the chunk that lies in the stream's frame memory."""

    stream_id: str
    shape: tuple[int, int, int, int]
    """[T, H, W, 3]"""
    operator: OperatorConfig
    solver: SolverConfig
    rung: Rung
    gap: bool
    """frames are missing before this chunk"""
    lost: tuple[int, ...] = ()
    """indices of frames of this chunk that never came: what lies in their place is not looked at"""


@dataclass(frozen=True)
class Close:
    stream_id: str


@dataclass(frozen=True)
class Ping:
    pass


Request = Open | Step | Close | Ping


@dataclass(frozen=True)
class Loaded:
    """The model is in memory; warm-up follows."""

    model: str
    device: str
    solver: SolverConfig
    """where a session says nothing"""
    weights: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each file of weights, where recordings are certified"""
    backend: str = ""
    """the arithmetic, as reports name it"""


@dataclass(frozen=True)
class Ready:
    """The device restores from now on."""

    chunk_seconds: dict[tuple[int, int], float]
    """measured at warm-up: seconds of one full later chunk, by (width, height), the usual size first"""
    session_bytes: dict[tuple[int, int], int]
    """device memory of one open stream, by (width, height)"""
    memory_bytes: int = 0
    """device memory for all streams together; 0 does not count it"""
    x_init_seconds: dict[tuple[int, int], float] = field(default_factory=dict)
    """the same of a chunk that passes the model by: of a large model no fixed share of a full one"""
    guided_seconds: dict[tuple[int, int], float] = field(default_factory=dict)
    """the same of a guided chunk"""
    low_latency_seconds: dict[tuple[int, int], float] = field(default_factory=dict)
    """the same of a full chunk of low latency, where the model has such"""
    low_latency_guided_seconds: dict[tuple[int, int], float] = field(default_factory=dict)


@dataclass(frozen=True)
class Unusable:
    """The device cannot start, and a restart would not help."""

    reason: str


@dataclass(frozen=True)
class Done:
    """Nothing to tell: opened, closed, alive."""


@dataclass(frozen=True)
class Stepped:
    """The restored chunk lies in the stream's frame memory."""

    shape: tuple[int, int, int, int]
    """[T, H, W * panels, 3]"""
    guided: bool
    residual: float
    psnr: float | None
    psnr_x_init: float | None
    ms: dict[str, float] = field(default_factory=dict)
    """milliseconds of each stage, and `total`"""
    trust: TrustShares | None = None
    flicker: float | None = None


@dataclass(frozen=True)
class Refused:
    """This stream's fault: nothing changed, and every other stream goes on."""

    reason: str


@dataclass(frozen=True)
class Short:
    """Memory or descriptors were missing: this stream is closed, every other goes on."""

    reason: str


Reply = Loaded | Ready | Unusable | Done | Stepped | Refused | Short
