"""How features travel from frame to frame: bilinear warps along the motion, and the sweeps that use them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.models.tiny.blocks import ConvBlock, channels_first, shifted
from core.models.tiny.motion import SOURCES


@dataclass(frozen=True)
class Plan:
    """A bilinear warp of features at 1/4 resolution, as a gather of four rows for each."""

    index: Tensor
    """[B h w, 4]"""
    weight: Tensor
    """[B h w, 4]; zeros where there is nothing to carry"""
    back: tuple[Tensor, Tensor, Tensor] | None = None
    """its transpose, for a gradient: rows, offsets and weights"""


def plans(flows: Tensor | None, linked: Tensor) -> tuple[list[Plan | None], list[Plan | None]]:
    """How features reach each frame from the one before it, and from the one after it; `Look.flows`, `Look.linked`."""
    T, gradient = linked.shape[2], torch.is_grad_enabled()
    if flows is None:
        return [None] * T, [None] * T
    before, after = (
        [plan(flows[:, s, t], linked[:, s, t], gradient) if linked[:, s, t].any() else None for t in range(T)]
        for s in range(SOURCES)
    )
    return before, after


def plan(flow: Tensor, linked: Tensor, gradient: bool) -> Plan:
    """Of the flows [B, h, w, 2] of the streams that are `linked` [B]; places beyond the border are clamped to it."""
    B, h, w, _ = flow.shape
    x = (torch.arange(w, device=flow.device) + flow[..., 0]).clamp(0, w - 1)
    y = (torch.arange(h, device=flow.device)[:, None] + flow[..., 1]).clamp(0, h - 1)
    x0, y0 = x.floor().clamp_max(w - 2), y.floor().clamp_max(h - 2)
    fx, fy = x - x0, y - y0
    first = (torch.arange(B, device=flow.device) * h * w)[:, None, None] + y0.int() * w + x0.int()
    index = torch.stack([first, first + 1, first + w, first + w + 1], -1).view(-1, 4).int()
    weight = torch.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy], -1)
    weight = (weight * linked[:, None, None, None]).view(-1, 4)
    return Plan(index, weight, transposed(index, weight) if gradient else None)


def transposed(index: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gather that takes the gradient of a warp back: rows, offsets and weights for `embedding_bag`."""
    flat = index.flatten().numpy()
    short = flat.astype(np.uint16) if len(index) <= 1 << 16 else flat  # 16 bits sort by radix
    order = np.argsort(short, kind="stable")
    counts = np.bincount(flat, minlength=len(index))
    offsets = torch.from_numpy((np.cumsum(counts) - counts).astype(np.int32))
    rows = torch.from_numpy(order)
    return (rows // 4).int(), offsets, weight.flatten()[rows]


class Warp(torch.autograd.Function):
    """Features [B, h, w, C], moved by a plan."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: Plan) -> Tensor:
        ctx.plan = p
        rows = x.reshape(-1, x.shape[-1])
        return F.embedding_bag(p.index, rows, per_sample_weights=p.weight.to(rows.dtype), mode="sum").view(x.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        index, offsets, weight = ctx.plan.back
        rows = gradient.reshape(-1, gradient.shape[-1])
        out = F.embedding_bag(index, rows, offsets, per_sample_weights=weight.to(rows.dtype), mode="sum")
        return out.view(gradient.shape), None


class Sweep(ConvBlock):
    """A temporal-shift block through which features travel from frame to frame along the motion.

    h_t = x_t + second(lrelu(modulated(first(shifted x)_t + carry(warp(h of the frame just visited)))))
    """

    def __init__(self, channels: int, embedding: int, depth: int):
        super().__init__(channels, embedding)
        self.carry = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        nn.init.zeros_(self.carry.weight)
        self.deeper = nn.ModuleList([ConvBlock(channels, embedding) for _ in range(depth - 1)])
        for block in self.deeper:
            nn.init.zeros_(block.second.weight)

    def forward(self, x: Tensor, e: Tensor, steps: list[Plan | None], h: Tensor | None, order: range) -> Tensor:  # type: ignore[override]
        """x [B, T, h, w, C] visited in `order`, `h` [B, h, w, C] first of all; `steps[t]` leads to frame t."""
        T = x.shape[1]
        scale, shift = (part.to(x.dtype)[:, :, None, None] for part in self.modulation(F.silu(e)).chunk(2, -1))
        seen = self.first(channels_first(shifted(x, None)))
        seen = seen.unflatten(0, (-1, T)).unbind(1)  # T times [B, C, h, w]; the gradient of `seen[:, t]` has T frames
        frames, out = x.unbind(1), [x] * T
        for t in order:
            y, step = seen[t], steps[t]
            if h is not None and step is not None:
                y = y + self.carry(Warp.apply(h, step).permute(0, 3, 1, 2))
            y = F.leaky_relu(torch.addcmul(shift, y, 1 + scale), 0.1)
            h = frames[t] + self.second(y).permute(0, 2, 3, 1)
            for block in self.deeper:
                h = block(h[:, None], e)[:, 0]
            out[t] = h
        return torch.stack(out, 1)
