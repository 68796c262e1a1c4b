"""What the data channel `report` tells a client: one JSON object a message, each of one of these forms."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.json_schema import models_json_schema

from core.contract import Rung, TrustShares
from server.device.worker import WorkerState

Count = Annotated[int, Field(ge=0, le=2**53)]
Amount = Annotated[float, Field(ge=-1e12, le=1e12)]


class Message(BaseModel):
    """Nothing but what is named here is told."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class StageTimes(Message):
    """Milliseconds of a chunk's way."""

    fill: Amount
    """from the arrival of its first frame to that of its last"""
    queue: Amount | None = None
    """that it waited for the device; of chunks that the device restored, as are the rest"""
    simulate: Amount | None = None
    x_init: Amount | None = None
    encode: Amount | None = None
    denoise: Amount | None = None
    prox: Amount | None = None
    decode: Amount | None = None
    cache: Amount | None = None
    trust: Amount | None = None
    transfer: Amount | None = None
    total: Amount | None = None
    """on the device"""
    deliver: Amount
    """from the arrival of its last frame to the departure of its first"""


class ChunkReport(Message):
    """One chunk, told when its first frame leaves."""

    chunk: Count
    """number of the chunk in its session"""
    guided: bool
    """the measurement was injected again (Eq. 6 to 8)"""
    rung: Rung
    """how good it is: full down to passthrough"""
    residual: Amount | None
    """|y - A(x)| over |y|; null where it was not restored"""
    frames: int = Field(ge=1, le=2**53)
    lost: Count
    """frames of it that the network lost"""
    slots: tuple[Count, Count]
    """first and last slot at the session's rate"""
    timestamps: tuple[Amount, Amount]
    """of its first and last frame, in seconds of the sender's clock"""
    operator: str
    """kind of the operator"""
    dropped: Count
    """frames of the session that were dropped so far"""
    shed: Count
    """chunks of the session that were shed so far"""
    psnr: Amount | None = None
    """dB against the original; in mode simulate"""
    psnr_x_init: Amount | None = None
    """the same of the measurement-consistent start"""
    flicker: Amount | None = None
    """change from frame to frame over the original's, or in mode incoming the start's; absent where that is still"""
    trust: TrustShares | None = None
    """what the restored pixels owe to the measurement; where the panel `trust` was asked for"""
    ms: StageTimes
    latency_ms: Amount
    """of its first frame, from its arrival to its departure"""


class DeviceEvent(Message):
    """The device has changed its state."""

    event: Literal["device"]
    state: WorkerState


class RungEvent(Message):
    """The session's quality has changed."""

    event: Literal["rung"]
    rung: Rung


class DrainingEvent(Message):
    """The server takes no new session; this one may go on for a while, or move."""

    event: Literal["draining"]
    seconds: Amount


class ClosingEvent(Message):
    """The session ends now."""

    event: Literal["closing"]
    reason: str


Event = Annotated[DeviceEvent | RungEvent | DrainingEvent | ClosingEvent, Field(discriminator="event")]
Told = ChunkReport | Event
TOLD: TypeAdapter[Any] = TypeAdapter(Told)
"""reads any message"""


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of every message."""
    forms = (ChunkReport, *get_args(get_args(Event)[0]))
    _, definitions = models_json_schema([(form, "validation") for form in forms], ref_template="#/$defs/{model}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Messages of the data channel `report`",
        "anyOf": [{"$ref": f"#/$defs/{form.__name__}"} for form in forms],
        **definitions,
    }
