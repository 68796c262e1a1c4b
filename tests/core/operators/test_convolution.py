"""Motion blur and any kernel: what they do, and how near their closed forms come to the optimum."""

import random

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from core.constants import KEPT
from core.evaluation.metrics import psnr
from core.operators.blur import GaussianBlur, blur_matrix
from core.operators.config import KernelConfig, MotionBlurConfig
from core.operators.convolution import Kernel, MotionBlur, fast_length, joined
from core.operators.kernels import motion_kernel, spread
from core.operators.prox import conjugate_gradient, least_squares
from core.training.data import procedural
from core.video import from_pixels

H, W = 48, 64
LOPSIDED = Kernel(taps=((1, 0, 0), (0, 2, 0), (0, 3, 4)))
OPERATORS = [MotionBlur(length=7, angle=30), MotionBlur(length=11), Kernel(), LOPSIDED]


def name(op):
    return f"{op.kind} {op.radius}"


@pytest.fixture(scope="module")
def scene():
    return from_pixels(procedural(2, H, W, random.Random(0)))


@pytest.mark.parametrize("length, angle", [(1, 0), (2.5, 0), (9, 0), (9, 90), (9, 37), (20.3, -120), (61, 0), (61, 45)])
def test_a_line_of_motion_has_the_sum_one_and_is_its_own_mirror(length, angle):
    kernel = motion_kernel(length, angle)
    assert kernel.sum() == pytest.approx(1) and kernel.min() >= 0
    assert kernel.shape[0] % 2 == kernel.shape[1] % 2 == 1 and max(kernel.shape) <= 63
    assert np.allclose(kernel, kernel[::-1, ::-1])
    assert spread(kernel) == pytest.approx(
        (length**2 / 12 + 1 / 6) ** 0.5, rel=0.03
    )  # a line, and the pixels' own size


def test_a_motion_of_45_degrees_rises_to_the_right():
    kernel = motion_kernel(7, 45)
    assert kernel[0, -1] > 0 and kernel[-1, 0] > 0
    assert kernel[0, 0] == kernel[-1, -1] == 0


def test_a_bright_point_becomes_the_kernel():
    x = torch.zeros(1, 1, 11, 11)
    x[0, 0, 5, 5] = 1
    y = LOPSIDED.A_linear(x)[0, 0, 4:7, 4:7]
    assert torch.allclose(y, torch.from_numpy(LOPSIDED.kernel.copy()).float(), atol=1e-6)


def test_a_kernel_reflects_at_the_border_as_a_convolution_does(scene):
    taps = torch.from_numpy(LOPSIDED.kernel.copy()).float().flip(0, 1)[None, None]  # conv2d correlates
    expected = F.conv2d(F.pad(scene, (1, 1, 1, 1), mode="reflect").flatten(0, 1)[:, None], taps).view_as(scene)
    assert torch.allclose(LOPSIDED.A_linear(scene), expected, atol=1e-5)


def test_a_gaussian_as_a_kernel_is_the_gaussian_blur(scene):
    line = blur_matrix(61, 1.5)[30, 24:37]
    kernel = Kernel(taps=torch.outer(line, line).tolist())
    blur = GaussianBlur(sigma=1.5)
    assert torch.allclose(kernel.A_linear(scene), blur.A_linear(scene), atol=1e-5)
    y = blur.measure(scene, None, torch.Generator().manual_seed(0))
    assert psnr(least_squares(kernel, y, None, 5), scene) > psnr(least_squares(blur, y, None, 5), scene) - 0.1


@pytest.mark.parametrize("op", OPERATORS, ids=name)
@pytest.mark.parametrize("gamma", [1.0, 3.0])
def test_the_prox_is_within_three_percent_of_the_optimum(op, gamma, scene):
    """Of Eq. 7: the closed form is exact on a torus, and a frame's border is none."""
    y, x = op.A(scene), scene + 0.3 * torch.randn(scene.shape, generator=torch.Generator().manual_seed(1))

    def objective(u):
        return float(gamma / 2 * (op.A(u) - y).square().sum() + (u - x).square().sum() / 2)

    exact = x + conjugate_gradient(
        lambda u: gamma * op.A_adjoint(op.A(u)) + u, gamma * op.A_adjoint(y - op.A(x)), 0 * x, 20
    )
    assert objective(op.prox(x, y, None, gamma)) < 1.03 * objective(exact) < objective(x)


@pytest.mark.parametrize("op", OPERATORS, ids=name)
def test_a_start_is_sharper_than_the_measurement_at_the_border_too(op, scene):
    """A lopsided or slanted kernel lost 5 dB at the border to y itself: a mirrored blur is no blur of a mirror."""
    y = op.measure(scene, None, torch.Generator().manual_seed(0))
    error, before = ((x - scene).square().mean((0, 1)) for x in (least_squares(op, y, None, 5), y))
    assert error[8:-8, 8:-8].mean() < 0.7 * before[8:-8, 8:-8].mean()
    border = torch.ones(H, W, dtype=torch.bool)
    border[6:-6, 6:-6] = False
    assert error[border].mean() < 0.9 * before[border].mean()


def test_a_frame_goes_on_smoothly_where_it_repeats(scene):
    wide = joined(scene, 32)
    step = (wide[..., 0] - wide[..., -1]).abs().mean()
    assert torch.equal(wide[..., :W], scene)
    assert step <= scene.diff(dim=-1).abs().mean()


def test_fast_lengths_have_small_factors():
    assert [fast_length(n) for n in (1, 17, 60, 61, 127, 258)] == [2, 18, 60, 64, 128, 270]


@pytest.mark.parametrize(
    "taps, why",
    [
        ((), "at least 1"),
        (((),), "at least 1"),
        (((1, 2), (3, 4)), "odd number"),
        (((1, 2, 3), (1,), (1, 2, 3)), "one length"),
        (((0, 0, 0),), "above 0"),
        (((-1, 3, -1),), "greater than or equal to 0"),
        (((1e9,),), "less than or equal"),
        (((float("nan"),),), "finite"),
        ([[1] * 65], "at most 63"),
        ([[1]] * 65, "at most 63"),
        ("abc", "valid tuple"),
    ],
)
def test_what_is_no_kernel_is_refused(taps, why):
    with pytest.raises(ValidationError, match=why):
        KernelConfig(taps=taps)


def test_a_size_is_checked_without_computing_anything():
    before = KEPT.misses
    for config in (KernelConfig(taps=[[1] * 63] * 63), MotionBlurConfig(length=61)):
        config.check_size(240, 416)
        with pytest.raises(ValueError, match="more than 31 pixels across"):
            config.check_size(16, 16)
    assert KEPT.misses == before
