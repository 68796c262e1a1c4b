"""Which of a sender's RTP streams is received. Pure: no I/O; time is data, in seconds.

A sender may offer one video in several sizes (simulcast), and may send streams that it never offered. One layer is
followed. Another is followed instead only when that one has fallen silent.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """One encoding of a track."""

    ssrc: int
    rtx: int | None = None
    """SSRC of its retransmissions (RFC 4588); None when they are unknown"""


@dataclass
class Layers:
    """The layer that is followed, of those that were negotiated."""

    offered: tuple[Layer, ...] = ()
    """the negotiated layers, the preferred one first; empty follows the first SSRC that arrives"""
    silence: float = 1.0
    """seconds without a packet after which another layer may be followed"""
    followed: Layer | None = None
    switches: int = 0
    """how often another layer was followed than before"""
    _heard: float | None = None

    def accepts(self, ssrc: int, now: float) -> bool:
        """Whether a media packet belongs to the followed layer. Follows another layer when that one is silent."""
        layer = self._named(ssrc)
        if layer is None:
            return False
        if self._heard is None:
            self._heard, self.followed = now, self.offered[0] if self.offered else layer
        if layer != self.followed:
            if now - self._heard <= self.silence:
                return False
            self.followed, self.switches = layer, self.switches + 1
        self._heard = now
        return True

    def accepts_repair(self, ssrc: int) -> bool:
        """Whether a retransmission belongs to the followed layer."""
        return self.followed is not None and ssrc == self.followed.rtx

    def _named(self, ssrc: int) -> Layer | None:
        """The layer of an SSRC; None when that SSRC was not negotiated."""
        if not self.offered:
            return Layer(ssrc)
        return next((layer for layer in self.offered if layer.ssrc == ssrc), None)
