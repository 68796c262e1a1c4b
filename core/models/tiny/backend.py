"""In which arithmetic the tiny denoiser computes: measured, since processors of one family differ tenfold."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.benchmark import Timer

from core.model_settings import Backend
from core.models.tiny.denoiser import FLOAT32, TinyDenoiser

WORTHWHILE = 1.25
"""how many times faster bfloat16's convolutions must be: it pays for conversions, and costs 0.01 dB"""


def choose(asked: Literal["auto"] | Backend, device: torch.device) -> Backend:
    """The arithmetic that was asked for; for `auto`, bfloat16 on a CPU whose convolutions it speeds up enough."""
    if asked != "auto":
        return asked
    return "bfloat16" if device.type == "cpu" and speed_up(torch.get_num_threads()) >= WORTHWHILE else "float32"


@lru_cache(maxsize=8)
def speed_up(threads: int) -> float:
    """How many times faster a convolution of the network's own shape runs in bfloat16 than in float32."""
    with torch.inference_mode():
        seconds = [seconds_of(dtype, threads) for dtype in (torch.float32, torch.bfloat16)]
    return seconds[0] / seconds[1]


def seconds_of(dtype: torch.dtype, threads: int) -> float:
    """The shortest of five runs."""
    x = torch.randn(4, 48, 60, 104, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(48, 48, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)

    def convolve() -> Tensor:
        return F.conv2d(x, weight, padding=1)

    timer = Timer("convolve()", globals={"convolve": convolve}, num_threads=threads)
    timer.timeit(1)
    return min(timer.timeit(1).mean for _ in range(5))


def convert(denoiser: TinyDenoiser, backend: Backend) -> TinyDenoiser:
    """The denoiser, changed in place: in bfloat16, only what touches pixels stays in float32."""
    if backend == "bfloat16":
        for name, child in denoiser.named_children():
            if name not in FLOAT32:
                child.to(torch.bfloat16)
    return denoiser
