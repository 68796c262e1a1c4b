"""How features travel along the motion."""

import pytest
import torch

from core.models.tiny.blocks import channels_first, channels_last, shifted
from core.models.tiny.sweeps import Sweep, Warp, plan

B, H, W, C = 2, 6, 9, 5
LINKED = torch.ones(B, dtype=torch.bool)


def features(seed=0, *shape):
    return torch.randn(*(shape or (B, H, W, C)), generator=torch.Generator().manual_seed(seed))


def flow(dx, dy):
    return torch.tensor([dx, dy]).expand(B, H, W, 2)


def test_no_motion_moves_nothing():
    x = features()
    assert torch.allclose(Warp.apply(x, plan(flow(0.0, 0.0), LINKED, False)), x)


def test_a_shift_of_whole_pixels_is_exact_inside():
    x = features()
    moved = Warp.apply(x, plan(flow(2.0, -1.0), LINKED, False))
    assert torch.allclose(moved[:, 1:, :-2], x[:, :-1, 2:])


def test_places_beyond_the_border_are_clamped_to_it():
    x = features()
    assert torch.allclose(Warp.apply(x, plan(flow(-100.0, 0.0), LINKED, False)), x[:, :, :1].expand_as(x))


def test_a_stream_that_is_not_linked_carries_nothing():
    x = features()
    moved = Warp.apply(x, plan(flow(0.3, 0.2), torch.tensor([True, False]), False))
    assert moved[0].abs().sum() > 0 and moved[1].eq(0).all()


def test_the_gradient_of_a_warp_is_its_adjoint():
    """<W x, g> = <x, W^T g>, with places that several pixels share and places that none looks at."""
    steps = plan(3 * features(1, B, H, W, 2), LINKED, True)
    x, g = features(2).requires_grad_(), features(3)
    Warp.apply(x, steps).backward(g)
    with torch.no_grad():
        assert (Warp.apply(x, steps) * g).sum().item() == pytest.approx((x * x.grad).sum().item(), rel=1e-4)
    assert torch.autograd.gradcheck(
        lambda u: Warp.apply(u.float(), steps).double(), features(4).double().requires_grad_(), eps=1e-2, atol=1e-3
    )


@pytest.fixture
def sweep():
    torch.manual_seed(0)
    sweep = Sweep(32, 8, 2).requires_grad_(False)
    torch.nn.init.normal_(sweep.second.weight, std=0.1)
    return sweep


def test_a_sweep_that_carries_nothing_is_a_shift_block(sweep):
    x, e = features(0, 1, 4, H, W, 32), torch.zeros(1, 8)
    swept = sweep(x, e, [None] * 4, None, range(4))
    middle = torch.nn.functional.leaky_relu(sweep.first(channels_first(shifted(x, None))), 0.1)
    assert torch.allclose(swept, x + channels_last(sweep.second(middle), 4), atol=1e-5)


def test_features_reach_every_later_frame_and_no_earlier_one(sweep):
    torch.nn.init.normal_(sweep.carry.weight, std=0.1)
    x, e, h = features(0, 1, 4, H, W, 32), torch.zeros(1, 8), features(1, 1, H, W, 32)
    still = plan(torch.zeros(1, H, W, 2), torch.ones(1, dtype=torch.bool), False)
    for order in (range(4), range(3, -1, -1)):
        first = order[0]
        with_past = sweep(x, e, [still] * 4, h, order)
        without = sweep(x, e, [None if t == first else still for t in range(4)], h, order)
        assert not torch.allclose(with_past[:, order[-1]], without[:, order[-1]], atol=1e-6)
        cut = sweep(x, e, [None if t == order[2] else still for t in range(4)], h, order)
        assert torch.equal(cut[:, first], with_past[:, first])
        assert not torch.allclose(cut[:, order[-1]], with_past[:, order[-1]], atol=1e-6)


def test_a_batch_of_streams_is_each_stream_alone(sweep):
    torch.nn.init.normal_(sweep.carry.weight, std=0.1)
    x, e, h = features(0, 2, 3, H, W, 32), features(1, 2, 8), features(2, 2, H, W, 32)
    flows = features(3, 2, H, W, 2)
    together = sweep(x, e, [plan(flows, LINKED, False)] * 3, h, range(3))
    for i in range(2):
        one = slice(i, i + 1)
        steps = [plan(flows[one], LINKED[one], False)] * 3
        assert torch.allclose(sweep(x[one], e[one], steps, h[one], range(3)), together[one], atol=1e-5)
