"""The plain methods do what their names promise."""

import torch

from core.evaluation.baselines import baseline, lanczos, lanczos_matrix, wiener
from core.evaluation.metrics import psnr
from core.operators.averages import TemporalAverage
from core.operators.blur import GaussianBlur
from core.operators.masks import Inpainting
from core.operators.super_resolution import SuperResolution


def waves(frames=1, height=64, width=80):
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    return (torch.sin(rows / 9) * torch.cos(columns / 7) * 0.8).expand(frames, 3, height, width).contiguous()


def test_lanczos_keeps_a_flat_picture_flat_and_its_place():
    assert torch.allclose(lanczos_matrix(12, 4).sum(1), torch.ones(48))
    x = waves()
    small = SuperResolution().A(x)
    nearest = small.repeat_interleave(4, -1).repeat_interleave(4, -2)
    assert psnr(lanczos(small, 4), x) > psnr(nearest, x) + 5


def test_wiener_undoes_a_blur_up_to_the_border():
    operator = GaussianBlur(noise=0.001)
    x = waves() + 0.1 * torch.randn(1, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    operator.prepare(64, 80)
    y = operator.measure(x, None, torch.Generator().manual_seed(0))
    restored = wiener(y, operator.sigma, operator.noise)
    assert psnr(restored, x) > psnr(y, x) + 1
    assert psnr(restored[..., :6, :], x[..., :6, :]) > psnr(y[..., :6, :], x[..., :6, :])


def test_telea_keeps_the_known_pixels_and_fills_the_others():
    operator, x = Inpainting(), waves()
    y = operator.A(x)
    filled = baseline(operator, y)
    known = operator.mask(64, 80).expand_as(x) > 0
    assert (filled - x)[known].abs().max() < 0.01  # bytes on the way
    assert psnr(filled, x) > 30 > psnr(y, x)


def test_a_temporal_mean_has_no_plain_method_but_itself():
    y = waves(3)
    assert torch.equal(baseline(TemporalAverage(), y), y)
