"""What an operator is, without its maths: its settings, and the sizes it fits. Loads no torch.

The server, which never computes a tensor, validates requests straight into these classes. Each operator of
`core.operators` is its own configuration: it inherits one of them and adds A, its adjoint and the closed forms.
"""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from typing import Annotated, Any, Literal

import av
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError
from pydantic import BeforeValidator, FailFast, Field, field_validator, model_validator

from core.config import Config
from core.operators.kernels import KERNEL_SIDE, Taps, motion_kernel, normalised
from core.operators.png import bare, read_header, read_size

MASK_SIDE = 4096
"""most pixels of a drawn mask each way"""
MASK_PIXELS = 1920 * 1088
"""most pixels of a drawn mask in all: it is scaled to the stream's size, which is no larger"""
MOST_PARTS = 4
"""most operators of a composition"""
MOST_SHRINKING = 16
"""how many times smaller a composition makes the picture at most, each way"""
NOISE = 0.01
"""standard deviation of the measurement noise where nothing is said"""


def as_tuples(value: Any) -> Any:
    """A JSON array of arrays as tuples; other values as they are."""
    return tuple(as_tuples(part) for part in value) if isinstance(value, list | tuple) else value


class LinearOperatorConfig(Config):
    """The settings that every operator has."""

    noise: float = Field(NOISE, ge=1e-6, le=1)
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


class ConvolutionConfig(LinearOperatorConfig):
    """Convolution with a kernel of the sum 1, reflected at the border (whole-sample, as the Gaussian blur)."""

    @property
    def kernel(self) -> npt.NDArray[np.float64]:
        """What one bright point becomes, [rows, columns], both odd."""
        raise NotImplementedError

    def check_size(self, height: int, width: int) -> None:
        rows, columns = self.kernel.shape
        if height <= rows // 2 or width <= columns // 2:
            raise ValueError(
                f"a kernel of {columns}x{rows} needs more than {columns // 2} pixels across and {rows // 2} down, "
                f"not {width}x{height}"
            )


class MotionBlurConfig(ConvolutionConfig):
    """The camera moved on a straight line while the shutter was open."""

    kind: Literal["motion_blur"] = "motion_blur"
    length: float = Field(9.0, ge=1, le=KERNEL_SIDE - 2)
    """how far it moved, in pixels"""
    angle: float = Field(0.0, ge=-180, le=180)
    """in which direction, in degrees: 0 is level, 90 is upright, and 45 rises to the right"""

    @property
    def kernel(self) -> npt.NDArray[np.float64]:
        return motion_kernel(self.length, self.angle)


Tap = Annotated[float, Field(ge=0, le=1e6)]
Row = Annotated[tuple[Tap, ...], Field(min_length=1, max_length=KERNEL_SIDE), FailFast()]
LENS: Taps = ((0, 1, 1, 1, 0), (1, 1, 1, 1, 1), (1, 1, 1, 1, 1), (1, 1, 1, 1, 1), (0, 1, 1, 1, 0))
"""a lens that is a little out of focus"""


class KernelConfig(ConvolutionConfig):
    """Any small blur: the picture of one bright point, as measured or drawn."""

    kind: Literal["kernel"] = "kernel"
    taps: Annotated[tuple[Row, ...], FailFast(), BeforeValidator(as_tuples)] = Field(
        LENS, min_length=1, max_length=KERNEL_SIDE
    )
    """rows of numbers from 0, both counts odd; they are scaled to the sum 1"""

    @field_validator("taps")
    @classmethod
    def _is_a_kernel(cls, taps: Taps) -> Taps:
        normalised(taps)
        return taps

    @property
    def kernel(self) -> npt.NDArray[np.float64]:
        return normalised(self.taps)


class DeinterlaceConfig(LinearOperatorConfig):
    """Each frame holds every other line, one field of interlaced video; the lines between are lost."""

    kind: Literal["deinterlace"] = "deinterlace"
    field: Literal["top", "bottom"] = "top"
    """the lines that the first frame holds: `top` are the first, third, fifth and so on"""
    alternate: bool = True
    """the frames hold both fields in turn, as fields were recorded; false: all hold the same one"""


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


PartConfig = Annotated[
    SuperResolutionConfig | InpaintingConfig | GaussianBlurConfig | MotionBlurConfig | KernelConfig | MaskConfig,
    Field(discriminator="kind"),
]
"""What a composition is made of: operators that treat each frame by itself, and all frames alike."""

OUT_OF_FOCUS_AND_SMALL = (GaussianBlurConfig(sigma=1.5), SuperResolutionConfig(scale=2))


class ComposeConfig(LinearOperatorConfig):
    """Several operators one after the other, as in blurred, then made small, then partly covered. Masks come last."""

    kind: Literal["compose"] = "compose"
    operators: Annotated[tuple[PartConfig, ...], BeforeValidator(as_tuples)] = Field(
        OUT_OF_FOCUS_AND_SMALL, min_length=1, max_length=MOST_PARTS
    )
    """in the order in which they happen; the noise is that of the whole, and none of theirs"""

    @model_validator(mode="after")
    def _is_within_limits(self) -> ComposeConfig:
        if any(part.noise != NOISE for part in self.operators):
            raise ValueError("noise is that of the whole measurement: give it beside `operators`, not in one of them")
        masks = [part.kind in ("mask", "inpainting") for part in self.operators]
        if masks != sorted(masks):
            raise ValueError("operators may have masks at the end only: what a mask hides is hidden in what comes in")
        if sum(part.kind == "mask" for part in self.operators) > 1:
            raise ValueError("operators may have one drawn mask at most")
        if 0 in self.measurement_size(MOST_SHRINKING, MOST_SHRINKING):
            raise ValueError(f"operators may make a picture {MOST_SHRINKING} times smaller at most, each way")
        return self

    def measurement_size(self, height: int, width: int) -> tuple[int, int]:
        for part in self.operators:
            height, width = part.measurement_size(height, width)
        return height, width

    def check_size(self, height: int, width: int) -> None:
        for part in self.operators:
            part.check_size(height, width)
            height, width = part.measurement_size(height, width)


OperatorConfig = Annotated[
    SuperResolutionConfig
    | InpaintingConfig
    | GaussianBlurConfig
    | TemporalAverageConfig
    | SpatioTemporalAverageConfig
    | MaskConfig
    | DenoiseConfig
    | DeinterlaceConfig
    | MotionBlurConfig
    | KernelConfig
    | ComposeConfig,
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
