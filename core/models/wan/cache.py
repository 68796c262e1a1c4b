"""The keys and values of a stream's restored past: a ring of chunks, and the rotary positions that go with it.

Attention does not care about the order of its keys, and a key carries its own position (RoPE is applied before it is
stored), so a window slides by overwriting its oldest slot: nothing is moved or copied. Angles are computed from the
frame index in float64, chunk by chunk, so positions never run out. Knows no model and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

LATENTS = 3
"""latent frames of a chunk, and of a slot of its ring"""


def axis_pairs(head_dim: int) -> tuple[int, int, int]:
    """How many of a head's rotated pairs turn with time, height and width: 22, 21, 21 of 64."""
    side = head_dim // 6
    return head_dim // 2 - 2 * side, side, side


def frequencies(pairs: int, device: torch.device | str = "cpu") -> Tensor:
    """The angle per position [pairs] of each rotated pair of one axis, float64."""
    return 10000.0 ** (-torch.arange(pairs, dtype=torch.float64, device=device) / pairs)


def angles(positions: Tensor, pairs: int) -> Tensor:
    """Angles [n, pairs] in radians of integer positions [n], float64."""
    return positions.to(torch.float64)[:, None] * frequencies(pairs, positions.device)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [..., 2p] with each pair of neighbours (2i, 2i + 1) turned by its angle; cos, sin [..., p] in float32.

    So are the sums: each operation takes the halves as they are, whatever x's dtype, and no copy of x is made for it.
    """
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    left = torch.addcmul(even * cos, odd, sin, value=-1)
    right = torch.addcmul(even * sin, odd, cos)
    return torch.stack((left, right), dim=-1).flatten(-2).to(x.dtype)


@dataclass(frozen=True)
class CacheSpec:
    """The shape of a stream's cache."""

    layers: int
    heads: int
    head_dim: int
    window: int = 9
    """latent frames a chunk attends to, its own 3 included; a multiple of 3 (the paper: 21)"""
    sink: int = 0
    """latent frames, of the window, that stay from the start of the stream; a multiple of 3"""
    latents: int = LATENTS
    """latent frames of each pass; a solver of whole clips takes all of them in one"""

    def __post_init__(self) -> None:
        if self.window < self.latents or self.window % self.latents or self.sink < 0 or self.sink % self.latents:
            raise ValueError(
                f"window and sink are multiples of {self.latents} latent frames, not {self.window} and {self.sink}"
            )
        if self.sink and self.window - self.sink < 2 * self.latents:
            raise ValueError(
                f"a sink of {self.sink} leaves no past in a window of {self.window}: "
                f"the window must be at least {self.sink + 2 * self.latents}"
            )

    @property
    def slots(self) -> int:
        return self.window // self.latents

    @property
    def sink_slots(self) -> int:
        return self.sink // self.latents

    def slot(self, chunk: int) -> int:
        """The slot that chunk number `chunk` of a stream is written to: never one the chunk before it still needs."""
        if chunk < self.sink_slots:
            return chunk
        return self.sink_slots + (chunk - self.sink_slots) % (self.slots - self.sink_slots)

    def filled(self, chunk: int) -> int:
        """Slots in use while chunk number `chunk` is restored, its own included."""
        return min(chunk + 1, self.slots)


@dataclass
class Ring:
    """The memory behind a stream's caches; they all share it."""

    kv: Tensor
    """keys, rotated, and values [layers, 2, slots, tokens, heads, head_dim]"""
    cos: Tensor
    """[tokens, 1, head_dim / 2], float32, of the chunk in work"""
    sin: Tensor
    slot_index: Tensor
    """0 .. slots - 1 on the device, so that choosing a slot costs no transfer"""
    sink_keys: Tensor | None = None
    """the sink's keys as they were first stored, once the window has left them behind"""
    newest: int = -1
    """number of the chunk in work: an older cache is overwritten by it"""
    recordings: dict[str, Any] = field(default_factory=dict)
    """graphs of passes over this memory, see core.models.wan.graphs"""


@dataclass(frozen=True)
class Keys:
    """What one forward pass reads and writes."""

    kv: Tensor
    """the slots in use [layers, 2, filled, tokens, heads, head_dim]"""
    slot: Tensor
    """[1]: the index of the chunk's own slot"""
    cos: Tensor
    sin: Tensor


@dataclass(frozen=True)
class KVCache:
    """The past of a stream after `chunks` chunks.

    One slot of the ring is spare: passes over the next chunk write to it and to nothing else, so a chunk can be tried
    any number of times, and the cache before an `advance` stays valid until the cache after it is used.
    """

    spec: CacheSpec
    height: int
    """rows of tokens: pixels / 16"""
    width: int
    ring: Ring = field(repr=False)
    chunks: int = 0

    @classmethod
    @torch.inference_mode()
    def empty(cls, spec: CacheSpec, height: int, width: int, device: torch.device | str, dtype: torch.dtype) -> KVCache:
        """The cache of a new stream of `height` x `width` tokens a latent frame."""
        tokens = spec.latents * height * width
        shape = (spec.layers, 2, spec.slots, tokens, spec.heads, spec.head_dim)
        turn = torch.zeros(spec.latents, height, width, spec.head_dim // 2, device=device)  # [latents, h, w, pairs]
        time, high, wide = axis_pairs(spec.head_dim)
        turn[..., time : time + high] = angles(torch.arange(height, device=device), high)[None, :, None]
        turn[..., time + high :] = angles(torch.arange(width, device=device), wide)[None, None]
        turn = turn.reshape(tokens, 1, -1)
        ring = Ring(
            torch.empty(shape, device=device, dtype=dtype),
            turn.cos(),
            turn.sin(),
            torch.arange(spec.slots, device=device),
        )
        return cls(spec, height, width, ring)

    @property
    def bytes(self) -> int:
        """What the stream's ring holds on its device."""
        return self.ring.kv.numel() * self.ring.kv.element_size()

    @torch.inference_mode()
    def begin(self) -> Keys:
        """The keys for a pass over the next chunk. From here on, caches of earlier chunks are overwritten."""
        if self.chunks < self.ring.newest:
            raise RuntimeError(
                f"this cache ends at chunk {self.chunks}, but its ring has gone on to chunk {self.ring.newest}: "
                "a stream can go back one chunk only until the next one starts"
            )
        if self.chunks > self.ring.newest:
            self._turn_to(self.chunks)
        slot = self.spec.slot(self.chunks)
        filled = self.ring.kv[:, :, : self.spec.filled(self.chunks)]
        return Keys(filled, self.ring.slot_index[slot : slot + 1], self.ring.cos, self.ring.sin)

    @property
    def steady(self) -> bool:
        """Whether the window is full with the next chunk, so that each further pass has the same shapes."""
        return self.spec.filled(self.chunks) == self.spec.slots

    def advance(self) -> KVCache:
        """The cache with the chunk last written appended."""
        return replace(self, chunks=self.chunks + 1)

    def _turn_to(self, chunk: int) -> None:
        """Sets the ring's time angles to those of `chunk`, and keeps the sink next to the window."""
        ring, spec = self.ring, self.spec
        time = axis_pairs(spec.head_dim)[0]
        positions = torch.arange(spec.latents * chunk, spec.latents * (chunk + 1), device=ring.cos.device)
        turn = angles(positions, time).repeat_interleave(self.height * self.width, dim=0)[:, None]
        ring.cos[..., :time] = turn.cos()
        ring.sin[..., :time] = turn.sin()
        slid = spec.latents * (chunk + 1) - spec.window  # latent frames by which the window has left the sink
        if spec.sink and slid > 0:
            self._turn_sink(slid)
        ring.newest = chunk

    def _turn_sink(self, slid: int) -> None:
        """Moves the sink's keys `slid` latent frames on in time, from their first form, so that nothing adds up."""
        ring, spec = self.ring, self.spec
        stored = ring.kv[:, 0, : spec.sink_slots]
        if ring.sink_keys is None:
            ring.sink_keys = stored.clone()
        time = axis_pairs(spec.head_dim)[0]
        turn = angles(torch.full((1,), slid, device=stored.device), time)[0]
        stored[..., : 2 * time] = rotate(ring.sink_keys[..., : 2 * time], turn.cos().float(), turn.sin().float())
