import random

import numpy as np
import pytest
import torch

from core.models.tiny.motion import SOURCES, grey, interleaved, motion, new_search, places_of
from core.training.data import procedural
from core.video import from_pixels


def panned(frames, dx=3, dy=-2, height=96, width=128, seed=0):
    """A still texture that moves by whole pixels, so that every neighbour shows all but its rim."""
    reach = 4 * frames
    whole = from_pixels(procedural(1, height + 2 * reach, width + 2 * reach, random.Random(seed)))[0]
    views = [
        whole[:, reach + dy * i : reach + dy * i + height, reach + dx * i : reach + dx * i + width]
        for i in range(frames)
    ]
    return torch.stack(views)


def inner(x, rim=32):
    return x[..., rim:-rim, rim:-rim]


def rms(x):
    return x.square().mean().sqrt().item()


def test_neighbours_come_into_place():
    x = panned(9)
    moved = motion(x).moved
    assert moved.shape == (SOURCES, 9, 3, 96, 128)
    before, after = inner(moved) - inner(x)
    assert rms(before[1:]) < 0.2 * rms(inner(x[:-1] - x[1:]))
    assert rms(after[:-1]) < 0.2 * rms(inner(x[1:] - x[:-1]))


def test_a_frame_without_a_neighbour_stands_for_it():
    x = panned(4)
    moved = motion(x).moved
    assert torch.equal(moved[0, 0], x[0])
    assert torch.equal(moved[1, -1], x[-1])


def test_what_stands_still_is_left_as_it_is():
    x = panned(1).expand(4, 3, 96, 128)
    moved = motion(x).moved
    assert torch.allclose(moved, x.expand(SOURCES, *x.shape), atol=1e-6)


def test_the_mask_moves_with_the_picture():
    x = panned(3, dx=4, dy=0)
    mask = (torch.arange(128) < 64).float().expand(1, 1, 96, 128)
    known = motion(x, mask).known
    assert known.shape == (3, 2, 96, 128)
    # the scene moves 4 pixels to the left: the frame before shows the same thing 4 pixels further right
    edge = inner(known, 16).sum(-1).mean(-1) + 16  # [frames, before and after]
    assert edge[1].tolist() == pytest.approx([60, 68], abs=1)
    assert known[0, 0].eq(0).all() and known[2, 1].eq(0).all()


def test_without_a_mask_nothing_is_known():
    known = motion(panned(2)).known
    assert known.shape == (1, 2, 96, 128) and known.eq(0).all()


@pytest.mark.parametrize("height, width", [(16, 16), (64, 24), (72, 64), (64, 136)])
def test_every_size_that_the_model_takes_is_searched(height, width):
    x = from_pixels(procedural(4, height, width, random.Random(1)))
    found = motion(x, torch.ones(1, 1, height, width))
    moved, known = found.moved, found.known
    assert found.flows.shape == (SOURCES, 4, height // 4, width // 4, 2) and torch.isfinite(found.flows).all()
    assert moved.shape == (SOURCES, 4, 3, height, width) and torch.isfinite(moved).all()
    assert torch.isfinite(known).all()


def test_a_cut_makes_no_nonsense():
    """Whatever the search believes, what comes of it are pixels of the other picture."""
    a, b = panned(1, seed=1), panned(1, seed=2)
    moved = motion(torch.cat([a, b])).moved
    assert torch.isfinite(moved).all()
    assert moved.min() >= min(a.min(), b.min()) - 1e-4 and moved.max() <= max(a.max(), b.max()) + 1e-4


def test_a_flow_of_half_size_is_one_of_the_full_size():
    half = np.full((48, 64, 2), (1.5, -1.0), np.float32)
    full = np.full((96, 128, 2), (3.0, -2.0), np.float32)
    assert np.allclose(places_of(half, 96, 128), places_of(full, 96, 128), atol=1e-5)


def test_the_same_pictures_give_the_same_flow():
    greys = [grey(picture) for picture in interleaved(panned(2))]
    flows = [new_search().calc(*greys, None) for _ in range(2)]
    assert np.array_equal(*flows)


def test_the_frame_before_the_chunk_is_its_first_frames_neighbour():
    x = panned(5)
    whole, part = motion(x), motion(x[2:], None, x[1])
    assert torch.equal(part.moved[0], whole.moved[0, 2:])
    assert torch.equal(part.flows[0], whole.flows[0, 2:])
    assert part.linked[0].all() and not motion(x[2:]).linked[0, 0]


def test_a_flow_at_quarter_size_is_in_pixels_of_that_size():
    x = panned(2, dx=4, dy=-8)
    flow = motion(x).flows[0, 1, 8:-8, 8:-8]
    assert flow.flatten(0, 1).median(0).values.tolist() == pytest.approx([1.0, -2.0], abs=0.15)


def test_a_cut_is_no_link():
    a, b = (from_pixels(procedural(2, 96, 128, random.Random(seed))) for seed in (1, 7))
    a, b = a.clamp(-1, 0) - 0.0, b.clamp(0, 1)  # a dark scene and a light one
    linked = motion(torch.cat([a, b])).linked
    assert linked[0].tolist() == [False, True, False, True]
    assert linked[1].tolist() == [True, False, True, False]
