"""What an operator is, without its maths: its settings, and the sizes it fits. Loads no torch.

The server, which never computes a tensor, validates requests straight into these classes. Each operator of
`core.operators` is its own configuration: it inherits one of them and adds A, its adjoint and the closed forms.
"""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from typing import Annotated, Literal

import av
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError
from pydantic import Field, field_validator

from core.config import Config
from core.operators.png import bare, read_header, read_size

MASK_SIDE = 4096
"""most pixels of a drawn mask each way"""
MASK_PIXELS = 1920 * 1088
"""most pixels of a drawn mask in all: it is scaled to the stream's size, which is no larger"""


class LinearOperatorConfig(Config):
    """The settings that every operator has."""

    noise: float = Field(0.01, ge=1e-6, le=1)
    """standard deviation of the measurement noise n, for pixels in [-1, 1]"""
    kind: str = ""
    """which operator it is"""

    def measurement_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of y for restored frames of `height` x `width`."""
        return height, width

    def check_size(self, height: int, width: int) -> None:
        """Raises ValueError when restored frames cannot have this size. Cheap: it computes no tensor."""


class ShrinkingConfig(LinearOperatorConfig):
    """The measurement is `scale` times smaller each way."""

    scale: int = Field(ge=2, le=16)

    def measurement_size(self, height: int, width: int) -> tuple[int, int]:
        return height // self.scale, width // self.scale

    def check_size(self, height: int, width: int) -> None:
        if height % self.scale or width % self.scale:
            raise ValueError(f"the size must be a multiple of {self.scale} each way, not {width}x{height}")


class SuperResolutionConfig(ShrinkingConfig):
    """Area average over `scale` x `scale` pixels. A A^T is a multiple of the identity, so all is closed form."""

    kind: Literal["super_resolution"] = "super_resolution"
    scale: Literal[2, 4] = 4
    """how many times smaller the measurement is, each way"""


class InpaintingConfig(LinearOperatorConfig):
    """A random share of the pixels survives; which ones is fixed by the seed and the same in every frame."""

    kind: Literal["inpainting"] = "inpainting"
    keep: float = Field(0.5, ge=0.05, le=0.99)
    """share of the pixels that survive"""
    seed: int = Field(0, ge=0, lt=2**31)
    """which pixels survive"""


class MaskConfig(LinearOperatorConfig):
    """A drawn mask: pixels survive where it is white (128 and more), and are lost where it is black."""

    kind: Literal["mask"] = "mask"
    png: str = Field(min_length=1, max_length=2_000_000)
    """the mask as a PNG file in base64; it is scaled to the size of the stream (nearest)"""

    @field_validator("png")
    @classmethod
    def _may_be_a_picture(cls, png: str) -> str:
        """Reads the header alone: `check_size` decodes the picture, where that may take its time."""
        mask_file(png)
        return png

    def check_size(self, height: int, width: int) -> None:
        if not known_pixels(self.png, height, width).any():
            raise ValueError(NO_PIXEL)


class GaussianBlurConfig(LinearOperatorConfig):
    """Gaussian blur, 61 x 61 taps cut at four sigma, reflected at the border (whole-sample, as in the paper's code)."""

    kind: Literal["gaussian_blur"] = "gaussian_blur"
    sigma: float = Field(3.0, ge=0.3, le=7.0)
    """standard deviation of the kernel, in pixels"""

    def check_size(self, height: int, width: int) -> None:
        if min(height, width) <= 30:
            raise ValueError(f"a 61 x 61 blur needs more than 30 pixels each way, not {width}x{height}")


class TemporalAverageConfig(LinearOperatorConfig):
    """Each frame is the mean of the `window` frames up to it: a long exposure, or too few frames."""

    kind: Literal["temporal_average"] = "temporal_average"
    window: Literal[7] = 7
    """frames in each mean"""


class SpatioTemporalAverageConfig(ShrinkingConfig):
    """Area average over 4 x 4 pixels, then the mean of the `window` frames up to each: small, slow, cheap video."""

    kind: Literal["spatio_temporal_average"] = "spatio_temporal_average"
    window: Literal[4] = 4
    """frames in each mean"""
    scale: Literal[4] = 4
    """how many times smaller the measurement is, each way"""


class DenoiseConfig(LinearOperatorConfig):
    """The video is complete, and noisy: A is the identity."""

    kind: Literal["denoise"] = "denoise"


OperatorConfig = Annotated[
    SuperResolutionConfig
    | InpaintingConfig
    | GaussianBlurConfig
    | TemporalAverageConfig
    | SpatioTemporalAverageConfig
    | MaskConfig
    | DenoiseConfig,
    Field(discriminator="kind"),
]

NO_PIXEL = "the mask keeps no pixel: there is nothing to restore from"


@lru_cache(16)
def known_pixels(png: str, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Where a drawn mask of [height, width] pixels keeps a pixel. Scales to the nearest pixel, as torch does."""
    picture = read_mask(png).reformat(format="gray").to_ndarray() >= 128
    rows, columns = (nearest_pixels(len_, size) for len_, size in zip(picture.shape, (height, width), strict=True))
    known: npt.NDArray[np.bool_] = picture[rows[:, None], columns]
    return known


def nearest_pixels(source: int, size: int) -> npt.NDArray[np.int64]:
    """For each of `size` pixels of a line, the pixel of a line of `source` pixels that it copies."""
    step = np.float32(source) / np.float32(size)
    return np.minimum((np.arange(size, dtype=np.float32) * step).astype(np.int64), source - 1)


def mask_file(png: str) -> bytes:
    """The PNG file in base64. Raises ValueError when its header is none, or names more than a mask may be."""
    try:
        file = base64.b64decode(png, validate=True)
        width, height = read_size(file)
        depth = read_header(file).depth if width * height <= MASK_PIXELS else 8
    except ValueError as error:
        raise ValueError(f"a mask must be a PNG picture in base64, and this is not: {error}") from error
    if max(width, height) > MASK_SIDE:
        raise ValueError(f"a mask may be {MASK_SIDE} pixels each way at most, not {width}x{height}")
    if width * height > MASK_PIXELS:
        raise ValueError(f"a mask may have {MASK_PIXELS} pixels in all at most, not {width}x{height}")
    if depth > 8:
        raise ValueError(f"a mask may have 8 bits a sample at most, not {depth}")
    return file


def read_mask(png: str) -> av.VideoFrame:
    """The picture in a base64 PNG. Raises ValueError for anything else, or for more than a mask may be."""
    file = mask_file(png)
    try:
        with av.open(io.BytesIO(bare(file)), "r", format="png_pipe") as container:
            return next(container.decode(video=0))
    except (ValueError, FFmpegError, StopIteration, IndexError) as error:
        raise ValueError(f"a mask must be a PNG picture in base64, and this is not: {error}") from error
