"""What a chunk costs in floating-point operations, and the work that tells what the device can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from core.contract import Pixels


@dataclass(frozen=True)
class Work:
    """Something to time that is pure arithmetic."""

    name: str
    flops: float
    run: Callable[[], object]


def count_flops(work: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products, convolutions and attention in `work`."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


@torch.inference_mode()
def peak_work(device: torch.device) -> tuple[Work, ...]:
    """A large matrix product and a convolution like the tiny model's, in fp32 on a CPU and bf16 on a GPU."""
    large = device.type == "cuda"
    dtype = torch.bfloat16 if large else torch.float32
    side, frames = (8192, 48) if large else (1024, 12)
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    conv = nn.Conv2d(64, 64, 3, padding=1, device=device, dtype=dtype)
    conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)
    x = torch.randn(frames, 64, 60, 104, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    flops = 2.0 * x.numel() * 64 * 9

    def convolve() -> Tensor:
        with torch.inference_mode():
            result: Tensor = conv(x)
            return result

    return (
        Work(f"matmul {side}^3", 2.0 * side**3, lambda: a @ b),
        Work(f"conv 3x3 64 channels {frames}x60x104", flops, convolve),
    )


def moving_scene(frames: int, height: int, width: int, start: int = 0) -> Pixels:
    """[T, H, W, 3]: waves that drift, the same for the same `start`; cheap to make and not empty."""
    time = (start + np.arange(frames, dtype=np.float32))[:, None, None]
    rows, columns = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]
    waves = [np.sin(rows / (7 + 4 * c) + columns / (11 - 3 * c) + time / (3 + c)) for c in range(3)]
    pixels: Pixels = (127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)
    return pixels


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


def device_memory(device: torch.device) -> int | None:
    """Most bytes that PyTorch held on a GPU; None on a CPU, where the process's own memory counts."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
