import random

import pytest
import torch
from torch import Tensor

from core.operators.base import LinearOperator
from core.operators.denoise import Denoise
from core.operators.prox import conjugate_gradient, least_squares, prox_l2
from core.operators.table import PAPER_OPERATORS
from core.training.data import procedural
from core.video import from_pixels

H, W = 48, 64
CASES = [(op, past) for op in (*PAPER_OPERATORS, Denoise()) for past in {0, op.reach}]


def name(value):
    return getattr(value, "kind", str(value))


def scene(frames: int, height: int, width: int) -> Tensor:
    return from_pixels(procedural(frames, height, width, random.Random(0)))


def problem(op: LinearOperator, past: int) -> tuple[Tensor, Tensor, Tensor | None]:
    rng = torch.Generator().manual_seed(1)
    x = scene(12 + past, H, W).double()
    before = x[:past] if past else None
    y = op.A(x[past:], before)
    return x[past:] + 0.3 * torch.randn(12, 3, H, W, generator=rng, dtype=torch.float64), y, before


@pytest.mark.parametrize("op, past", CASES, ids=name)
@pytest.mark.parametrize("gamma", [1.0, 10.0])
def test_prox_is_stationary(op, past, gamma):
    x, y, before = problem(op, past)
    u = prox_l2(op, x, y, before, gamma, 5)
    gradient = gamma / op.norm**2 * op.A_adjoint(op.A(u, before) - y, past) + u - x  # of Eq. 7
    assert gradient.abs().max() < 2e-3
    assert gradient.abs().max() < 1e-3 * gamma * (x - u).abs().max().clamp_min(1)


@pytest.mark.parametrize("op, past", CASES, ids=name)
def test_closed_form_equals_conjugate_gradients(op, past, monkeypatch):
    x, y, before = problem(op, past)
    closed = prox_l2(op, x, y, before, 1.0, 5)
    monkeypatch.setattr(type(op), "prox", LinearOperator.prox)
    iterated = prox_l2(op, x, y, before, 1.0, 60)
    assert torch.allclose(closed, iterated, atol=2e-3)


@pytest.mark.parametrize("op", PAPER_OPERATORS, ids=name)
def test_prox_brings_frames_closer_to_y(op):
    x, y, before = problem(op, op.reach)
    u = prox_l2(op, x, y, before, 1.0, 5)
    assert op.residual(u, y, before) < 0.75 * op.residual(x, y, before)


@pytest.mark.parametrize("op", PAPER_OPERATORS, ids=name)
def test_least_squares_fits(op):
    x = scene(33, 96, 128)
    y = op.measure(x, None, torch.Generator().manual_seed(0))
    x_init = torch.cat([least_squares(op, y[:9], None, 5), least_squares(op, y[9:21], y[:9], 5)])
    assert op.residual(x_init, y[:21], None) < 0.06
    assert x_init.abs().max() <= 1


def test_a_blurred_start_is_as_good_at_the_border_as_inside():
    """The SVD's start lost the outermost row: the blur sees end pixels half, and a flat weighting gave them away."""
    x = scene(12, 96, 128)
    op = PAPER_OPERATORS[2]
    x_init = least_squares(op, op.measure(x, None, torch.Generator().manual_seed(0)), None, 5)
    error = (x_init - x).square().mean((0, 1))
    assert error[0].mean() < 1.5 * error[8:-8, 8:-8].mean()
    assert error[:, -1].mean() < 1.5 * error[8:-8, 8:-8].mean()


@pytest.mark.parametrize("op", PAPER_OPERATORS, ids=name)
def test_a_streamed_start_matches_that_of_the_whole_clip(op):
    """Frames older than `lookback` change hardly anything: 6e-2 at most, on fast motion."""
    x = scene(57, 48, 64)
    y = op.measure(x, None, torch.Generator().manual_seed(0))
    whole = op.least_squares(y[45:57], y[:45] if op.lookback else None)
    streamed = op.least_squares(y[45:57], y[45 - op.lookback : 45] if op.lookback else None)
    assert (whole - streamed).abs().mean() < 6e-2


@pytest.mark.parametrize("op", PAPER_OPERATORS[3:], ids=name)
def test_temporal_starts_do_not_diverge_on_noise(op):
    """Plain conjugate gradients do: the sliding mean has singular values near zero."""
    x = scene(57, 48, 64)
    y = op.measure(x, None, torch.Generator().manual_seed(0))
    errors = []
    for start in (9, 21, 33, 45):
        x_init = least_squares(op, y[start : start + 12], y[max(0, start - op.lookback) : start], 5)
        errors.append((x_init - x[start : start + 12]).square().mean())
    assert max(errors) < 3 * min(errors)


@pytest.mark.parametrize("op", PAPER_OPERATORS[3:], ids=name)
def test_restored_frames_ground_a_temporal_start(op):
    """Even frames with an error of 0.05, put out by the stream before, tell what the means cannot."""
    x = scene(57, 48, 64)
    rng = torch.Generator().manual_seed(0)
    y = op.measure(x, None, rng)
    for start in (21, 33, 45):
        here, y_past = slice(start, start + 12), y[max(0, start - op.lookback) : start]
        x_past = x[start - op.recall : start] + 0.05 * torch.randn(op.recall, 3, 48, 64, generator=rng)
        alone, grounded = least_squares(op, y[here], y_past, 5), least_squares(op, y[here], y_past, 5, x_past)
        assert (grounded - x[here]).square().mean() < 0.95 * (alone - x[here]).square().mean()


def test_conjugate_gradients_solve_a_small_system():
    rng = torch.Generator().manual_seed(0)
    M = torch.randn(20, 20, generator=rng, dtype=torch.float64)
    Q = M @ M.T + torch.eye(20, dtype=torch.float64)
    b = torch.randn(20, generator=rng, dtype=torch.float64)
    x = conjugate_gradient(lambda v: Q @ v, b, torch.zeros(20, dtype=torch.float64), 40)
    assert torch.allclose(Q @ x, b, atol=1e-8)
