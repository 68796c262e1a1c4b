"""The warp error is small where a video moves as its original does, and large where it flickers."""

import numpy as np
import pytest
import torch

from core.evaluation.warp import Motion, flow, luminance, occluded, warp, warp_error
from core.operators.resizing import upsample
from core.video import from_pixels


def panning(frames=4, step=3, height=96, width=128):
    """A smooth texture that moves `step` pixels a frame to the left."""
    texture = np.random.default_rng(0).integers(0, 256, (1, height // 4, width // 4 + 8, 3), np.uint8)
    wide = upsample(from_pixels(texture), 4).clamp(-1, 1)
    return torch.cat([wide[..., step * i : step * i + width] for i in range(frames)])


def test_flow_is_the_motion_of_the_picture():
    greys = luminance(panning())
    found = flow(greys[1], greys[0])[16:-16, 16:-16]
    assert np.median(found[..., 0]) == pytest.approx(3, abs=0.3) and abs(np.median(found[..., 1])) < 0.3


def test_warping_by_a_known_shift_is_that_shift():
    x = panning(2)
    motion = np.zeros((96, 128, 2), np.float32)
    motion[..., 0] = 3
    assert torch.allclose(warp(x[:1], motion)[..., :-3], x[1:2, ..., :-3], atol=1e-4)


def test_a_steady_video_has_less_error_than_a_flickering_one():
    x = panning()
    sign = torch.tensor([1.0, -1, 1, -1]).view(4, 1, 1, 1)
    steady, flickering = warp_error((x + 0.1).clamp(-1, 1), x), warp_error(x + 0.1 * sign, x)
    assert steady < 0.02
    assert flickering == pytest.approx(0.1, abs=0.02)  # a step of 0.2 in [-1, 1]


def test_a_frozen_video_of_a_moving_scene_has_an_error():
    x = panning()
    assert warp_error(x[:1].expand_as(x), x) > 3 * warp_error(x, x)


def test_what_cannot_be_seen_in_both_frames_is_left_out():
    back = np.zeros((8, 8, 2), np.float32)
    forth = back.copy()
    forth[:, 4:, 0] = 5
    assert not occluded(back, back).any()
    assert occluded(back, forth)[:, 4:].all() and not occluded(back, forth)[:, :4].any()


def test_one_frame_has_no_error_and_another_length_is_refused():
    x = panning(3)
    assert warp_error(x[:1], x[:1]) == 0
    with pytest.raises(ValueError, match="expected 3 frames, found 2"):
        Motion(x).warp_error(x[:2])
