"""What the lines of a certificate say: a header, a record for each chunk, an end. Knows no signature and no video."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from core.config import Config
from core.contract import Latency, Panel, Rung, TrustShares

FORMAT: Literal["avis-certificate"] = "avis-certificate"
VERSION: Literal[1] = 1
CERTIFIES = (
    "The restored pictures agree with the measurement y under the stated operator and noise, as closely as each "
    "chunk's residual and trust shares tell, and those of the file as closely as residual_file tells. This does not "
    "say that they are true, nor that this operator is what acted on the scene."
)
"""what a signature means, in every header"""

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=10**15)]
Side = Annotated[int, Field(ge=1, le=8192)]
Shown = Annotated[int, Field(ge=1, le=5 * 8192)]
Residual = Annotated[float, Field(ge=0, le=1e15)]
Seconds = Annotated[float, Field(ge=-1e9, le=1e9)]
Size = tuple[Side, Side]


class FileRecord(Config):
    """A file, or a folder of pictures."""

    name: str
    sha256: Hash
    """of its bytes; of a folder, of the lines of `sha256sum *` in natural order"""
    bytes: Count


class ModelRecord(Config):
    """What restored."""

    name: str
    codec: str | None
    device: str
    backend: str
    """the arithmetic, as reports name it; empty where the server does not know"""
    settings: dict[str, Any]
    weights: dict[str, Hash]
    """SHA-256 of each file of weights, by its name; none for random weights"""


class Sizes(Config):
    """How a picture of the source became a frame, and a restored frame a picture. All (height, width)."""

    taken: Size
    """of y"""
    fed: Size
    """of y, padded at the right and the bottom by repeating its edge"""
    restored: Size
    """of restored frames"""
    shown: tuple[Side, Shown]
    """of the pictures in the file, before an odd side is padded to an even one"""
    scaled: tuple[Shown, Shown] | None
    """size that a source picture is scaled to, before it is cut or padded to `taken`"""


class Reading(Config):
    """How the source was read."""

    deinterlace: bool
    """interlaced pictures were deinterlaced first"""
    fps: Annotated[str, Field(pattern=r"^[1-9]\d{0,8}(/[1-9]\d{0,8})?$")] | None
    """frames per second that were asked for, of a folder of pictures"""


class Header(Config):
    """The first line."""

    kind: Literal["header"] = "header"
    format: Literal["avis-certificate"] = FORMAT
    version: Literal[1] = VERSION
    certifies: str = CERTIFIES
    public_key: Hash
    """of Ed25519, its 32 bytes"""
    made: str
    """when the restoration began, by the clock of the machine that signs: no trusted time"""
    tool: str
    libraries: dict[str, str]
    model: ModelRecord
    sizes: Sizes
    rate: str
    """frames per second"""
    latency: Latency
    operator: dict[str, Any]
    solver: dict[str, Any]
    seed: Count
    reading: Reading | None
    """null of a live session: its y came over the network and was not kept"""
    panels: tuple[Panel, ...] = ("restored",)
    """what stands side by side in each picture of the file"""


class ChunkRecord(Config):
    """One chunk."""

    kind: Literal["chunk"] = "chunk"
    chunk: Count
    first: Count
    """index of its first picture in the file"""
    frames: Annotated[int, Field(ge=1, le=10_000)]
    shown: tuple[Seconds, Seconds]
    """when its first and its last picture are shown, from the file's first picture"""
    y: Hash
    """of the measurement: RGB of 8 bits, rows from the top, pictures in order, without padding"""
    restored: Hash
    """of the restored pictures as the encoder got them: in the same form, of a live session in that of `decoded`"""
    decoded: Hash
    """of the pictures that the file decodes to: their planes, without padding, as `ffmpeg -f rawvideo` writes them"""
    rung: Rung
    guided: bool
    residual: Residual | None
    """|y - A x| / |y| of the restored frames; null of a chunk that passed through unrestored"""
    residual_file: Residual | None
    """the same of the pictures that the file decodes to, with what the codec lost; null where y cannot be read again"""
    trust: TrustShares | None
    """null of a live session that does not show the trust map"""
    lost: tuple[Count, ...] = ()
    """pictures of y that the network lost, by their place in the chunk: what stands there was not measured"""
    operator: dict[str, Any] | None = None
    """its settings, where they are not those of the chunk before, or of the header"""
    solver: dict[str, Any] | None = None
    """the same of the solver's"""


class End(Config):
    """The last line: nothing follows."""

    kind: Literal["end"] = "end"
    chunks: Count
    frames: Count
    file: FileRecord
    """the certified video"""
    measurement: FileRecord | None
    """the source, where it is a file"""
    damaged: Count
    """packets or pictures of the source that could not be decoded and were left out"""
    warnings: tuple[str, ...]
    """other faults of the source"""
