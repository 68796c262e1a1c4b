"""Blur by any small kernel, solved in the Fourier domain: exact inside, nearly so within its reach of the border."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from core.constants import constant, like
from core.operators.base import LinearOperator
from core.operators.blur import PICTURE_POWER
from core.operators.config import ConvolutionConfig, KernelConfig, MotionBlurConfig
from core.operators.kernels import Taps

SEAM = 16
"""pixels beside twice the kernel's reach over which opposite borders are blended, so that a frame repeats smoothly"""


class Convolution(ConvolutionConfig, LinearOperator):
    """y = k * x, the frame reflected at its border: A = R C P, which pads, convolves on a torus, and cuts.

    A kernel has no closed form at such a border. What is used there is that of the torus, and its error is zero where
    the residual is: a frame that explains y stays as it is.
    """

    @property
    def task(self) -> str:
        return "gaussian_blur"

    @property
    def taps_of(self) -> Taps:
        """The kernel as a key of constants."""
        return tuple(map(tuple, self.kernel.tolist()))

    @property
    def radius(self) -> tuple[int, int]:
        """Rows and columns that the kernel reaches up and to the left, and as many down and to the right."""
        rows, columns = self.kernel.shape
        return rows // 2, columns // 2

    def A_linear(self, x: Tensor, preceding: int = 0) -> Tensor:
        rows, columns = self.radius
        padded = F.pad(x, (columns, columns, rows, rows), mode="reflect")
        return self._cut(filtered(padded, self._transfer(x)), *x.shape[-2:])

    def A_adjoint(self, y: Tensor, preceding: int = 0) -> Tensor:
        return self._folded(filtered(self._embedded(y), self._transfer(y), conjugate=True), *y.shape[-2:])

    def prepare(self, height: int, width: int) -> None:
        super().prepare(height, width)
        transfer(self.taps_of, *self._torus(height, width))

    def least_squares(self, y: Tensor, y_past: Tensor | None, x_past: Tensor | None = None) -> Tensor:
        """Wiener with the prior of natural pictures, on the frame made periodic, twice.

        A mirrored blur is no blur of the mirrored frame, unless the kernel is its own mirror. So the first result,
        which is wrong near the border, only tells what lies beyond it.
        """
        height, width = y.shape[-2:]
        rows, columns = (seam_length(size, r) for size, r in zip((height, width), self.radius, strict=True))
        shape = height + rows, width + columns
        gain = like(wiener_gain(self.taps_of, *shape, self.noise), y)
        x = filtered(repeating(y, rows, columns), gain)[..., :height, :width]
        x = torch.lerp(y, x, like(inside(*self.radius, height, width), y))
        beyond = filtered(repeating(x, rows, columns), like(transfer(self.taps_of, *shape), y))
        beyond[..., :height, :width] = y
        return filtered(beyond, gain)[..., :height, :width]

    def prox(self, x: Tensor, y: Tensor, past: Tensor | None, gamma: float) -> Tensor:
        height, width = y.shape[-2:]
        spectrum = torch.view_as_complex(self._transfer(x))
        gain = gamma * spectrum / (gamma * spectrum.abs().square() + 1)
        residual = self._embedded(y - self.A_linear(x))
        return x + self._folded(filtered(residual, torch.view_as_real(gain), conjugate=True), height, width)

    def _torus(self, height: int, width: int) -> tuple[int, int]:
        rows, columns = self.radius
        return fast_length(height + 2 * rows), fast_length(width + 2 * columns)

    def _transfer(self, x: Tensor) -> Tensor:
        return like(transfer(self.taps_of, *self._torus(*x.shape[-2:])), x)

    def _cut(self, x: Tensor, height: int, width: int) -> Tensor:
        rows, columns = self.radius
        return x[..., rows : rows + height, columns : columns + width]

    def _embedded(self, y: Tensor) -> Tensor:
        """The adjoint of `_cut`."""
        rows, columns = self.radius
        return F.pad(y, (columns, columns, rows, rows))

    def _folded(self, x: Tensor, height: int, width: int) -> Tensor:
        """The adjoint of padding by reflection."""
        rows, columns = self.radius
        return folded(folded(x, width, columns).mT, height, rows).mT


class MotionBlur(MotionBlurConfig, Convolution):
    """A straight line."""


class Kernel(KernelConfig, Convolution):
    """Any kernel. A lopsided one may see a pixel at the border more than once, beyond the norm 1."""


def filtered(x: Tensor, spectrum: Tensor, conjugate: bool = False) -> Tensor:
    """x convolved on the torus on which `spectrum` [H, W / 2 + 1, 2] is one; rows and columns that x lacks are 0."""
    gain = torch.view_as_complex(spectrum)
    height, width = gain.shape[0], 2 * (gain.shape[1] - 1)
    gain = gain.conj() if conjugate else gain
    found: Tensor = torch.fft.irfft2(torch.fft.rfft2(x, s=(height, width)) * gain, s=(height, width))
    return found


def folded(x: Tensor, size: int, radius: int) -> Tensor:
    """Columns of x, of which there are `size`, with the reflected ones beside them added where they came from."""
    found = x[..., radius : radius + size].clone()
    if radius:
        found[..., 1 : radius + 1] += x[..., :radius].flip(-1)
        found[..., size - 1 - radius : size - 1] += x[..., radius + size : size + 2 * radius].flip(-1)
    return found


def repeating(x: Tensor, rows: int, columns: int) -> Tensor:
    """Frames with so many rows and columns more that they go on at one border where they end at the other."""
    return joined(joined(x, columns).mT, rows).mT


def joined(x: Tensor, seam: int) -> Tensor:
    """x [..., W + seam]: `seam` columns more, in which the right border turns into the left one."""
    width = x.shape[-1]
    after = x[..., width - 1 - seam : width - 1].flip(-1)
    before = x[..., 1 : seam + 1].flip(-1)
    share = like(ramp(seam), x)
    return torch.cat([x, torch.lerp(after, before, share)], -1)


@constant(32)
def ramp(seam: int) -> Tensor:
    return 0.5 - 0.5 * torch.cos(torch.pi * (torch.arange(seam) + 0.5) / seam)


@constant(16)
def inside(rows: int, columns: int, height: int, width: int) -> Tensor:
    """1 inside, falling to 0 over twice a kernel's reach at the border, [H, W]."""
    lines = []
    for size, reach in ((height, rows), (width, columns)):
        distance = torch.arange(size).minimum(torch.arange(size - 1, -1, -1))
        lines.append(((distance + 0.5) / (2 * reach)).clamp_max(1) if reach else torch.ones(size))
    return lines[0][:, None] * lines[1]


def seam_length(size: int, radius: int) -> int:
    """How many columns `joined` adds to a line of `size`: as many as there are to reflect, at most."""
    return min(fast_length(size + SEAM + 2 * radius), 2 * size - 2) - size


def fast_length(size: int) -> int:
    """The next even length whose Fourier transform is fast: no prime factor above 5."""
    size += size % 2
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 2


@constant(16)
def transfer(taps: Taps, height: int, width: int) -> Tensor:
    """The kernel's spectrum on a torus of `height` x `width`, real and imaginary part, [H, W / 2 + 1, 2]."""
    kernel = torch.tensor(taps, dtype=torch.float64)
    rows, columns = (torch.arange(size) - size // 2 for size in kernel.shape)
    placed = torch.zeros(height, width, dtype=torch.float64)
    placed[(rows % height)[:, None], columns % width] = kernel
    spectrum = torch.view_as_real(torch.fft.rfft2(placed))
    return spectrum.float()


@constant(16)
def wiener_gain(taps: Taps, height: int, width: int, noise: float) -> Tensor:
    """What undoes the kernel best in a picture of natural power under this noise, [H, W / 2 + 1, 2]."""
    spectrum = torch.view_as_complex(transfer(taps, height, width))
    rows, columns = torch.fft.fftfreq(height).square(), torch.fft.rfftfreq(width).square()
    frequencies = (rows[:, None] + columns).clamp_min((0.25 / max(height, width)) ** 2)
    power = PICTURE_POWER / frequencies**1.1
    return torch.view_as_real(spectrum.conj() * power / (spectrum.abs().square() * power + noise**2))
