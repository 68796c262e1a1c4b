"""What one step of the recipe sees must be what the solver sees."""

import random

import numpy as np
import pytest
import torch

from core.models.tiny.denoiser import TinyCache, TinyConfig
from core.models.tiny.load import build
from core.training.data import Clips, cached, halve, procedural
from core.training.train import draw_lost, draw_sample, loss_of, remember_prefix, restore

KINDS = {"super_resolution", "inpainting", "gaussian_blur", "temporal_average", "spatio_temporal_average"}


@pytest.fixture(scope="module")
def clips():
    rng = random.Random(0)
    return Clips([(1.0, [procedural(64, 128, 160, rng) for _ in range(2)])])


def test_clips_that_lie_in_files_are_read_without_a_warning(tmp_path):
    """A mapped clip cannot be written to, which torch warns of where it shares its memory."""
    clip = procedural(40, 64, 96, random.Random(0))
    mapped = cached(tmp_path / "clip.npy", lambda: clip)
    assert not mapped.flags.writeable
    assert np.array_equal(halve(mapped), halve(clip))
    drawn = [Clips([(1.0, [source])]).draw(9, 64, 96) for source in (mapped, clip)]
    assert torch.equal(*drawn)


@pytest.mark.parametrize("latents, opening", [(1, False), (3, True), (3, False)])
def test_every_kind_of_sample_can_be_learnt_from(clips, latents, opening):
    codec, net = build(TinyConfig(quarter=32, eighth=32, width=32, heads=2))
    rng, seen = random.Random(0), set()
    for _ in range(6):
        samples = [draw_sample(clips, 64, latents, opening, rng) for _ in range(4)]
        for own in (False, True):
            cache = TinyCache(0) if opening else remember_prefix(net, codec, samples, own, 0.05)
            loss, gains = loss_of(restore(net, codec, samples, 0.05, False, cache), samples)
            assert torch.isfinite(loss) and len(gains) == 4
            if opening:
                break
        seen |= {sample.operator.kind for sample in samples}
        for sample in samples:
            assert sample.x.shape == sample.x_init.shape == sample.hint.shape
            assert len(sample.x) == 4 * latents - (3 if opening else 0)
            assert (sample.past is not None) == (sample.operator.reach > 0 and not opening)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    assert len(seen) >= 4 and seen <= KINDS


def test_a_grounded_start_looks_at_the_prefix(clips):
    rng = random.Random(3)
    while True:
        sample = draw_sample(clips, 64, 3, False, rng)
        if sample.operator.recall and sample.operator.kind == "temporal_average":
            break
    before = sample.x_init
    sample.follow(sample.prefix + 0.2)
    assert not torch.equal(before, sample.x_init)


def test_a_burst_of_lost_frames_leaves_most_of_a_chunk_and_its_first_frame():
    rng = random.Random(0)
    bursts = [draw_lost(12, rng) for _ in range(500)]
    lost = [burst for burst in bursts if burst]
    assert 20 < len(lost) < 120
    assert all(0 < len(b) <= 4 and b[0] > 0 and b[-1] < 12 and b == tuple(range(b[0], b[-1] + 1)) for b in lost)
