"""Where pixels belong: every display matrix, every EXIF orientation, every shape."""

import struct
from fractions import Fraction

import numpy as np
import pytest

from server.files.geometry import EXIF, Orientation, from_display_matrix, place, scaled_size

CORNERS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def matrix(a, b, c, d, scale=65536):
    return struct.pack("=9i", *(round(v * scale) for v in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((1, 0, 0, 1), CORNERS),
        ((-1, 0, 0, 1), CORNERS[:, ::-1]),
        ((1, 0, 0, -1), CORNERS[::-1]),
        ((-1, 0, 0, -1), CORNERS[::-1, ::-1]),
        ((0, 1, -1, 0), np.rot90(CORNERS, -1)),
        ((0, -1, 1, 0), np.rot90(CORNERS, 1)),
        ((0, 1, 1, 0), CORNERS.transpose(1, 0, 2)),
        ((0, -1, -1, 0), np.rot90(CORNERS, 2).transpose(1, 0, 2)),
    ],
)
def test_all_eight_right_angled_matrices(parts, expected):
    """Mirrored matrices were turned by 180 degrees, and others ignored."""
    for scale in (65536, 32768):
        found = from_display_matrix(matrix(*parts, scale))
        assert np.array_equal(found.upright(CORNERS), expected)
        assert found.size(2, 3) == expected.shape[:2]


@pytest.mark.parametrize("degrees", [45, 30, -10, 137])
def test_a_free_angle_turns_the_picture_about_its_centre(degrees):
    """45 degrees ended in a traceback."""
    angle = np.radians(degrees)
    found = from_display_matrix(matrix(np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)))
    picture = np.zeros((41, 41, 3), np.uint8)
    picture[18:23, 28:33] = 255  # to the right of the centre
    y, x = np.argwhere(found.upright(picture)[..., 0] > 128).mean(axis=0) - 20
    assert (x, y) == pytest.approx((10 * np.cos(angle), 10 * np.sin(angle)), abs=0.5)


@pytest.mark.parametrize("broken", [(0, 0, 0, 0), (0.7, 0.7, 0.7, 0.7)])
def test_a_matrix_that_shows_nothing_is_ignored(broken):
    assert from_display_matrix(matrix(*broken)) == Orientation()


def test_each_exif_orientation_undoes_itself_or_its_partner():
    partner = {6: 8, 8: 6}
    for code, orientation in EXIF.items():
        back = EXIF[partner.get(code, code)]
        assert np.array_equal(back.upright(orientation.upright(CORNERS)), CORNERS)


@pytest.mark.parametrize("shape", [Fraction(16, 9), Fraction(9, 16), Fraction(1), Fraction(5, 2)])
def test_a_scaled_picture_covers_or_fits_and_keeps_its_shape(shape):
    size = (240, 416)
    height, width = scaled_size(shape, size, "crop")
    assert height >= size[0] and width >= size[1] and (height == size[0] or width == size[1])
    height, width = scaled_size(shape, size, "pad")
    assert height <= size[0] and width <= size[1] and (height == size[0] or width == size[1])
    assert width / height == pytest.approx(float(shape), rel=0.01)


def test_what_sticks_out_is_cut_and_what_is_missing_is_black():
    picture = np.full((4, 8, 3), 9, np.uint8)
    placed = place(picture, (8, 4))
    assert placed.shape == (8, 4, 3)
    assert (placed[2:6] == 9).all() and not placed[:2].any() and not placed[6:].any()
