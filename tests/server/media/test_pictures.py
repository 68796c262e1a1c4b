import os
import resource

import numpy as np
import pytest
from av import VideoFrame

from server.media.pictures import PictureReader, PictureWriter


def gradient(height, width):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 255 // height, columns * 255 // width, np.full_like(rows, 90)], -1).astype(np.uint8)


def decoded(pixels):
    return VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")


def test_a_picture_of_the_right_size_is_read_as_it_is():
    pixels = gradient(96, 128)
    read = PictureReader()(decoded(pixels), 96, 128)
    assert np.abs(read.astype(int) - pixels).mean() < 3


@pytest.mark.parametrize("size", [(96, 128), (60, 100), (480, 640), (33, 17), (720, 1280)])
def test_a_picture_of_any_size_is_read_at_the_wanted_one(size):
    read = PictureReader()(decoded(gradient(*size)), 64, 112)
    assert (read.shape, read.dtype) == ((64, 112, 3), np.uint8)


def test_another_shape_is_cut_at_the_centre_and_not_stretched():
    picture = np.zeros((100, 200, 3), np.uint8)
    picture[:, 50:150] = 255
    read = PictureReader()(decoded(picture), 50, 50)
    assert read.min() > 240


@pytest.mark.parametrize("size", [(2, 5000), (5000, 2), (8, 16383), (3, 2048), (100, 1000)])
def test_a_strip_is_cut_before_it_is_scaled(size):
    """A frame of 5000x2 was scaled to 600000x240 first: 430 MB, and 1.5 s of everybody's executor."""
    strip = np.zeros((*size, 3), np.uint8)
    middle = [slice(n // 2 - max(1, n // 50), n // 2 + max(1, n // 50)) for n in size]
    strip[middle[0], middle[1]] = 200
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read = PictureReader()(VideoFrame.from_ndarray(strip, format="rgb24"), 240, 416)
    assert read.shape == (240, 416, 3) and read[120, 208].min() > 150
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_what_is_written_reads_back():
    pixels = np.stack([gradient(64, 96)] * 3)
    back = [frame.to_ndarray(format="rgb24") for frame in PictureWriter().write(pixels)]
    assert np.abs(np.stack(back).astype(int) - pixels).mean() < 3


def test_small_frames_pass_at_the_restored_size_once_for_each_panel():
    frame, other = PictureWriter().pass_through([gradient(16, 24)] * 2, 64, 96, 3)
    assert (frame.width, frame.height, frame.format.name) == (288, 64, "yuv420p")
    pixels = frame.to_ndarray(format="rgb24").astype(int)
    assert np.abs(pixels[:, :96] - pixels[:, 96:192]).mean() < 2
    assert frame is not other


def test_converting_pictures_leaves_no_threads_behind():
    """Each session kept four, until the garbage collector came by: sixty after two dozen sessions."""
    before = len(os.listdir("/proc/self/task"))
    kept = []
    for _ in range(5):
        reader, writer = PictureReader(), PictureWriter()
        picture = writer.write([np.zeros((96, 128, 3), np.uint8)])[0]
        writer.pass_through([np.zeros((48, 64, 3), np.uint8)], 96, 128, 1)
        reader(picture, 48, 64)
        kept.append((reader, writer))
    assert len(os.listdir("/proc/self/task")) == before
