"""What a node tells a gateway about itself: the body of `GET /cluster/node`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationError

from core.config import Config
from core.errors import explain

PROTOCOL = 1
"""version of what nodes and gateways say to each other; nodes of another one get no session"""

Count = Annotated[int, Field(ge=0, le=2**31)]


class Report(Config):
    """One node, at one moment."""

    protocol: int = Field(ge=0, le=2**31)
    node: str = Field(max_length=32)
    """its name, which begins every id that it gives; empty where it has none"""
    version: str = Field(max_length=64)
    """of its software"""
    model: str = Field(max_length=64)
    state: str = Field(max_length=32)
    """of its devices: ready when at least one of them is"""
    draining: bool
    """it takes no new session"""
    places: Count
    """sessions that it may hold"""
    open: Count
    """sessions that it holds"""
    free: Count
    """sessions of the usual size that its admission would take now"""
    load: float = Field(ge=0, le=1e9)
    """share of its devices' time that its sessions take"""
    waiting: Count
    """clients in the line that it keeps for the cluster"""
    refused: Count
    """offers that it refused for want of a place, since it started"""
    streams: tuple[str, ...] = Field((), max_length=10_000)
    """names that are published there"""


def read_report(body: Any) -> Report:
    """The report in a JSON body. Raises ValueError with one sentence; another protocol may have other fields."""
    if not isinstance(body, dict) or type(body.get("protocol")) is not int:
        raise ValueError("it is no node of a cluster")
    if body["protocol"] != PROTOCOL:
        return other_protocol(body)
    try:
        return Report.model_validate(body)
    except ValidationError as error:
        raise ValueError(f"its report cannot be read: {explain(error)}") from error


def other_protocol(body: dict[str, Any]) -> Report:
    """What can be said of a node that speaks another version."""
    names = {name: str(body.get(name, ""))[:32] for name in ("node", "version", "model", "state")}
    counts = dict.fromkeys(("places", "open", "free", "load", "waiting", "refused"), 0)
    return Report.model_validate({"protocol": body["protocol"], "draining": False, **names, **counts})
