"""What a training step makes smaller. Pure."""

from __future__ import annotations

import random

import torch
from torch import Tensor
from torch.nn import functional as F

from core.training.streams import Sample

SHIFT = 8
"""pixels by which pictures move, less one, before a perceptual distance sees them"""


def loss_of(x: Tensor, sample: Sample) -> tuple[Tensor, float]:
    """Relative Charbonnier plus log mean square, and the gain over a consistent x_init in dB."""
    with torch.no_grad():
        reference = sample.consistent(sample.x_init).clamp(-1, 1) - sample.x
        scale = (reference.square() + 1e-4).sqrt().mean() - 0.01
    squares = (x - sample.x).square()
    frames = squares.mean((1, 2, 3))
    charbonnier = (squares + 1e-4).sqrt().mean()
    loss = (charbonnier - 0.01) / (scale + 0.005) + 0.5 * torch.log(frames + 2e-5).mean()
    gain = 10 * torch.log10(reference.square().mean() / frames.detach().mean())
    return loss, gain.item()


def shifted(a: Tensor, b: Tensor, rng: random.Random) -> tuple[Tensor, Tensor]:
    """Frames [N, 3, H, W] without their first rows and columns, up to SHIFT - 1 of each.

    AlexNet looks at every fourth pixel. Seen always in one place, the network puts the detail that pleases it on that
    grid, where one sees a lattice of 4 pixels and no detail.
    """
    top, left = rng.randrange(SHIFT), rng.randrange(SHIFT)
    return a[..., top:, left:], b[..., top:, left:]


def blockiness(x: Tensor, true: Tensor, size: int = 4) -> Tensor:
    """How unevenly the steps between pixels lie over blocks of `size`, compared with those of the `true` frames.

    Frames are [N, 3, H, W]. Steps that lie as the true ones give 0. Perceptual distances take blocks for detail.
    """
    uneven = []
    for rows, columns in ((0, 1), (1, 0)):
        shares = []
        for frames in (x, true):
            later = frames[..., rows:, columns:]
            steps = (later - frames[..., : later.shape[-2], : later.shape[-1]]).abs().mean((1, 2 if columns else 3))
            phases = torch.stack([steps[:, phase::size].mean(1) for phase in range(size)])
            shares.append(phases / phases.mean(0).clamp_min(1e-4))
        uneven.append((shares[0] - shares[1]).abs().mean())
    return torch.stack(uneven).mean()


def lattice(x: Tensor, true: Tensor, size: int = 4, window: int = 6) -> Tensor:
    """The share of the error that repeats every `size` pixels over `window` x `window` blocks; 1 is a pure lattice.

    Frames are [N, 3, H, W]. Errors at random give 1 / window^2. Smooth areas, where one sees it, count fully.
    """
    phases = F.pixel_unshuffle(x - true, size).unflatten(1, (3, size**2))
    phases = phases - phases.mean(2, keepdim=True)
    repeated = F.avg_pool2d(phases.flatten(1, 2), window).unflatten(1, (3, size**2)).square().mean(2)
    all_of_it = F.avg_pool2d(phases.square().mean(2), window)
    return (repeated / (all_of_it.detach() + 1e-6)).mean()
