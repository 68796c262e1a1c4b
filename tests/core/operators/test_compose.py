"""Compositions: their parts one after the other, within limits, and in closed form where there is one."""

import base64
import random

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from core.constants import KEPT
from core.evaluation.metrics import psnr
from core.operators.base import LinearOperator
from core.operators.blur import GaussianBlur
from core.operators.compose import Compose
from core.operators.config import (
    ComposeConfig,
    GaussianBlurConfig,
    InpaintingConfig,
    KernelConfig,
    MotionBlurConfig,
    OperatorConfig,
    SuperResolutionConfig,
)
from core.operators.masks import Inpainting
from core.operators.prox import conjugate_gradient, least_squares, prox_l2
from core.operators.super_resolution import SuperResolution
from core.training.data import procedural
from core.video import from_pixels
from server.files.outputs import encode_png

H, W = 48, 64
BLURRED_AND_SMALL = (GaussianBlurConfig(sigma=1.5), SuperResolutionConfig(scale=2))
CLOSED = [
    Compose(operators=BLURRED_AND_SMALL),
    Compose(operators=(SuperResolutionConfig(scale=2), InpaintingConfig(keep=0.7))),
    Compose(operators=(InpaintingConfig(keep=0.7), InpaintingConfig(keep=0.7, seed=1))),
]
ITERATED = [
    Compose(operators=(*BLURRED_AND_SMALL, InpaintingConfig(keep=0.7))),
    Compose(operators=(MotionBlurConfig(length=5, angle=45), InpaintingConfig(keep=0.7))),
    Compose(operators=(KernelConfig(), SuperResolutionConfig(scale=2))),
]


def name(op):
    return "-".join(part.kind for part in op.operators)


@pytest.fixture(scope="module")
def scene():
    return from_pixels(procedural(2, H, W, random.Random(0)))


def test_it_is_its_parts_one_after_the_other(scene):
    op = Compose(operators=(*BLURRED_AND_SMALL, InpaintingConfig(seed=3)))
    expected = Inpainting(seed=3).A(SuperResolution(scale=2).A(GaussianBlur(sigma=1.5).A(scene)))
    assert torch.allclose(op.A(scene), expected, atol=1e-6)
    assert torch.allclose(
        Compose(operators=BLURRED_AND_SMALL).A(scene),
        SuperResolution(scale=2).A(GaussianBlur(sigma=1.5).A(scene)),
        atol=1e-6,
    )
    assert op.measurement_size(H, W) == (H // 2, W // 2)


@pytest.mark.parametrize("op", [*CLOSED, *ITERATED], ids=name)
@pytest.mark.parametrize("gamma", [1.0, 3.0])
def test_the_prox_is_the_optimum(op, gamma, scene):
    y, x = op.A(scene), scene + 0.3 * torch.randn(scene.shape, generator=torch.Generator().manual_seed(1))
    weight = gamma / op.norm**2
    exact = x + conjugate_gradient(
        lambda u: weight * op.A_adjoint(op.A(u)) + u, weight * op.A_adjoint(y - op.A(x)), 0 * x, 30
    )
    assert torch.allclose(prox_l2(op, x, y, None, gamma, 5), exact, atol=5e-3)
    assert (op.prox(x, y, None, gamma) is not None) == (op in CLOSED)


@pytest.mark.parametrize("op", [*CLOSED, *ITERATED], ids=name)
def test_a_start_explains_the_measurement_and_is_better_than_it(op, scene):
    y = op.measure(scene, None, torch.Generator().manual_seed(0))
    x = least_squares(op, y, None, 5)
    assert op.residual(x, y, None) < 0.05
    assert psnr(x, scene) > psnr(op.show(y), scene) + 1


def test_conjugate_gradients_from_a_lift_solve_the_regularised_problem(scene):
    """The map that they were given was not linear, so that more steps made the start worse."""
    op = ITERATED[0]
    y, weight = op.measure(scene / 2, None, torch.Generator().manual_seed(0)), op.noise * op.norm**2
    lift = op.lift(y)
    x = least_squares(op, y, None, 60)
    gradient = op.A_adjoint(op.A(x) - y) + weight * (x - lift)
    assert gradient.abs().max() < 1e-3


def test_what_a_mask_at_the_end_hides_of_incoming_frames_is_not_looked_at():
    op = Compose(operators=(SuperResolutionConfig(scale=2), InpaintingConfig(keep=0.5, seed=1)))
    frames = torch.ones(2, 3, H // 2, W // 2)
    assert op.observed(frames).mean() == pytest.approx(0.5, abs=0.1)
    assert torch.equal(Compose(operators=BLURRED_AND_SMALL).observed(frames), frames)


def test_the_network_is_told_the_task_that_is_nearest():
    tasks = [
        Compose(operators=(*BLURRED_AND_SMALL, InpaintingConfig())).task,
        Compose(operators=(MotionBlurConfig(), InpaintingConfig())).task,
        Compose(operators=(InpaintingConfig(), InpaintingConfig(seed=1))).task,
    ]
    assert tasks == ["super_resolution", "gaussian_blur", "inpainting"]


def test_pixels_are_known_where_only_masks_are_at_work():
    masks = CLOSED[-1]
    assert masks.reliability(9, H, W).mean() == pytest.approx(0.49, abs=0.05)
    assert not ITERATED[0].reliability(9, H, W).any()


@pytest.mark.parametrize(
    "operators, why",
    [
        ([], "at least 1"),
        ([{"kind": "inpainting"}] * 5, "at most 4"),
        ([{"kind": "temporal_average"}], "does not match any of the expected tags"),
        ([{"kind": "compose", "operators": []}], "does not match any of the expected tags"),
        ([{"kind": "inpainting"}, {"kind": "gaussian_blur"}], "masks at the end only"),
        ([{"kind": "gaussian_blur", "noise": 0.1}], "noise is that of the whole"),
        ([{"kind": "super_resolution"}] * 3, "16 times smaller at most"),
        ([{"kind": "gaussian_blur", "sigm": 1}], "Extra inputs"),
    ],
)
def test_what_cannot_be_composed_is_refused(operators, why):
    with pytest.raises(ValidationError, match=why):
        TypeAdapter(OperatorConfig).validate_python({"kind": "compose", "operators": operators})


def test_one_drawn_mask_is_enough():
    png = base64.b64encode(encode_png(np.full((H, W, 3), 255, np.uint8))).decode()
    with pytest.raises(ValidationError, match="one drawn mask at most"):
        ComposeConfig(operators=[{"kind": "mask", "png": png}] * 2)


def test_every_part_checks_the_size_that_it_gets_without_computing_anything():
    before = KEPT.misses
    config = ComposeConfig(operators=(SuperResolutionConfig(), GaussianBlurConfig()))
    config.check_size(240, 416)
    with pytest.raises(ValueError, match="not 24x16"):
        config.check_size(64, 96)
    with pytest.raises(ValueError, match="multiple of 4"):
        config.check_size(242, 416)
    assert KEPT.misses == before


def test_an_operator_that_is_asked_again_is_not_computed_again(scene):
    op = Compose()
    op.prepare(H, W)
    before = KEPT.misses
    Compose().A_linear(scene)
    op.prox(scene, op.A(scene), None, 1.0)
    assert KEPT.misses == before and isinstance(op, LinearOperator)
