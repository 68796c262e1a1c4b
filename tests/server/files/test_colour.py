"""Colours: what a file does not say is completed, what cannot be converted is refused, HDR becomes a good picture."""

import av
import numpy as np
import pytest

from server.files.colour import Colour, Unconvertible, coding, completed, to_frame, to_pixels
from server.files.tone import to_sdr


def frame(pixel, width=64, height=48, matrix=None, kind="yuv444p"):
    rgb = av.VideoFrame.from_ndarray(np.full((height, width, 3), pixel, np.uint8), format="rgb24")
    found = rgb.reformat(format=kind, dst_colorspace=matrix or 5)
    found.colorspace = 2  # untagged
    return found


@pytest.mark.parametrize(("width", "height", "matrix"), [(720, 480, 6), (720, 576, 5), (1280, 720, 1), (160, 120, 6)])
def test_an_untagged_source_is_completed_by_its_size(width, height, matrix):
    found = completed(Colour(), height, width)
    assert found.matrix == matrix and 2 not in (found.primaries, found.transfer)


def test_what_a_source_says_is_kept():
    assert completed(Colour(9, 9, 14), 480, 720) == Colour(9, 9, 14)
    assert completed(Colour(1, 2, 2), 48, 64) == Colour(1, 1, 1)


@pytest.mark.parametrize("matrix", [8, 10, 14])
def test_a_matrix_that_cannot_be_converted_is_refused_by_name(matrix):
    with pytest.raises(Unconvertible, match=r"YCgCo|BT\.2020|ICtCp"):
        completed(Colour(matrix), 48, 64)


@pytest.mark.parametrize(("width", "matrix"), [(64, 5), (1280, 1)])
def test_an_untagged_picture_has_the_colour_that_players_show(width, matrix):
    source = frame((200, 30, 90), width, 48, matrix)
    assert to_pixels(source, coding(source), 48, width)[20, 20].tolist() == pytest.approx([200, 30, 90], abs=3)


@pytest.mark.parametrize("matrix", [1, 4, 5, 6, 7, 9])
def test_what_is_written_means_the_same_colour(matrix):
    pixels = np.full((48, 64, 3), (200, 30, 90), np.uint8)
    written = to_frame(pixels, Colour(matrix, 1, 1))
    written.colorspace = matrix
    assert to_pixels(written, coding(written), 48, 64)[20, 20].tolist() == pytest.approx([200, 30, 90], abs=4)


def test_high_bit_depths_and_alpha_are_seen():
    assert coding(frame((1, 2, 3), kind="yuv420p10le")).bits == 10
    assert coding(frame((1, 2, 3), kind="yuva420p")).alpha


def pq(nits):
    """The 16-bit code of a luminance in PQ (SMPTE ST 2084)."""
    power = (nits / 10000) ** (2610 / 16384)
    return round(65535 * ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32))


def grey(code):
    return np.full((2, 2, 3), code, np.uint16)


def test_tone_mapping_keeps_black_reaches_white_and_never_reverses():
    levels = [int(to_sdr(grey(pq(nits)), False, 1000)[0, 0, 1]) for nits in (0, 0.1, 1, 10, 50, 100, 203, 500, 1000)]
    assert levels[0] == 0 and levels[-1] == 255
    assert levels == sorted(set(levels))


def test_tone_mapping_leaves_dark_parts_as_bright_as_they_were():
    """Ten nits of a white of 203 are 0.28 of the signal of a BT.1886 display."""
    assert to_sdr(grey(pq(10)), False, 1000)[0, 0, 0] == pytest.approx(255 * (10 / 203) ** (1 / 2.4), abs=3)


def test_grey_stays_grey_in_hlg_too():
    for code in (0, 8000, 30000, 50000, 65535):
        pixel = to_sdr(grey(code), True, 1000)[0, 0]
        assert pixel.max() - pixel.min() <= 1
    assert to_sdr(grey(65535), True, 1000).min() == 255
