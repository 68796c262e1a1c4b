"""The light metrics agree with their definitions."""

import math

import pytest
import torch

from core.evaluation.metrics import change_ratio, flicker, psnr, psnr_per_frame


def noisy_pair(frames=3, height=32, width=40, sigma=0.1):
    rng = torch.Generator().manual_seed(0)
    smooth = torch.linspace(-1, 1, width).expand(frames, 3, height, width).clone()
    return smooth, smooth + sigma * torch.randn(smooth.shape, generator=rng)


def test_an_error_of_a_tenth_of_the_peak_is_20_db():
    a = torch.zeros(2, 3, 8, 8)
    assert math.isclose(psnr(a, a + 0.2), 20, abs_tol=1e-4)  # 0.2 in [-1, 1] is 0.1 in [0, 1]


def test_psnr_is_the_mean_of_the_frames_in_db_and_not_of_their_errors():
    a = torch.zeros(2, 3, 8, 8)
    b = a.clone()
    b[0] += 0.2
    b[1] += 0.02
    assert psnr_per_frame(a, b) == pytest.approx([20, 40], abs=1e-3)
    assert psnr(a, b) == pytest.approx(30, abs=1e-3)


def test_equal_frames_have_a_finite_psnr():
    a, _ = noisy_pair()
    assert psnr(a, a) == pytest.approx(100)


def test_the_change_ratio_is_how_much_the_video_moves_for_the_references_one():
    video = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert change_ratio(video, video) == pytest.approx(1)
    assert change_ratio(0.5 * video + 0.2, video) == pytest.approx(0.5)
    assert change_ratio(video, video[:1].expand_as(video)) is None and change_ratio(video[:1], video[:1]) is None


def test_a_constant_error_does_not_flicker_and_one_that_changes_sign_does():
    a, _ = noisy_pair(frames=4)
    sign = torch.tensor([1.0, -1, 1, -1]).view(4, 1, 1, 1)
    assert flicker(a + 0.1, a) == pytest.approx(0, abs=1e-6)
    assert flicker(a + 0.1 * sign, a) == pytest.approx(0.1, abs=1e-6)  # a step of 0.2 in [-1, 1]


def test_a_frozen_video_of_a_moving_scene_flickers():
    a, _ = noisy_pair(frames=2)
    moved = torch.stack([a[0], a[1].roll(3, -1)])
    assert flicker(a, moved) > 0.01


def test_one_frame_cannot_flicker():
    a, b = noisy_pair(frames=1)
    assert flicker(a, b) == 0


def test_frames_of_different_sizes_are_refused_with_both_sizes():
    with pytest.raises(ValueError, match=r"found \(1, 3, 8, 8\) and \(1, 3, 8, 9\)"):
        psnr(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9))
