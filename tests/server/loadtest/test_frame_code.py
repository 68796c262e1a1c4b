"""A frame number in the pixels outlives the codec and the restoration."""

import random
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from aiortc.codecs.vpx import Vp8Encoder, VpxPayloadDescriptor

from core.operators.averages import SpatioTemporalAverage, TemporalAverage
from core.operators.blur import GaussianBlur
from core.operators.masks import Inpainting
from core.operators.prox import least_squares
from core.operators.super_resolution import SuperResolution
from core.video import from_pixels, to_pixels
from server.loadtest.footage import SyntheticScene
from server.loadtest.frame_code import BLOCK, Code, check_size, code_height, draw_code, read_code, unwrap

SIZES = [(64, 208), (192, 64), (256, 144), (416, 240), (832, 480)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_number_and_tag_is_read_back_as_it_was_drawn(width, height):
    rng = random.Random(width)
    for _ in range(200):
        luma = np.full((height, width), rng.randrange(256), np.uint8)
        number, tag = rng.randrange(65536), rng.randrange(256)
        draw_code(luma, number, tag)
        assert read_code(luma) == Code(number, tag)


def test_neighbouring_numbers_differ_in_one_block_only():
    for number in range(0, 70_000, 7):
        a, b = np.zeros((2, 144, 256), np.uint8)
        draw_code(a, number, 5)
        draw_code(b, number + 1, 5)
        assert (a != b).sum() == BLOCK * BLOCK


def test_a_picture_without_a_code_is_not_taken_for_one():
    assert read_code(np.full((144, 256), 128, np.uint8)) is None
    misread = sum(
        read_code(np.random.default_rng(i).integers(0, 256, (144, 256), np.uint8)) is not None for i in range(50)
    )
    assert misread == 0


def test_half_of_two_codes_is_doubted():
    codes = np.zeros((2, 144, 256), np.uint8)
    for luma, number in zip(codes, (100, 155), strict=True):
        draw_code(luma, number, 1)
    assert read_code(codes.mean(axis=0).astype(np.uint8)) is None


@pytest.mark.parametrize(("width", "height"), [(16, 400), (64, 96), (192, 48)])
def test_a_picture_that_the_code_would_fill_is_refused(width, height):
    with pytest.raises(ValueError, match=f"not {width}x{height}"):
        check_size(width, height)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_picture_that_has_room_for_the_code_is_not_refused(width, height):
    check_size(width, height)
    assert code_height(width) <= height / 2


def test_numbers_that_wrapped_are_told_by_the_newest_that_was_sent():
    assert unwrap(5, 10) == 5
    assert unwrap(65_530, 65_540) == 65_530
    assert unwrap(3, 65_540) == 65_539
    assert unwrap(11, 10) < 0, "a frame that was not sent yet"


@pytest.mark.parametrize("bitrate", [60_000, 500_000])
def test_the_code_outlives_vp8_at_a_starved_bitrate(bitrate):
    scene, encoder = SyntheticScene(256, 144), Vp8Encoder()
    encoder.target_bitrate = bitrate
    decoder = av.CodecContext.create("vp8", "r")
    for number in range(4000, 4030):
        picture = scene(number)
        draw_code(picture[:144], number, 77)
        frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
        frame.pts, frame.time_base = number * 5625, Fraction(1, 90_000)
        payloads, _ = encoder.encode(frame)
        for decoded in decoder.decode(av.Packet(depayloaded(payloads))):
            assert read_code(decoded.to_ndarray()[:144]) == Code(number, 77)


def depayloaded(payloads):
    """The VP8 frame in a list of RTP payloads."""
    return b"".join(VpxPayloadDescriptor.parse(payload)[1] for payload in payloads)


@pytest.mark.parametrize(
    "operator",
    [SuperResolution(), Inpainting(), GaussianBlur(), TemporalAverage(), SpatioTemporalAverage()],
    ids=lambda operator: operator.kind,
)
def test_the_code_outlives_measurement_and_restoration(operator):
    """Under an average over time a number may be off by one, or be doubted; it is never another."""
    scene, numbers = SyntheticScene(256, 144), range(500, 521)
    pixels = np.stack([rgb(scene, number) for number in numbers])
    operator.prepare(144, 256)
    x = from_pixels(pixels)
    y = operator.measure(x, None, torch.Generator().manual_seed(0))
    restored = to_pixels(least_squares(operator, y, None, 5))
    codes = [read_code(luma(frame)) for frame in restored]
    temporal = "temporal" in operator.kind
    read = [(code, number) for code, number in zip(codes, numbers, strict=True) if code is not None]
    assert len(read) >= len(numbers) * (0.5 if temporal else 1)
    assert all(code.tag == 9 and abs(code.number - number) <= temporal for code, number in read)


def rgb(scene, number):
    picture = scene(number)
    draw_code(picture[:144], number, 9)
    return av.VideoFrame.from_ndarray(picture, format="yuv420p").to_ndarray(format="rgb24")


def luma(pixels):
    return av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p").to_ndarray()[:144]
