import random

import pytest
import torch

from core.coding import Coder, Jpeg, new_coder, parse_coding
from core.evaluation.metrics import psnr
from core.training.data import procedural
from core.video import from_pixels


@pytest.fixture(scope="module")
def clip():
    return from_pixels(procedural(13, 60, 104, random.Random(0)))


@pytest.mark.parametrize("codec, fine, coarse", [("vp8", 8, 50), ("h264", 16, 40)])
def test_a_coarser_quantiser_gives_a_worse_picture(clip, codec, fine, coarse):
    scores = [psnr(Coder(codec, 60, 104, quantiser=q)(clip), clip) for q in (fine, coarse)]
    assert scores[0] > scores[1] + 3
    assert scores[1] > 15  # frames in their order, and upright


def test_a_bit_rate_is_kept_to(clip):
    scores = [psnr(Coder("vp8", 60, 104, bitrate=rate)(clip), clip) for rate in (2_000_000, 30_000)]
    assert scores[0] > scores[1] + 2


def test_coding_goes_on_from_call_to_call(clip):
    """A stream is coded in chunks as it is coded whole: the decoder's last frame is the next one's reference."""
    whole = Coder("h264", 60, 104, quantiser=30)(clip)
    coder = Coder("h264", 60, 104, quantiser=30)
    assert torch.equal(torch.cat([coder(part) for part in clip.split([4, 4, 5])]), whole)


def test_odd_sizes_come_back_as_they_went():
    clip = from_pixels(procedural(3, 61, 103, random.Random(0)))
    assert Coder("vp8", 61, 103, quantiser=20)(clip).shape == clip.shape


@pytest.mark.parametrize(
    "text, expected",
    [
        ("vp8:400k", ("vp8", None, 400_000)),
        ("vp8:q30", ("vp8", 30, None)),
        ("h264:23", ("h264", 23, None)),
        ("jpeg:40", ("jpeg", 40, None)),
    ],
)
def test_a_coding_is_read(text, expected):
    assert parse_coding(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "vp8",
        "vp8:",
        "vp8:q64",
        "vp8:400",
        "vp8:k",
        "h264:52",
        "h264:-1",
        "av1:30",
        "h264:23:1",
        "jpeg:0",
        "jpeg:101",
    ],
)
def test_what_is_not_a_coding_is_refused(text):
    with pytest.raises(ValueError, match="expected a coding"):
        parse_coding(text)


def test_a_coder_needs_one_rate():
    with pytest.raises(ValueError, match="either"):
        Coder("vp8", 60, 104)
    with pytest.raises(ValueError, match=r"H\.264"):
        Coder("h264", 60, 104, bitrate=400_000)


def test_a_jpeg_of_lower_quality_is_a_worse_picture_and_knows_no_other_frame(clip):
    scores = [psnr(Jpeg(quality)(clip), clip) for quality in (95, 50, 10)]
    assert scores == sorted(scores, reverse=True) and scores[2] > 15
    assert torch.equal(Jpeg(50)(clip)[7:8], Jpeg(50)(clip[7:8]))


@pytest.mark.parametrize("coding", ["vp8:q30", "h264:23", "jpeg:40"])
def test_a_coding_makes_its_coder(coding, clip):
    assert new_coder(coding, 60, 104)(clip[:2]).shape == clip[:2].shape
