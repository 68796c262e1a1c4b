"""SSIM is the published one, and a video in chunks has the quality of the whole."""

import pytest
import torch

from core.evaluation.metrics import flicker, psnr
from core.evaluation.quality import Quality, ssim, ssim_per_frame


def noisy_pair(frames=3, height=32, width=40, sigma=0.1):
    rng = torch.Generator().manual_seed(0)
    smooth = torch.linspace(-1, 1, width).expand(frames, 3, height, width).clone()
    return smooth, smooth + sigma * torch.randn(smooth.shape, generator=rng)


def test_ssim_is_the_formula_of_wang_et_al():
    a, b = noisy_pair()
    taps = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2))

    def mean(x):  # under the Gaussian window, where it fits
        rows, columns = (torch.zeros(size - 10, size) for size in x.shape[-2:])
        for matrix in (rows, columns):
            for i, row in enumerate(matrix):
                row[i : i + 11] = taps / taps.sum()
        return rows @ x @ columns.T

    a, b = a / 2 + 0.5, b / 2 + 0.5  # the luminance term depends on where zero is
    c1, c2 = 0.01**2, 0.03**2
    ma, mb = mean(a), mean(b)
    va, vb, covariance = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    similarity = (2 * ma * mb + c1) * (2 * covariance + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    found = ssim_per_frame(2 * a - 1, 2 * b - 1)
    assert found == pytest.approx(similarity.mean(dim=(1, 2, 3)).tolist(), abs=1e-4)


def test_ssim_of_equal_frames_is_one_and_falls_with_noise():
    a, b = noisy_pair(sigma=0.05)
    _, c = noisy_pair(sigma=0.2)
    assert ssim(a, a) == pytest.approx(1)
    assert ssim(a, a) > ssim(a, b) > ssim(a, c)


def test_ssim_of_a_picture_smaller_than_its_window_says_so():
    a = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ValueError, match="at least 11x11 pixels, found 8x8"):
        ssim(a, a)


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
