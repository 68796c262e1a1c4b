"""FFmpeg's filters as rivals: each takes its own operator, and returns the frames in their order."""

import numpy as np
import pytest
import torch

from core.contract import SolverConfig
from core.errors import UsageError
from core.evaluation import ffmpeg_filters
from core.evaluation.bench import moving_scene
from core.evaluation.ffmpeg_filters import FILTERS, FilteredClip, filtered, woven
from core.evaluation.metrics import psnr
from core.evaluation.score import measured
from core.operators.deinterlace import Deinterlace
from core.operators.denoise import Denoise
from core.operators.super_resolution import SuperResolution

RAW = SolverConfig(output_gamma=0)


def through(name, operator, still=False):
    clip = moving_scene(21, 48, 64)
    clip = np.repeat(clip[:1], 9, 0) if still else clip
    chunks = list(measured(clip, operator, 0, torch.device("cpu")))
    y, x = (torch.cat([getattr(chunk, part) for chunk in chunks]) for part in "yx")
    parts = list(FilteredClip(FILTERS[name]).restore_clip(y, operator, 0, RAW))
    return torch.cat([part.x for part in parts]), y, x


@pytest.mark.parametrize("name", ["hqdn3d", "nlmeans"])
def test_a_filter_takes_noise_away(name):
    restored, y, x = through(name, Denoise(noise=0.1), still=True)
    assert restored.shape == x.shape
    assert psnr(restored, x) > psnr(y, x) + 1


@pytest.mark.parametrize("field", ["top", "bottom"])
def test_bwdif_gets_whole_pictures_whose_fields_are_in_order(field):
    operator = Deinterlace(noise=0.001, field=field)
    restored, _, x = through("bwdif", operator)
    wrong = through("bwdif", operator.model_copy(update={"field": "bottom" if field == "top" else "top"}))[0]
    assert restored.shape == x.shape and psnr(restored, x) > 25
    assert psnr(restored, x) > psnr(wrong.roll(1, 0), x) + 1


def test_fields_are_woven_in_pairs_and_the_last_stands_alone():
    y = Deinterlace().A(torch.arange(1.0, 10).view(9, 1, 1, 1).expand(9, 3, 4, 2))
    frames = woven(y)[:, 0, :, 0]
    assert frames[0].tolist() == [1, 2, 1, 2] and frames[3].tolist() == [7, 8, 7, 8]
    assert frames[4].tolist() == [9, 8, 9, 8] and len(frames) == 5


def test_a_filter_stands_beside_its_own_operator_only():
    assert FILTERS["bwdif"].suits(Deinterlace()) and not FILTERS["bwdif"].suits(Deinterlace(alternate=False))
    assert not FILTERS["nlmeans"].suits(SuperResolution())


def test_a_filter_that_is_nowhere_is_named(monkeypatch):
    monkeypatch.setattr(ffmpeg_filters, "imageio_ffmpeg", None)
    with pytest.raises(UsageError, match="has no filter sharpest"):
        filtered(np.zeros((1, 16, 16, 3), np.uint8), "sharpest", "")
