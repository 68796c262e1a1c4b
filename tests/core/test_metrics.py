"""The metrics agree with their definitions and with a second implementation."""

import math

import numpy as np
import pytest
import torch

from core.metrics import Quality, flicker, psnr, psnr_per_frame, ssim, ssim_per_frame


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


def test_ssim_agrees_with_scikit_image():
    structural_similarity = pytest.importorskip("skimage.metrics").structural_similarity
    a, b = noisy_pair()
    expected = [
        structural_similarity(
            ((p + 1) / 2).numpy().astype(np.float64), ((q + 1) / 2).numpy().astype(np.float64),
            channel_axis=0, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )
        for p, q in zip(a, b, strict=True)
    ]  # fmt: skip
    assert ssim_per_frame(a, b) == pytest.approx(expected, abs=2e-4)


def test_ssim_of_equal_frames_is_one_and_falls_with_noise():
    a, b = noisy_pair(sigma=0.05)
    _, c = noisy_pair(sigma=0.2)
    assert ssim(a, a) == pytest.approx(1)
    assert ssim(a, a) > ssim(a, b) > ssim(a, c)


def test_ssim_of_a_picture_smaller_than_its_window_says_so():
    a = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ValueError, match="at least 11x11 pixels, found 8x8"):
        ssim(a, a)


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


def test_a_video_in_chunks_has_the_quality_of_the_whole():
    a, b = noisy_pair(frames=7)
    b = b + 0.1 * torch.randn(7, 1, 1, 1, generator=torch.Generator().manual_seed(1))
    quality = Quality()
    for part in (slice(0, 3), slice(3, 4), slice(4, 7)):
        quality.add(b[part], a[part])
    assert quality.psnr == pytest.approx(psnr(b, a))
    assert quality.ssim == pytest.approx(ssim(b, a))
    assert quality.flicker == pytest.approx(flicker(b, a))


def test_the_change_ratio_tells_a_restless_video_from_a_calm_one():
    a, _ = noisy_pair(frames=4)
    moving = torch.stack([frame.roll(2 * i, -1) for i, frame in enumerate(a)])
    still, restless = Quality(), Quality()
    still.add(moving, moving)
    restless.add(moving + 0.2 * torch.tensor([1.0, -1, 1, -1]).view(4, 1, 1, 1), moving)
    assert still.change_ratio == pytest.approx(1)
    assert restless.change_ratio > 1.5
