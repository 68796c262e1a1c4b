"""The settings of one peer connection, and what a received frame tells."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from core.config import Config
from server.webrtc.reception import ReceptionConfig


class NoMediaPort(OSError):
    """No local UDP port could be opened for media."""


class RtcConfig(Config):
    """One peer connection."""

    bind: tuple[str, ...] = ()
    """local addresses for media; none given means every address of the machine but loopback"""
    udp_ports: tuple[int, int] | None = None
    """first and last local UDP port for media; None leaves the choice to the system"""
    ice_urls: tuple[str, ...] = ()
    """STUN and TURN servers that this server itself uses"""
    ice_username: str | None = None
    ice_credential: str | None = None
    ice_relay: bool = False
    """media goes through the TURN server only"""
    gather_timeout: float = Field(2.0, gt=0, le=10)
    """seconds that STUN and TURN servers are waited for before an offer is answered without them"""
    fps: float = Field(16.0, gt=0, le=120)
    """frames per second that are sent, for the bit rate"""
    key_frame_every: float = Field(0.5, ge=0)
    """shortest time in seconds between two key frames that the peer asks for"""
    max_pixels: int = Field(1920 * 1088, gt=0)
    """larger incoming pictures are not decoded"""
    max_frames: int = Field(48, ge=1)
    """decoded frames that may wait to be taken, the oldest is dropped first"""
    max_encoded: int = Field(60, ge=1)
    """encoded frames that may wait for the decoder; beyond, the picture waits for a key frame"""
    reception: ReceptionConfig = ReceptionConfig()


@dataclass(frozen=True)
class Arrival:
    """What `VideoFrame.opaque` says of a received frame."""

    at: float
    """when its last packet came, in the event loop's clock"""
    lost: bool
    """frames between this one and the one before it were lost, on the way or here for want of room"""
