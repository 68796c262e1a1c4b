"""Deinterlacing: which lines a frame holds, from chunk to chunk, and how lost ones are found."""

import random

import pytest
import torch

from core.chunks import ChunkSpec, opens_stream
from core.evaluation.metrics import psnr
from core.operators.deinterlace import Deinterlace, between_lines, line_mask
from core.operators.lost import mask_lost_frames
from core.operators.prox import least_squares
from core.training.data import procedural
from core.video import from_pixels

H, W = 48, 64


@pytest.fixture(scope="module")
def scene():
    return from_pixels(procedural(21, H, W, random.Random(0)))


def test_the_first_chunk_alone_opens_a_stream():
    assert [opens_stream(ChunkSpec().frames(index)) for index in range(4)] == [True, False, False, False]


@pytest.mark.parametrize("first", ["top", "bottom"])
def test_fields_alternate_over_the_edge_of_chunks(first):
    op = Deinterlace(field=first)
    y = torch.cat([op.A(torch.ones(frames, 3, H, W)) for frames in (9, 12, 12)])
    lines = y[:, 0, :2, 0].argmax(-1)  # the first line that is held
    assert lines.tolist() == [(frame + (first == "bottom")) % 2 for frame in range(33)]


def test_one_field_alone_is_the_same_in_every_frame():
    y = Deinterlace(field="bottom", alternate=False).A(torch.ones(12, 3, H, W))
    assert y[:, :, ::2].eq(0).all() and y[:, :, 1::2].eq(1).all()


def test_a_standing_picture_comes_back_whole():
    """Its lost lines are in the frames beside."""
    x = torch.rand(9, 3, H, W, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x = x[:1].expand_as(x)
    op = Deinterlace(noise=0.001)
    assert torch.allclose(least_squares(op, op.A(x), None, 5), x, atol=1e-6)


def test_a_moving_picture_is_not_combed():
    """Lines of a frame beside, in the place of lost ones, would be off by the motion."""
    wave = torch.sin(torch.arange(W) / 3)
    x = torch.stack([wave.roll(6 * frame) for frame in range(9)])[:, None, None].expand(9, 3, H, W)
    op = Deinterlace(noise=0.001)
    assert torch.allclose(least_squares(op, op.A(x), None, 5), x, atol=1e-3)


def test_the_frames_of_the_chunk_before_tell_what_stands_still(scene):
    op = Deinterlace()
    still = scene[:1].expand_as(scene)
    y = op.measure(still[:9], None, torch.Generator().manual_seed(0))
    later = op.measure(still[9:], None, torch.Generator().manual_seed(1))
    assert psnr(op.least_squares(later, y[-2:])[:1], still[:1]) > psnr(op.hint(later)[:1], still[:1]) + 1


def test_a_start_beats_the_lines_between_on_their_own(scene):
    op = Deinterlace()
    y = op.measure(scene[:9], None, torch.Generator().manual_seed(0))
    mask = line_mask(9, H, True, True)
    assert torch.equal(between_lines(y, mask) * mask, y)
    assert psnr(least_squares(op, y, None, 5), scene[:9]) >= psnr(op.hint(y), scene[:9]) > psnr(y, scene[:9]) + 5


def test_a_lost_frame_leaves_the_others_their_fields(scene):
    """Its chunk was cut down to the frames that came, and every second one had the wrong lines."""
    op = Deinterlace()
    masked = mask_lost_frames(op, (3,))
    y = op.measure(scene[:9], None, torch.Generator().manual_seed(0))
    x = masked.prox(torch.zeros_like(scene[:9]), y, None, 1.0)
    kept = [frame for frame in range(9) if frame != 3]
    assert torch.allclose(x[kept], y[kept] / 2)
    assert x[3].eq(0).all()
    assert masked.residual(scene[:9], y, None) == pytest.approx(
        float((y - op.A(scene[:9]))[kept].norm() / y[kept].norm()), rel=1e-5
    )
    assert masked.task == op.task == "inpainting"
