"""What goes to a device and what comes back: a chunk's work, its plan, and the restored chunk."""

from __future__ import annotations

from dataclasses import dataclass

from core.contract import Pixels, Rung, SolverConfig
from core.operators.config import OperatorConfig
from server.device.messages import Stepped, StreamSpec


@dataclass(frozen=True)
class Work:
    """What the worker needs with the frames of a chunk, and what the session wants back with them."""

    spec: StreamSpec
    operator: OperatorConfig
    solver: SolverConfig
    """as the session asks for it; the Plan has what the chunk is restored with"""
    gap: bool
    """frames are missing before this chunk"""
    number: int
    """chunks of this session before it, over all its streams"""
    slots: tuple[int, ...]
    """place of each frame at the session's frame rate"""
    timestamps: tuple[float, ...]
    """source timestamp of each frame, in seconds"""
    arrivals: tuple[float, ...]
    """when each frame arrived, by the server's clock"""
    submitted: float
    """when the chunk was full, by the same clock"""
    lost: tuple[int, ...] = ()
    """indices of frames that the network lost; the frame before each is repeated in its place"""
    masked: tuple[int, ...] = ()
    """those of them that the operator does not measure"""
    standing: tuple[int, ...] = ()
    """slots of frames that repeat the one before them while the source paused"""


@dataclass(frozen=True)
class Plan:
    """What the device does with a chunk, decided right before it starts."""

    rung: Rung
    solver: SolverConfig
    gap: bool
    """frames are missing before this chunk, or the chunks before it were skipped"""
    deadline: float
    """when the restored chunk is wanted, on a device as busy as it is now"""


@dataclass(frozen=True)
class RestoredChunk:
    """A restored chunk, as it comes from the device."""

    stepped: Stepped
    pixels: Pixels
    plan: Plan
    started: float
    finished: float
