"""Depth comes from arrays and 16-bit pictures, and bad files are refused in one sentence."""

import cv2
import numpy as np
import pytest

from core.errors import UsageError
from server.files.depth import FARTHEST, distances, read_depth

SIZE = (24, 32)


def ramp(frames=3):
    return np.linspace(1, 4, frames * 12 * 16, dtype=np.float32).reshape(frames, 12, 16)


def test_arrays_are_read_scaled_and_brought_to_size(tmp_path):
    np.save(tmp_path / "d.npy", ramp())
    np.savez(tmp_path / "d.npz", depth=ramp())
    for name in ("d.npy", "d.npz"):
        depth = read_depth(tmp_path / name, "depth", 2.0, 2, SIZE)
        assert depth.shape == (2, *SIZE) and depth[0, 0, 0] == pytest.approx(2.0)


def test_one_16_bit_picture_serves_every_frame_and_a_folder_one_each(tmp_path):
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((12, 16), 1000 * (index + 1), np.uint16))
    single = read_depth(tmp_path / "1.png", "depth", 1e-3, 5, SIZE)
    assert single.shape == (5, *SIZE) and np.allclose(single, 2.0)
    assert np.allclose(read_depth(tmp_path, "depth", 1e-3, 3, SIZE)[:, 0, 0], [1, 2, 3])


def test_disparity_is_scaled_once_for_the_whole_clip():
    found = distances(np.array([[[0.0, 10.0]], [[5.0, 10.0]]], np.float32))
    assert found[0, 0].tolist() == pytest.approx([FARTHEST, 1.0])
    assert found[1, 0, 1] == pytest.approx(1.0) and 1 < found[1, 0, 0] < FARTHEST


def written(path, name):
    if name == "text.npy":
        path.write_text("no array")
    elif name == "objects.npy":
        np.save(path, np.array([{}], dtype=object))
    elif name == "nan.npy":
        np.save(path, np.full((2, 4, 4), np.nan))
    elif name == "short.npy":
        np.save(path, ramp(2))
    elif name == "zero.npy":
        np.save(path, np.zeros((3, 4, 4)))
    elif name == "colour.png":
        cv2.imwrite(str(path), np.zeros((4, 4, 3), np.uint8))
    elif name == "empty":
        path.mkdir()


@pytest.mark.parametrize(
    "name", ["text.npy", "objects.npy", "nan.npy", "short.npy", "zero.npy", "colour.png", "empty", "gone.npz", "d.exr"]
)
def test_what_holds_no_depth_is_refused_in_one_sentence(tmp_path, name):
    written(tmp_path / name, name)
    with pytest.raises(UsageError, match=r"^expected .*found "):
        read_depth(tmp_path / name, "depth", 1.0, 3, SIZE)
