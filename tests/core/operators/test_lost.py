import pytest
import torch

from core.operators.averages import TemporalAverage
from core.operators.lost import LostFrames, mask_lost_frames
from core.operators.prox import least_squares, prox_l2
from core.operators.super_resolution import SuperResolution
from core.operators.table import PAPER_OPERATORS

H, W = 48, 64


def name(value):
    return getattr(value, "kind", str(value))


def randn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth(frames):
    """A picture that brightens evenly."""
    return torch.linspace(-0.5, 0.5, frames)[:, None, None, None].expand(frames, 3, H, W)


@pytest.mark.parametrize("lost", [(3,), (0, 1), (4, 5, 6, 11)], ids=str)
@pytest.mark.parametrize("op", PAPER_OPERATORS, ids=name)
def test_adjoint(op, lost):
    masked = mask_lost_frames(op, lost)
    x, v = randn(0, 12, 3, H, W), randn(1, 12, 3, *op.measurement_size(H, W))
    left = (masked.A_linear(x, op.reach) * v).sum()
    right = (x * masked.A_adjoint(v, op.reach)).sum()
    assert abs(left - right) < 1e-9 * x.norm() * v.norm()


@pytest.mark.parametrize("op", PAPER_OPERATORS, ids=name)
def test_what_stands_in_a_lost_frame_changes_nothing(op):
    masked = mask_lost_frames(op, (2, 7))
    y = randn(0, 12, 3, *op.measurement_size(H, W)).float() * 0.3
    other = y.clone()
    other[[2, 7]] = 9.0
    past = smooth(op.reach) if op.reach else None
    answers = []
    for given in (y, other):
        completed = masked.completed(given, None)
        x = least_squares(masked, completed, None, 5)
        x = prox_l2(masked, x, completed, past, 3.0, 5)
        answers.append((x, torch.tensor(masked.residual(x, completed, past))))
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))


@pytest.mark.parametrize("op", PAPER_OPERATORS, ids=name)
def test_prox_is_stationary(op):
    """The gradient of Eq. 7's objective with A' = D A is zero at what prox_l2 returns."""
    masked, gamma = mask_lost_frames(op, (3, 4)), 2.0
    x, y = randn(0, 12, 3, H, W), randn(1, 12, 3, *op.measurement_size(H, W))
    if op.kind == "gaussian_blur":
        x, y = x.float(), y.float()
    past = randn(2, op.reach, 3, H, W) if op.reach else None
    u = prox_l2(masked, x, y, past, gamma, 40)
    known = y.index_fill(0, torch.tensor([3, 4]), 0.0)
    weight = gamma / op.norm**2
    gradient = weight * masked.A_adjoint(masked.A(u, past) - known, op.reach) + (u - x)
    assert gradient.norm() < 2e-3 * (u - x).norm()


def test_a_lost_frame_is_blended_between_its_neighbours():
    y = smooth(12)
    spoilt = y.clone()
    spoilt[4:7] = 9.0
    completed = LostFrames(operator=SuperResolution(), lost=(4, 5, 6)).completed(spoilt, None)
    assert torch.allclose(completed, y, atol=1e-6)


def test_a_lost_first_frame_is_blended_from_the_chunk_before_it():
    y = smooth(13)
    spoilt = y[1:].clone()
    spoilt[0] = 9.0
    assert torch.allclose(mask_lost_frames(SuperResolution(), (0,)).completed(spoilt, y[:1]), y[1:], atol=1e-6)


def test_a_lost_end_stands_still():
    y = smooth(12)
    completed = mask_lost_frames(TemporalAverage(), (10, 11)).completed(y, None)
    assert torch.equal(completed[10:], y[9:10].expand(2, -1, -1, -1))


def test_an_opening_chunk_of_nothing_is_refused():
    with pytest.raises(ValueError, match="every frame of the opening chunk is lost"):
        mask_lost_frames(SuperResolution(), tuple(range(9))).completed(smooth(9), None)


def test_an_index_outside_the_chunk_is_refused():
    with pytest.raises(ValueError, match="expected lost frames of 0 to 11, found"):
        mask_lost_frames(SuperResolution(), (12,)).completed(smooth(12), None)
