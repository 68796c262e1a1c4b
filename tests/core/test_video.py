"""Pixels and frames: nothing lost, nothing outside its range."""

import numpy as np
import torch

from core.video import from_pixels, to_pixels


def test_every_byte_survives_the_way_to_frames_and_back():
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert np.array_equal(to_pixels(from_pixels(pixels)), pixels)


def test_frames_are_channels_first_and_run_from_minus_one_to_one():
    pixels = np.zeros((2, 4, 6, 3), np.uint8)
    pixels[1, :, :, 2] = 255
    x = from_pixels(pixels)
    assert x.shape == (2, 3, 4, 6) and x.dtype == torch.float32
    assert (x[0] == -1).all() and (x[1, 2] == 1).all() and (x[1, :2] == -1).all()


def test_values_outside_the_range_are_clipped_and_not_wrapped():
    x = torch.tensor([-3.0, 3.0]).view(2, 1, 1, 1).expand(2, 3, 2, 2)
    pixels = to_pixels(x)
    assert (pixels[0] == 0).all() and (pixels[1] == 255).all()


def test_a_read_only_or_mirrored_picture_is_taken_and_left_alone():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 5, 7, 3), np.uint8)
    before = pixels.copy()
    pixels.flags.writeable = False
    mirrored = pixels[:, :, ::-1]
    assert np.array_equal(to_pixels(from_pixels(pixels)), before)
    assert np.array_equal(to_pixels(from_pixels(mirrored)), before[:, :, ::-1])


def test_the_frames_own_their_memory():
    pixels = np.full((1, 2, 2, 3), 9, np.uint8)
    x = from_pixels(pixels)
    pixels[:] = 200
    assert (to_pixels(x) == 9).all()
