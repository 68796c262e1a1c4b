import pytest
import torch

from core.flow import add_noise, chunk_rng, timesteps


def test_times_are_even_and_unshifted():
    assert timesteps(0.1, 2) == pytest.approx((0.1, 0.05))
    assert timesteps(0.1, 1) == pytest.approx((0.1,))
    assert timesteps(0.12, 3) == pytest.approx((0.12, 0.08, 0.04))


def test_sigma_is_exactly_t():
    z, t = torch.zeros(64, 4, 32, 32), 0.1
    assert add_noise(z, t, chunk_rng(0, 0)).std().item() == pytest.approx(t, rel=0.01)
    ones = torch.ones(64, 4, 32, 32)
    assert add_noise(ones, t, chunk_rng(0, 0)).mean().item() == pytest.approx(1 - t, abs=1e-3)


def test_noise_depends_on_seed_and_chunk_alone():
    z = torch.zeros(3, 4, 8, 8)
    assert torch.equal(add_noise(z, 0.1, chunk_rng(1, 5)), add_noise(z, 0.1, chunk_rng(1, 5)))
    assert not torch.equal(add_noise(z, 0.1, chunk_rng(1, 5)), add_noise(z, 0.1, chunk_rng(1, 6)))
    assert not torch.equal(add_noise(z, 0.1, chunk_rng(1, 5)), add_noise(z, 0.1, chunk_rng(2, 5)))
