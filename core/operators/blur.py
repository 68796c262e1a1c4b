"""Gaussian blur, solved by the SVD of its two one-dimensional matrices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from core.constants import constant, like
from core.operators.base import LinearOperator
from core.operators.config import GaussianBlurConfig


class GaussianBlur(GaussianBlurConfig, LinearOperator):
    """Separable, so A = Mh x Mw^T with one small matrix a side; their decompositions give Eq. 7 and Eq. 9.

    These closed forms are exact at the border. Singular values below 1/1000 hold nothing but noise and are dropped.
    """

    def A_linear(self, x: Tensor, preceding: int = 0) -> Tensor:
        rows, columns = (like(blur_svd(size, self.sigma).matrix, x) for size in x.shape[-2:])
        return rows @ x @ columns.T

    def A_adjoint(self, y: Tensor, preceding: int = 0) -> Tensor:
        rows, columns = (like(blur_svd(size, self.sigma).matrix, y) for size in y.shape[-2:])
        return rows.T @ y @ columns

    def prepare(self, height: int, width: int) -> None:
        super().prepare(height, width)
        for size in (height, width):
            blur_svd(size, self.sigma)
            blur_spectrum(size, self.sigma)

    def least_squares(self, y: Tensor, y_past: Tensor | None, x_past: Tensor | None = None) -> Tensor:
        """Wiener: the prior power of natural pictures falls with frequency, the noise does not."""
        rows, columns = (blur_spectrum(size, self.sigma) for size in y.shape[-2:])
        frequencies = like(rows.frequency, y)[:, None] ** 2 + like(columns.frequency, y)[None] ** 2
        power = PICTURE_POWER / frequencies**1.1
        gains = products(rows.values, columns.values, y)
        spectrum = between(rows.analysis, y, columns.analysis)
        spectrum = spectrum * (gains * power / (gains**2 * power + self.noise**2))
        return between(rows.synthesis, spectrum, columns.synthesis)

    def prox(self, x: Tensor, y: Tensor, past: Tensor | None, gamma: float) -> Tensor:
        rows, columns = (blur_svd(size, self.sigma) for size in y.shape[-2:])
        return x + separable_correction(rows, columns, x, y, gamma)

    def residual(self, x: Tensor, y: Tensor, past: Tensor | None) -> float:
        rows, columns = (blur_svd(size, self.sigma) for size in y.shape[-2:])
        beyond = y.square().sum() - between(rows.Ut, y, columns.Ut).square().sum()  # of y, where A x has nothing
        squares = residual_spectrum(rows, columns, x, y).square().sum() + beyond.clamp_min(0)
        return float(squares.sqrt() / y.norm().clamp_min(1e-12))


PICTURE_POWER = 7e-4
"""Prior power of natural pictures at one cycle a pixel, per orthonormal coefficient; fitted on the training clips."""


@dataclass(frozen=True)
class LineSVD:
    """M = U diag(values) V^T of a map of lines, without the part that holds only noise."""

    matrix: Tensor
    values: Tensor
    Ut: Tensor
    V: Tensor
    Vt: Tensor


@dataclass(frozen=True)
class BlurSpectrum:
    """M = synthesis diag(values) analysis: cosines, which a reflecting blur leaves as they are (DCT-I).

    They are orthogonal when the end pixels count half, as they do in a mirrored line. The SVD weighs all pixels alike
    and gives the end ones, which it sees least of, away.
    """

    synthesis: Tensor
    values: Tensor
    analysis: Tensor
    frequency: Tensor
    """of each cosine, in cycles a pixel"""


@constant(32)
def blur_svd(size: int, sigma: float) -> LineSVD:
    return decomposed(blur_matrix(size, sigma))


def decomposed(M: Tensor) -> LineSVD:
    """The decomposition of a matrix in float64."""
    U, values, Vh = torch.linalg.svd(M, full_matrices=False)
    kept = values > 1e-3 * values[0]
    V = Vh[kept].T.float().contiguous()
    return LineSVD(M.float(), values[kept].float(), U[:, kept].float().T, V, V.T)


@constant(32)
def blur_spectrum(size: int, sigma: float) -> BlurSpectrum:
    half = torch.ones(size, dtype=torch.float64)
    half[[0, -1]] = 0.5**0.5
    index = torch.arange(size, dtype=torch.float64)
    cosines = torch.cos(torch.pi * index[:, None] * index[None] / (size - 1))  # pixel, frequency
    Q = half[:, None] * cosines
    Q = Q / Q.norm(dim=0)
    values = (Q * (half[:, None] * (blur_matrix(size, sigma) @ (Q / half[:, None])))).sum(0)
    kept = values > 1e-3
    synthesis, analysis = Q / half[:, None], Q.T * half
    frequency = (index / (2 * (size - 1))).clamp_min(0.25 / size)
    parts = (synthesis[:, kept], values[kept], analysis[kept], frequency[kept])
    return BlurSpectrum(*(part.float().contiguous() for part in parts))


def blur_matrix(size: int, sigma: float, radius: int = 30) -> Tensor:
    """The blur of a line of `size` pixels as a matrix, float64; taps beyond four sigma are zero (SciPy's rule)."""
    offsets = torch.arange(-radius, radius + 1)
    taps = torch.exp(-(offsets.double() ** 2) / (2 * sigma**2))
    taps[offsets.abs() > int(4 * sigma + 0.5)] = 0
    taps /= taps.sum()
    M = torch.zeros(size, size, dtype=torch.float64)
    lines = torch.arange(size)
    for offset, tap in zip(offsets.tolist(), taps, strict=True):
        source = (lines + offset).abs()
        source = torch.where(source >= size, 2 * size - 2 - source, source)
        M.index_put_((lines, source), tap.expand(size), accumulate=True)
    return M


def between(left: Tensor, x: Tensor, right: Tensor) -> Tensor:
    """left x right^T, for every frame and channel of x."""
    return like(left, x) @ x @ like(right, x).T


def products(rows: Tensor, columns: Tensor, x: Tensor) -> Tensor:
    """Each of `rows` times each of `columns`, where x is."""
    return like(rows, x)[:, None] * like(columns, x)[None]


def residual_spectrum(rows: LineSVD, columns: LineSVD, x: Tensor, y: Tensor) -> Tensor:
    """U^T (y - A x) U, by way of A = U S V^T."""
    gains = products(rows.values, columns.values, y)
    return between(rows.Ut, y, columns.Ut) - gains * between(rows.Vt, x, columns.Vt)


def separable_correction(rows: LineSVD, columns: LineSVD, x: Tensor, y: Tensor, gamma: float) -> Tensor:
    """What Eq. 7 adds to x where A x = rows x columns^T."""
    gains = products(rows.values, columns.values, y)
    gain = gamma * gains / (gamma * gains**2 + 1)
    return between(rows.V, gain * residual_spectrum(rows, columns, x, y), columns.V)
