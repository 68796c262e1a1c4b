"""CUDA graphs of the transformer's steady passes: recorded once a stream and pass, then replayed without Python.

A pass is steady once the window is full: its shapes are constant, and its keys and values, angles and slot lie in
the stream's own ring. Only the latents and the slot's number come in anew, through buffers of the recording.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.models.wan.cache import Keys

Pass = Callable[[Tensor, Keys], Tensor | None]
"""A forward pass over latents [L, C, h, w] that reads and writes the keys, and returns a velocity or nothing."""

Record = Callable[[Callable[[], Tensor | None]], tuple[Callable[[], object], Tensor | None]]
"""Records some work; returns what replays it, and where its result then lies."""


@dataclass(frozen=True)
class Recording:
    """One recorded pass of one stream."""

    replay: Callable[[], object]
    z: Tensor
    slot: Tensor
    result: Tensor | None


def replayed(recordings: dict[str, Recording], name: str, work: Pass, z: Tensor, keys: Keys, record: Record) -> Tensor:
    """What `work(z, keys)` returns, by a replay; the first time it is recorded under `name`.

    `recordings` belong to the ring behind `keys`. A pass that returns nothing gives an empty tensor.
    """
    found = recordings.get(name)
    if found is None:
        buffer, slot = z.clone(), keys.slot.clone()
        own = replace(keys, slot=slot)
        replay, result = record(lambda: work(buffer, own))
        found = recordings[name] = Recording(replay, buffer, slot, result)
    found.z.copy_(z)
    found.slot.copy_(keys.slot)
    found.replay()
    return found.result.clone() if found.result is not None else z.new_empty(0)


def record_on_gpu(work: Callable[[], Tensor | None]) -> tuple[Callable[[], object], Tensor | None]:
    """A CUDA graph of `work`, after a first run beside the capture in which libraries take what memory they need."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        work()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return graph.replay, result
