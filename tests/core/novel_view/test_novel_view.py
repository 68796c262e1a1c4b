"""The geometry is a camera's, the splat shows what can be seen, and the scene knows it exactly."""

import numpy as np
import pytest
import torch

from core.evaluation.metrics import psnr
from core.novel_view import scene
from core.novel_view.camera import Lens, Pose, named_stops, pivot_distance, trajectory
from core.novel_view.splat import closed, render
from core.operators.frame_masks import FrameMasks, filled

LENS = Lens.of(60, 96, 160)
STILL = Pose.orbit(0, 0, 0, 4.0)


def test_the_field_of_view_is_the_horizontal_one():
    rays = LENS.rays(torch.zeros(1), torch.tensor([-0.5, 159.5]))
    angles = torch.atan(rays[0, :, 0]).rad2deg()
    assert angles.tolist() == pytest.approx([-30, 30], abs=1e-3)


def test_pixels_and_rays_are_inverse():
    rows, columns = torch.arange(96.0), torch.arange(160.0)
    u, v, z = LENS.pixels(LENS.rays(rows, columns) * 3.0)
    assert torch.allclose(u, columns.expand(96, -1), atol=1e-3) and torch.allclose(v.T, rows.expand(160, -1), atol=1e-3)
    assert (z == 3).all()


@pytest.mark.parametrize("name, axis, sign", [("orbit-left", 0, -1), ("orbit-down", 1, 1)])
def test_a_camera_that_orbits_moves_its_way_and_keeps_looking_at_the_pivot(name, axis, sign):
    poses = trajectory(named_stops(name), 5, 4.0)
    assert torch.allclose(poses[0].centre, torch.zeros(3), atol=1e-6)
    assert sign * poses[-1].centre[axis] > 0.5
    for pose in poses:
        assert torch.allclose(pose.seen(torch.tensor([0.0, 0.0, 4.0])), torch.tensor([0.0, 0.0, 4.0]), atol=1e-5)
        point = torch.tensor([0.3, -0.2, 5.0])
        assert torch.allclose(pose.world(pose.seen(point)), point, atol=1e-5)


def test_forward_means_nearer_to_the_pivot():
    pose = Pose.orbit(0, 0, 0.5, 4.0)
    assert torch.allclose(pose.seen(torch.tensor([0.0, 0.0, 4.0])), torch.tensor([0.0, 0.0, 2.0]), atol=1e-6)


def test_a_plane_shifts_by_focal_times_baseline_over_depth():
    point, pose = torch.tensor([0.1, 0.0, 5.0]), Pose(torch.eye(3), torch.tensor([-0.5, 0.0, 0.0]))
    before, after = LENS.pixels(point)[0], LENS.pixels(pose.seen(point))[0]
    assert float(after - before) == pytest.approx(LENS.focal * 0.5 / 5.0, abs=1e-3)


def test_the_identity_trajectory_returns_the_frame_without_holes():
    x, depth = scene.view(0, LENS, STILL)
    seen, mask = render(x, depth, LENS, STILL)
    assert mask.all() and torch.allclose(seen, x, atol=1e-5)


def test_left_and_right_are_mirror_images():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 96, 160, generator=generator)
    depth = 3 + torch.linspace(0, 1, 160).expand(96, 160)
    left, left_mask = render(x, depth, LENS, Pose.orbit(0, 15, 0, 3.5))
    right, right_mask = render(x.flip(-1), depth.flip(-1), LENS, Pose.orbit(0, -15, 0, 3.5))
    assert (left_mask == right_mask.flip(-1)).float().mean() > 0.995
    assert psnr(left[None], right.flip(-1)[None]) > 35


def test_coming_nearer_opens_no_cracks():
    x, depth = scene.view(0, LENS, STILL)
    pose = Pose.orbit(0, 0, 0.3, pivot_distance(depth))
    _, mask = render(x, depth, LENS, pose)
    assert mask[scene.visible(0, LENS, pose) > 0].mean() > 0.98


@pytest.mark.parametrize("stop", [(0, 12, 0), (10, 0, 0), (0, -8, 0.1)])
def test_what_is_seen_has_the_right_colours_and_holes_are_where_nothing_was_seen(stop):
    x, depth = scene.view(0, LENS, STILL)
    pose = Pose.orbit(*stop, pivot_distance(depth))
    truth, _ = scene.view(0, LENS, pose)
    seen, mask = render(x, depth, LENS, pose)
    exact = scene.visible(0, LENS, pose)
    both = (mask * exact).bool().expand_as(truth)
    error = (seen[both] - truth[both]).square().mean() / 4
    assert -10 * torch.log10(error) > 25
    holes, known = 1 - mask, 1 - exact
    assert (holes * known).sum() / torch.maximum(holes, known).sum() > 0.7


def test_everything_that_the_source_camera_sees_is_visible_to_it():
    assert scene.visible(3, LENS, STILL).mean() > 0.99


def test_the_ball_moves():
    a, b = (scene.view(frame, LENS, STILL)[0] for frame in (0, 20))
    assert (a - b).abs().max() > 0.2


def masks(frames=9):
    found = torch.ones(frames, 1, 32, 48)
    for index in range(frames):
        found[index, :, 8:20, 4 * index : 4 * index + 8] = 0
    return found


def test_masks_are_linear_self_adjoint_and_their_prox_is_stationary():
    op = FrameMasks(masks=masks())
    generator = torch.Generator().manual_seed(0)
    x, v, y = (torch.randn(9, 3, 32, 48, generator=generator, dtype=torch.float64) for _ in range(3))
    assert float((op.A(x) * v).sum()) == pytest.approx(float((x * op.A_adjoint(v)).sum()))
    u = op.prox(x, op.A(y), None, 2.0)
    gradient = 2.0 * op.A_adjoint(op.A(u) - op.A(y)) + u - x
    assert gradient.abs().max() < 1e-9


def test_holes_are_filled_from_around_and_the_rest_stays():
    y = torch.linspace(-1, 1, 48).expand(9, 3, 32, 48)
    known = masks()
    x = filled(y * known, known)
    assert torch.equal(x[known.expand_as(x) > 0], y[known.expand_as(y) > 0])
    assert (x - y).abs().max() < 0.35, "a ramp is continued, roughly"
    assert torch.equal(filled(y, torch.ones_like(known)), y)


def test_a_frame_that_nothing_is_known_of_is_left_as_it_is():
    y = torch.zeros(2, 3, 32, 48)
    known = torch.stack([torch.ones(1, 32, 48), torch.zeros(1, 32, 48)])
    assert filled(y, known).isfinite().all()


def test_a_trajectory_passes_its_stops():
    poses = trajectory([(0, 0, 0), (0, 10, 0), (0, 0, 0)], 9, 4.0)
    assert np.argmax([-float(pose.centre[0]) for pose in poses]) == 4
    assert torch.allclose(poses[-1].centre, torch.zeros(3), atol=1e-6)


def test_a_pixel_between_two_of_one_surface_is_a_crack_and_all_else_stays_a_hole():
    depth = torch.full((1, 5, 9), 2.0)
    colour = torch.arange(9.0).expand(3, 5, 9).clone()
    depth[0, 2, 1] = torch.inf  # a crack
    depth[0, 1:4, 4:6] = torch.inf  # a hole, two pixels wide and three high
    depth[0, :, 7], depth[0, :, 8] = torch.inf, 4.0  # a gap between two surfaces
    colour[:, ~depth[0].isfinite()] = 0
    found, mask = closed(colour, depth)
    assert mask[0, 2, 1] == 1 and found[:, 2, 1].tolist() == [1.0] * 3
    assert not mask[0, 1:4, 4:6].any() and not mask[0, :, 7].any()
    assert torch.equal(found[:, depth[0].isfinite()], colour[:, depth[0].isfinite()])


def test_a_depth_with_noise_tears_few_holes_into_what_is_seen():
    x, depth = scene.view(0, LENS, STILL)
    pose = Pose.orbit(0, 20, 0.3, pivot_distance(depth))
    noisy = depth * (1 + 0.02 * torch.randn(depth.shape, generator=torch.Generator().manual_seed(0)))
    _, mask = render(x, noisy, LENS, pose)
    seen = scene.visible(0, LENS, pose)
    assert mask[seen > 0].mean() > 0.94  # 0.926 with the cracks open
    holes, known = 1 - mask, 1 - seen
    assert (holes * known).sum() / torch.maximum(holes, known).sum() > 0.88  # 0.845
