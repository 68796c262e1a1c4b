"""How near a restored video is to the original, cheaply. Frames are [T, 3, H, W] in [-1, 1] throughout."""

from __future__ import annotations

from statistics import fmean

from torch import Tensor

_FLOOR = 1e-10
"""mean square error of a perfect frame, so that its PSNR is 100 dB and not infinite"""

STILL = 5e-5
"""least mean change of a picture that moves, in [0, 1]: a hundredth of a grey level"""


def psnr_per_frame(a: Tensor, b: Tensor) -> list[float]:
    """PSNR of each frame in dB, over RGB in [0, 1] with peak 1; 100 for equal frames."""
    check_pair(a, b)
    error = ((a.float() - b.float()) / 2).square().mean(dim=(1, 2, 3))
    values: list[float] = (-10 * error.clamp_min(_FLOOR).log10()).tolist()
    return values


def psnr(a: Tensor, b: Tensor) -> float:
    """The mean over frames of `psnr_per_frame`, dB."""
    return fmean(psnr_per_frame(a, b))


def flicker_per_step(restored: Tensor, original: Tensor) -> list[float]:
    """|Δ restored - Δ original| of each pair of neighbouring frames, mean over RGB in [0, 1]: T - 1 values.

    0 when the restored video changes from frame to frame exactly as the original does.
    """
    check_pair(restored, original)
    error = (restored.float() - original.float()) / 2
    values: list[float] = error.diff(dim=0).abs().mean(dim=(1, 2, 3)).tolist()
    return values


def flicker(restored: Tensor, original: Tensor) -> float:
    """The mean of `flicker_per_step`; 0 for a single frame."""
    values = flicker_per_step(restored, original)
    return fmean(values) if values else 0.0


def change_per_step(frames: Tensor) -> list[float]:
    """|Δ frames| of each pair of neighbouring frames, mean over RGB in [0, 1]: T - 1 values."""
    values: list[float] = (frames.float() / 2).diff(dim=0).abs().mean(dim=(1, 2, 3)).tolist()
    return values


def change_ratio(restored: Tensor, reference: Tensor) -> float | None:
    """How much the restored video changes from frame to frame where `reference` changes by 1, both [T, 3, H, W].

    Above 1 it flickers. None for a single frame, and where the reference stands still.
    """
    check_pair(restored, reference)
    changes = change_per_step(reference)
    known = fmean(changes) if changes else 0.0
    return fmean(change_per_step(restored)) / known if known > STILL else None


def check_pair(a: Tensor, b: Tensor) -> None:
    """Raises ValueError unless a and b are frames of one shape."""
    if a.shape != b.shape or a.ndim != 4 or not len(a):
        found = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ValueError(f"expected two equal shapes [T, 3, H, W], found {found}")
