"""The trust map says what is known of each pixel, and no more."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from core.contract import SolverConfig
from core.engine import Engine
from core.models.load import load
from core.operators.averages import SpatioTemporalAverage, TemporalAverage
from core.operators.blur import GaussianBlur
from core.operators.denoise import Denoise
from core.operators.lost import mask_lost_frames
from core.operators.masks import Inpainting, random_mask
from core.operators.super_resolution import SuperResolution
from core.trust import DEPARTS, INFERRED, LOST, MEASURED, picture_of, shares_of, trust_codes

SIZE = (4, 3, 64, 96)
OPERATORS = [SuperResolution(), Inpainting(), GaussianBlur(), TemporalAverage(), SpatioTemporalAverage(), Denoise()]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def frames(seed=0):
    return 1.6 * torch.rand(SIZE, generator=rng(seed)) - 0.8


def simulated(operator, x, seed=1):
    """Codes of the true frames themselves, as a perfect restoration would return them."""
    y = operator.measure(x, None, rng(seed))
    return trust_codes(operator, x, x, y, None).numpy()


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9])
def test_the_measured_share_is_that_of_the_pixels_which_y_holds(keep):
    operator = Inpainting(keep=keep, seed=3)
    truth = float(random_mask(*SIZE[-2:], keep, 3).mean())
    shares = shares_of(simulated(operator, frames()))
    assert shares.measured == pytest.approx(truth, abs=0.01)
    assert shares.inferred == pytest.approx(1 - truth, abs=0.01)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.kind)
def test_true_pixels_agree_with_their_measurement(operator):
    """Of three channels, each departs in 0.27 % of the samples of y."""
    shares = shares_of(simulated(operator, frames()))
    assert shares.departs < 0.02 and shares.lost == 0
    assert (shares.measured > 0.9) == (operator.kind == "denoise")
    assert sum(value for _, value in shares) == pytest.approx(1)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.kind)
def test_pixels_that_belie_their_measurement_are_told(operator):
    x = frames()
    y = operator.measure(x, None, rng())
    codes = trust_codes(operator, x + 0.2, x, y, None)
    held = operator.mask(*SIZE[-2:])[0, 0].bool() if operator.kind == "inpainting" else slice(None)
    assert (codes[:, held] == DEPARTS).all()


def test_one_wrong_channel_is_enough():
    x = frames()
    y = x.clone()
    x[:, 2] += 0.1
    assert (trust_codes(Denoise(), x, x, y, None) == DEPARTS).all()


def test_what_the_model_adds_unseen_is_inferred_and_shaded_by_its_size():
    operator = SuperResolution()
    x_init = frames().mul(0.5)
    checks = torch.ones(SIZE)
    checks[..., ::2, ::2] = checks[..., 1::2, 1::2] = -1  # every block of 4x4 has mean 0: A does not see it
    y = operator.A(x_init)
    shades = [trust_codes(operator, x_init + size * checks, x_init, y, None) for size in (0, 0.05, 0.1, 1)]
    assert all((codes >= INFERRED).all() for codes in shades)
    assert all((less < more).all() for less, more in pairwise(shades))
    assert (shades[0] == INFERRED).all() and (shades[-1] == 255).all()


@pytest.mark.parametrize("operator", [Inpainting(), SuperResolution(), TemporalAverage()], ids=lambda o: o.kind)
def test_a_frame_that_never_came_is_lost_whatever_stands_in_its_place(operator):
    x = frames()
    y = operator.measure(x, None, rng())
    y[2] = 7
    codes = trust_codes(mask_lost_frames(operator, (2,)), x, x, y, None)
    assert (codes[2] == LOST).all() and not (codes[[0, 1, 3]] == LOST).any()
    assert shares_of(codes.numpy()).lost == 0.25


def test_frames_of_before_count_for_a_mean_over_time():
    x, operator = frames(), TemporalAverage()
    past = frames(9)
    y = operator.A(x, past)
    assert (trust_codes(operator, x, x, y, past) == INFERRED).all()
    assert (trust_codes(operator, x, x, y, None)[0] == DEPARTS).any()


def test_the_four_kinds_have_colours_that_differ_in_lightness():
    picture = picture_of(np.array([[[LOST, DEPARTS, MEASURED, INFERRED, 255]]], np.uint8))
    lightness = sorted(picture[0, 0] @ [0.299, 0.587, 0.114])
    assert min(np.diff(lightness)) > 10


def test_the_engine_adds_the_panel_and_changes_no_other_pixel():
    engine, operator = Engine(load("tiny")), Inpainting()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 64, 96, 3), np.uint8)
    panels = ("degraded", "restored")
    results = []
    for name, asked in (("a", panels), ("b", ("degraded", "trust", "restored"))):
        engine.open(name, operator, "simulate", 64, 96)
        results.append(engine.step(name, pixels, operator, SolverConfig(), panels=asked))
    plain, mapped = results
    assert plain.trust is None
    assert (mapped.panels[:, :, :96] == plain.panels[:, :, :96]).all()
    assert (mapped.panels[:, :, -96:] == plain.panels[:, :, -96:]).all()
    assert mapped.panels.shape == (9, 64, 3 * 96, 3)
    assert mapped.trust.measured == pytest.approx(0.5, abs=0.03) and mapped.trust.departs < 0.05
