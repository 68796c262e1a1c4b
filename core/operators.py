"""Degradation operators A of y = A(x) + n, on one chunk: x is [T, 3, H, W] in [-1, 1].

An operator is its own configuration: the body of POST /sessions, the TOML file and the command line all validate
straight into one of these classes. Temporal operators mix in frames from before the chunk (`past`); at the start of a
stream there are none, and their means run over the frames there are.
"""

from __future__ import annotations

import base64
import io
import struct
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import av
import torch
from av.error import FFmpegError
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional as F

from core.config import Config
from core.constants import constant, like
from core.infill import Infill, plan_infill
from core.temporal import deconvolve, window_matrix

CPU = torch.device("cpu")


class LinearOperator(Config):
    """A linear map with its adjoint: <A x, v> = <x, A_adjoint v> for a stream at rest (no frames before)."""

    noise: float = Field(0.01, gt=0, le=1)
    """standard deviation of the measurement noise n, for pixels in [-1, 1]"""

    reach: ClassVar[int] = 0
    """how many frames before the chunk A mixes in"""
    lookback: ClassVar[int] = 0
    """how many measurement frames before the chunk x_init looks at"""
    recall: ClassVar[int] = 0
    """how many restored frames before the chunk x_init looks at"""
    norm: ClassVar[float] = 1.0
    """the largest singular value of A"""

    def A(self, x: Tensor, past: Tensor | None = None) -> Tensor:
        """The clean measurement of frames `x` that follow the frames `past` [at most reach, 3, H, W]."""
        return self.A_linear(x, 0)

    def A_linear(self, x: Tensor, preceding: int = 0) -> Tensor:
        """The part of A that is linear in the chunk itself, `preceding` frames (at most reach) into a stream."""
        raise NotImplementedError

    def A_adjoint(self, y: Tensor, preceding: int = 0) -> Tensor:
        """The adjoint of `A_linear`."""
        raise NotImplementedError

    def measurement_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of y for restored frames of `height` x `width`."""
        return height, width

    def prepare(self, height: int, width: int) -> None:
        """Computes what a stream of this size needs once. Raises ValueError for a size that does not fit."""

    def measure(self, x: Tensor, past: Tensor | None, rng: torch.Generator) -> Tensor:
        """y = A(x) + n (Eq. 1)."""
        y = self.A(x, past)
        return y + self.noise * torch.randn(y.shape, generator=rng, device=rng.device).to(y)

    def observed(self, frames: Tensor) -> Tensor:
        """The measurement in frames that come from a camera: all of them, or what a mask leaves."""
        return frames

    def completed(self, y: Tensor, y_past: Tensor | None) -> Tensor:
        """y with something plausible where nothing was measured."""
        return y

    def residual(self, x: Tensor, y: Tensor, past: Tensor | None) -> float:
        """|y - A x| / |y|: how far the restored frames are from what was measured."""
        return float((y - self.A(x, past)).norm() / y.norm().clamp_min(1e-12))

    def least_squares(self, y: Tensor, y_past: Tensor | None, x_past: Tensor | None = None) -> Tensor | None:
        """Regularised argmin |y - A x|^2 (Eq. 9) in closed form, or None where there is none.

        `y_past` and `x_past` are measured and restored frames before the chunk, None at the start of a stream.
        """
        return None

    def prox(self, x: Tensor, y: Tensor, past: Tensor | None, gamma: float) -> Tensor | None:
        """argmin_u gamma/2 |y - A u|^2 + 1/2 |u - x|^2 (Eq. 7) in closed form, or None where there is none."""
        return None

    def lift(self, y: Tensor) -> Tensor:
        """A cheap picture of y at the size of x, which CG starts from (paper, B.1)."""
        return y

    def hint(self, y: Tensor) -> Tensor:
        """A second look at y beside x_init, [T, 3, H, W]: their difference tells where x_init is unsure."""
        return self.lift(y)

    def reliability(self, frames: int, height: int, width: int) -> Tensor:
        """1 where y holds the pixel itself, 0 where it does not, -1 in a lost frame; [1 or `frames`, 1, H, W]."""
        return torch.zeros(1, 1, height, width)

    def show(self, y: Tensor) -> Tensor:
        """The measurement as a person would see it, at the size of x."""
        return y


class ShrinkingOperator(LinearOperator):
    """The measurement is `scale` times smaller each way. What the operators with an area average share."""

    scale: int

    @property
    def norm(self) -> float:  # type: ignore[override]
        return 1 / self.scale

    def measurement_size(self, height: int, width: int) -> tuple[int, int]:
        return height // self.scale, width // self.scale

    def prepare(self, height: int, width: int) -> None:
        if height % self.scale or width % self.scale:
            raise ValueError(f"the size must be a multiple of {self.scale} each way, not {width}x{height}")

    def lift(self, y: Tensor) -> Tensor:
        return bilinear(y, self.scale)

    def show(self, y: Tensor) -> Tensor:
        return nearest(y, self.scale)


class SuperResolution(ShrinkingOperator):
    """Area average over `scale` x `scale` pixels. A A^T is a multiple of the identity, so all is closed form."""

    kind: Literal["super_resolution"] = "super_resolution"
    scale: Literal[2, 4] = 4
    """how many times smaller the measurement is, each way"""

    def A_linear(self, x: Tensor, preceding: int = 0) -> Tensor:
        return F.avg_pool2d(x, self.scale)

    def A_adjoint(self, y: Tensor, preceding: int = 0) -> Tensor:
        return nearest(y, self.scale) / self.scale**2

    def least_squares(self, y: Tensor, y_past: Tensor | None, x_past: Tensor | None = None) -> Tensor:
        return upsample(y, self.scale)

    def prox(self, x: Tensor, y: Tensor, past: Tensor | None, gamma: float) -> Tensor:
        weight = gamma / (gamma + self.scale**2)
        return x + weight * self.scale**2 * self.A_adjoint(y - self.A_linear(x))


class MaskedOperator(LinearOperator):
    """Pixels survive where a mask is 1. What all inpainting operators share."""

    def mask(self, height: int, width: int) -> Tensor:
        """1 where the pixel is known, 0 where it is lost, [1, 1, H, W]."""
        raise NotImplementedError

    def A_linear(self, x: Tensor, preceding: int = 0) -> Tensor:
        return x * like(self.mask(*x.shape[-2:]), x)

    def A_adjoint(self, y: Tensor, preceding: int = 0) -> Tensor:
        return self.A_linear(y)

    def prepare(self, height: int, width: int) -> None:
        if not self.mask(height, width).any():
            raise ValueError("the mask keeps no pixel: there is nothing to restore from")

    def measure(self, x: Tensor, past: Tensor | None, rng: torch.Generator) -> Tensor:
        y = super().measure(x, past, rng)
        return y * like(self.mask(*x.shape[-2:]), y)

    def observed(self, frames: Tensor) -> Tensor:
        return self.A_linear(frames)

    def infill(self, height: int, width: int, device: torch.device) -> Infill:
        """How frames of this size on `device` are filled."""
        raise NotImplementedError

    def least_squares(self, y: Tensor, y_past: Tensor | None, x_past: Tensor | None = None) -> Tensor:
        return self._infill_of(y)(y)

    def prox(self, x: Tensor, y: Tensor, past: Tensor | None, gamma: float) -> Tensor:
        return x + gamma / (1 + gamma) * (y - x) * like(self.mask(*x.shape[-2:]), x)

    def hint(self, y: Tensor) -> Tensor:
        """Infilled along rows where they hold a near pixel: against x_init this tells the direction of edges."""
        return self._infill_of(y).along_rows(y)

    def reliability(self, frames: int, height: int, width: int) -> Tensor:
        return self.mask(height, width)

    def _infill_of(self, y: Tensor) -> Infill:
        height, width = y.shape[-2:]
        return self.infill(height, width, y.device)


class Inpainting(MaskedOperator):
    """A random share of the pixels survives; which ones is fixed by the seed and the same in every frame."""

    kind: Literal["inpainting"] = "inpainting"
    keep: float = Field(0.5, ge=0.05, le=0.99)
    """share of the pixels that survive"""
    seed: int = Field(0, ge=0, lt=2**31)
    """which pixels survive"""

    def mask(self, height: int, width: int) -> Tensor:
        return random_mask(height, width, self.keep, self.seed)

    def infill(self, height: int, width: int, device: torch.device) -> Infill:
        return _random_infill(height, width, self.keep, self.seed, device)


class Mask(MaskedOperator):
    """A drawn mask: pixels survive where the picture is white (128 and more), and are lost where it is black."""

    kind: Literal["mask"] = "mask"
    png: str = Field(min_length=1, max_length=2_000_000)
    """the mask as a PNG file in base64; it is scaled to the size of the stream (nearest)"""

    @field_validator("png")
    @classmethod
    def _is_a_picture(cls, png: str) -> str:
        read_mask(png)
        return png

    def mask(self, height: int, width: int) -> Tensor:
        return _drawn_mask(self.png, height, width)

    def infill(self, height: int, width: int, device: torch.device) -> Infill:
        return _drawn_infill(self.png, height, width, device)


class GaussianBlur(LinearOperator):
    """Gaussian blur, 61 x 61 taps cut at four sigma, reflected at the border (whole-sample, as in the paper's code).

    Separable, so A = Mh x Mw^T with one small matrix a side; their decompositions give Eq. 7 and Eq. 9 in closed form,
    exact at the border. Singular values below 1/1000 hold nothing but noise and are dropped.
    """

    kind: Literal["gaussian_blur"] = "gaussian_blur"
    sigma: float = Field(3.0, ge=0.3, le=7.0)
    """standard deviation of the kernel, in pixels"""

    def A_linear(self, x: Tensor, preceding: int = 0) -> Tensor:
        rows, columns = (like(blur_svd(size, self.sigma).matrix, x) for size in x.shape[-2:])
        return rows @ x @ columns.T

    def A_adjoint(self, y: Tensor, preceding: int = 0) -> Tensor:
        rows, columns = (like(blur_svd(size, self.sigma).matrix, y) for size in y.shape[-2:])
        return rows.T @ y @ columns

    def prepare(self, height: int, width: int) -> None:
        if min(height, width) <= 30:
            raise ValueError(f"a 61 x 61 blur needs more than 30 pixels each way, not {width}x{height}")
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
        gains = products(rows.values, columns.values, y)
        gain = gamma * gains / (gamma * gains**2 + 1)
        return x + between(rows.V, gain * self._residual_spectrum(x, y), columns.V)

    def residual(self, x: Tensor, y: Tensor, past: Tensor | None) -> float:
        rows, columns = (blur_svd(size, self.sigma) for size in y.shape[-2:])
        beyond = y.square().sum() - between(rows.Ut, y, columns.Ut).square().sum()  # of y, where A x has nothing
        squares = self._residual_spectrum(x, y).square().sum() + beyond.clamp_min(0)
        return float(squares.sqrt() / y.norm().clamp_min(1e-12))

    def _residual_spectrum(self, x: Tensor, y: Tensor) -> Tensor:
        """U^T (y - A x) U, by way of A = U S V^T."""
        rows, columns = (blur_svd(size, self.sigma) for size in y.shape[-2:])
        gains = products(rows.values, columns.values, y)
        return between(rows.Ut, y, columns.Ut) - gains * between(rows.Vt, x, columns.Vt)


class TemporalAverage(LinearOperator):
    """Each frame is the mean of the `window` frames up to it: a long exposure, or too few frames."""

    kind: Literal["temporal_average"] = "temporal_average"
    window: Literal[7] = 7
    """frames in each mean"""

    reach: ClassVar[int] = 6
    lookback: ClassVar[int] = 24
    recall: ClassVar[int] = 12

    def A(self, x: Tensor, past: Tensor | None = None) -> Tensor:
        return causal_mean(x, past, self.window)

    def A_linear(self, x: Tensor, preceding: int = 0) -> Tensor:
        return mix(like(window_matrix(preceding, len(x), self.window), x)[:, preceding:], x)

    def A_adjoint(self, y: Tensor, preceding: int = 0) -> Tensor:
        return mix(like(window_matrix(preceding, len(y), self.window), y)[:, preceding:].T, y)

    def least_squares(self, y: Tensor, y_past: Tensor | None, x_past: Tensor | None = None) -> Tensor:
        return deconvolve(y, y_past, x_past, self.window, self.lookback, self.noise)

    def prox(self, x: Tensor, y: Tensor, past: Tensor | None, gamma: float) -> Tensor:
        gain = temporal_gain(0 if past is None else len(past), len(x), self.window, gamma)
        return x + mix(like(gain, x), y - self.A(x, past))


class SpatioTemporalAverage(ShrinkingOperator):
    """Area average over 4 x 4 pixels, then the mean of the `window` frames up to each: small, slow, cheap video."""

    kind: Literal["spatio_temporal_average"] = "spatio_temporal_average"
    window: Literal[4] = 4
    """frames in each mean"""
    scale: Literal[4] = 4
    """how many times smaller the measurement is, each way"""

    reach: ClassVar[int] = 3
    lookback: ClassVar[int] = 24
    recall: ClassVar[int] = 12

    def A(self, x: Tensor, past: Tensor | None = None) -> Tensor:
        small = None if past is None else F.avg_pool2d(past, self.scale)
        return causal_mean(F.avg_pool2d(x, self.scale), small, self.window)

    def A_linear(self, x: Tensor, preceding: int = 0) -> Tensor:
        weights = like(window_matrix(preceding, len(x), self.window), x)
        return mix(weights[:, preceding:], F.avg_pool2d(x, self.scale))

    def A_adjoint(self, y: Tensor, preceding: int = 0) -> Tensor:
        frames = mix(like(window_matrix(preceding, len(y), self.window), y)[:, preceding:].T, y)
        return nearest(frames, self.scale) / self.scale**2

    def least_squares(self, y: Tensor, y_past: Tensor | None, x_past: Tensor | None = None) -> Tensor:
        small = None if x_past is None else F.avg_pool2d(x_past, self.scale)
        return upsample(deconvolve(y, y_past, small, self.window, self.lookback, self.noise), self.scale)

    def prox(self, x: Tensor, y: Tensor, past: Tensor | None, gamma: float) -> Tensor:
        # A = W S with S S^T = 1/scale^2: u = x + S^T s^2 G (y - A x), G the temporal gain at gamma / scale^2.
        preceding = 0 if past is None else len(past)
        gain = temporal_gain(preceding, len(x), self.window, gamma / self.scale**2)
        return x + nearest(mix(like(gain, x), y - self.A(x, past)), self.scale)


Operator = Annotated[
    SuperResolution | Inpainting | GaussianBlur | TemporalAverage | SpatioTemporalAverage | Mask,
    Field(discriminator="kind"),
]

PAPER_OPERATORS: tuple[LinearOperator, ...] = (
    SuperResolution(),
    Inpainting(),
    GaussianBlur(),
    TemporalAverage(),
    SpatioTemporalAverage(),
)
"""The five tasks of the paper, with its settings."""


def nearest(y: Tensor, scale: int) -> Tensor:
    return F.interpolate(y, scale_factor=scale, mode="nearest")


def bilinear(y: Tensor, scale: int) -> Tensor:
    rows, columns = (enlarging_matrix(size, scale, "bilinear") for size in y.shape[-2:])
    return like(rows, y) @ (y @ like(columns, y).T)


def upsample(y: Tensor, scale: int) -> Tensor:
    """Bicubic, corrected along each side so that every block has exactly its measured mean."""
    rows, columns = (consistent_matrix(size, scale) for size in y.shape[-2:])
    return like(rows, y) @ (y @ like(columns, y).T)


@constant(32)
def consistent_matrix(size: int, scale: int) -> Tensor:
    """R + N (I - P R) of bicubic R, block mean P and repetition N: P times it is the identity, [size scale, size]."""
    R, N = enlarging_matrix(size, scale, "bicubic"), torch.eye(size).repeat_interleave(scale, 0)
    return R + N @ (torch.eye(size) - N.T @ R / scale)


@constant(64)
def enlarging_matrix(size: int, scale: int, mode: Literal["bilinear", "bicubic"]) -> Tensor:
    """Interpolation of a line of `size` pixels as a matrix [size scale, size]: both modes are separable."""
    line = torch.eye(size)[None, None]
    return F.interpolate(line, size=(size * scale, size), mode=mode)[0, 0]


def mix(weights: Tensor, x: Tensor) -> Tensor:
    """Frames mixed over time: weights [S, T], x [T, ...] to [S, ...]."""
    return (weights @ x.flatten(1)).view(len(weights), *x.shape[1:])


def causal_mean(x: Tensor, past: Tensor | None, window: int) -> Tensor:
    preceding = 0 if past is None else len(past)
    frames = x if past is None else torch.cat([past, x])
    return mix(like(window_matrix(preceding, len(x), window), x), frames)


@constant(64)
def temporal_gain(preceding: int, frames: int, window: int, gamma: float) -> Tensor:
    """W^T (W W^T + I / gamma)^-1 of the window matrix W: the prox of a temporal mean is one matrix."""
    W = window_matrix(preceding, frames, window)[:, preceding:].double()
    inverse: Tensor = torch.linalg.inv(W @ W.T + torch.eye(frames, dtype=torch.float64) / gamma)
    return (W.T @ inverse).float()


@constant(16)
def random_mask(height: int, width: int, keep: float, seed: int) -> Tensor:
    """[1, 1, H, W] of 0 and 1; each pixel is 1 with probability `keep`."""
    rng = torch.Generator().manual_seed(seed)
    return (torch.rand(1, 1, height, width, generator=rng) < keep).float()


@constant(16)
def _random_infill(height: int, width: int, keep: float, seed: int, device: torch.device) -> Infill:
    if device != CPU:
        return _random_infill(height, width, keep, seed, CPU).to(device)
    return plan_infill(random_mask(height, width, keep, seed)[0, 0].bool())


@constant(16)
def _drawn_mask(png: str, height: int, width: int) -> Tensor:
    picture = torch.from_numpy(read_mask(png).reformat(format="gray").to_ndarray()).float()
    return F.interpolate((picture >= 128).float()[None, None], size=(height, width), mode="nearest")


@constant(16)
def _drawn_infill(png: str, height: int, width: int, device: torch.device) -> Infill:
    if device != CPU:
        return _drawn_infill(png, height, width, CPU).to(device)
    return plan_infill(_drawn_mask(png, height, width)[0, 0].bool())


def read_mask(png: str) -> av.VideoFrame:
    """The picture in a base64 PNG. Raises ValueError when it is none, or larger than MASK_SIDE pixels each way."""
    try:
        file = base64.b64decode(png, validate=True)
        width, height = struct.unpack(">II", file[16:24])  # of the IHDR: what is too large is not decoded
        if max(width, height) <= MASK_SIDE:
            with av.open(io.BytesIO(file), "r", format="png_pipe") as container:
                return next(container.decode(video=0))
    except (ValueError, struct.error, FFmpegError, StopIteration, IndexError) as error:
        raise ValueError(f"a mask must be a PNG picture in base64, and this is not: {error}") from error
    raise ValueError(f"a mask may be {MASK_SIDE} pixels each way at most, not {width}x{height}")


MASK_SIDE = 4096
"""most pixels of a drawn mask each way"""

PICTURE_POWER = 7e-4
"""Prior power of natural pictures at one cycle a pixel, per orthonormal coefficient; fitted on the training clips."""


@dataclass(frozen=True)
class BlurSVD:
    """M = U diag(values) V^T of a one-dimensional blur, without the part that holds only noise."""

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
def blur_svd(size: int, sigma: float) -> BlurSVD:
    M = blur_matrix(size, sigma)
    U, values, Vh = torch.linalg.svd(M)
    kept = values > 1e-3
    V = Vh[kept].T.float().contiguous()
    return BlurSVD(M.float(), values[kept].float(), U[:, kept].float().T, V, V.T)


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
