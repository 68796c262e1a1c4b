"""The settings of one peer connection, and what is said of a received frame."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from core.config import Config
from server.values import Ports
from server.webrtc.reception import ReceptionConfig
from server.webrtc.sdp_lines import SdpLimits


class NoMediaPort(OSError):
    """No local UDP port could be opened for media."""


class RtcConfig(Config):
    """One peer connection."""

    bind: tuple[str, ...] = ()
    """local addresses for media; without any, every address of the machine but loopback"""
    udp_ports: Ports | None = None
    """first and last local UDP port for media; None leaves the choice to the system"""
    ice_urls: tuple[str, ...] = ()
    """STUN and TURN servers that this server itself uses"""
    ice_username: str | None = None
    ice_credential: str | None = None
    ice_relay: bool = False
    """media goes through the TURN server only"""
    limits: SdpLimits = SdpLimits(allow_loopback=True)
    """which addresses may be learnt from connectivity checks that arrive"""
    gather_timeout: float = Field(2.0, gt=0, le=10)
    """seconds to wait for STUN and TURN servers before an offer is answered without them"""
    close_timeout: float = Field(5.0, gt=0, le=60)
    """seconds that closing in order may take; after it the sockets are closed all the same"""
    fps: float = Field(16.0, gt=0, le=120)
    """frames per second that are sent, for the bit rate"""
    key_frame_every: float = Field(0.5, ge=0, le=60)
    """shortest time in seconds between two key frames that the peer requests"""
    max_pixels: int = Field(1920 * 1088, gt=0, le=2**26)
    """larger incoming frames are not decoded"""
    min_side: int = Field(16, ge=2, le=256)
    """frames with a shorter side than this are not decoded, in pixels"""
    max_side: int = Field(4096, ge=16, le=16384)
    """frames with a longer side than this are not decoded, in pixels"""
    max_aspect: float = Field(4.0, ge=1, le=100)
    """frames whose longer side is more than so many times the shorter one are not decoded"""
    max_frames: int = Field(48, ge=1, le=1000)
    """decoded frames that may wait to be taken; the oldest is dropped first"""
    max_encoded: int = Field(60, ge=1, le=1000)
    """encoded frames that may wait for the decoder; beyond, the stream waits for a key frame"""
    max_packets: int = Field(4000, ge=100, le=10**6)
    """RTP packets per second that are taken; 1,100 bytes each make 35 Mbit/s"""
    reception: ReceptionConfig = ReceptionConfig()


@dataclass(frozen=True)
class Arrival:
    """What `VideoFrame.opaque` says of a received frame."""

    at: float
    """when its last packet arrived, in the event loop's clock"""
    lost: bool
    """frames between this one and the one before it were lost on the network, or dropped here"""
