import os

import numpy as np
import pytest

from server.device.frame_memory import FrameMemory


def frames(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 6, 8, 3), np.uint8)


def test_what_one_side_writes_the_other_reads():
    server = FrameMemory.create(12 * 144, 12 * 288)
    device = FrameMemory(os.dup(server.fd), 12 * 144, 12 * 288)
    sent, back = frames(9, 0), frames(18, 1)
    server.write_input(list(sent))
    assert (device.read_input(sent.shape) == sent).all()
    device.write_output(back)
    assert (server.read_output(back.shape) == back).all()
    assert (device.read_input(sent.shape) == sent).all(), "output lies behind input"
    server.close()
    device.close()


def test_more_than_fits_is_refused_and_nothing_is_written():
    memory = FrameMemory.create(2 * 144, 144)
    memory.write_output(frames(1, 0))
    with pytest.raises(ValueError, match="do not fit"):
        memory.write_input(list(frames(3, 1)))
    with pytest.raises(ValueError, match="more than"):
        memory.read_output((2, 6, 8, 3))
    assert (memory.read_output((1, 6, 8, 3)) == frames(1, 0)).all()
    memory.close()


def test_it_has_no_name_and_leaves_no_descriptor():
    before = len(os.listdir("/proc/self/fd")), set(os.listdir("/dev/shm"))
    memory = FrameMemory.create(1000, 1000)
    memory.close()
    assert (len(os.listdir("/proc/self/fd")), set(os.listdir("/dev/shm"))) == before
