"""Paths as people give them: pipes, colons, long and odd names, folders with rubbish in them."""

import io
import os
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from core.errors import UsageError
from server.files.inputs import open_source, read_picture
from server.files.outputs import check_output, open_sink, part_of, write_png
from server.files.paths import named
from server.files.source import About, Picture, leave_out

ABOUT = About(32, 32, Fraction(16), Fraction(1, 16), None)


def video(path):
    with open_sink(path, ABOUT) as sink:
        for i in range(3):
            sink.write(Picture(np.full((32, 32, 3), 60 * i, np.uint8), i))
    return path


def shown(path):
    source = open_source(path)
    try:
        return [int(picture.pixels.mean()) for picture in source.pictures((32, 32), leave_out)]
    finally:
        source.close()


@pytest.mark.parametrize(
    "name", ["S01:E02.mp4", "n" * 251 + ".mp4", "100%03d.mp4", "new\nline.mkv", "b\udcff.mkv", " -x.mp4", "é.webm"]
)
def test_any_name_that_the_system_takes_can_be_written_and_read(tmp_path, name):
    """Colons and 245 bytes ended in a traceback."""
    assert len(shown(video(tmp_path / name))) == 3
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["n" * 300 + ".mp4", "a\0b.mp4", "x/" * 3000 + "y.mp4"])
def test_a_name_that_the_system_does_not_take_is_refused_in_a_short_sentence(tmp_path, name):
    for refused in (lambda: check_output(Path("in.mp4"), tmp_path / name), lambda: open_source(tmp_path / name)):
        with pytest.raises(UsageError) as caught:
            refused()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_numbered_name_of_one_picture_is_one_picture(tmp_path):
    """FFmpeg takes it for the pattern of a sequence."""
    write_png(tmp_path / "img%03d.png", np.full((16, 16, 3), 7, np.uint8))
    assert (read_picture(tmp_path / "img%03d.png") == 7).all()


def test_a_fifo_is_read_once_from_start_to_end(tmp_path):
    """The file was opened twice, and the second time waited for ever."""
    data = video(tmp_path / "in.mkv").read_bytes()
    os.mkfifo(tmp_path / "fifo")
    writer = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=(data,))
    writer.start()
    assert len(shown(tmp_path / "fifo")) == 3
    writer.join()


def test_a_pipe_that_cannot_be_rewound_says_so(tmp_path):
    data = bytes(range(256)) * 40
    os.mkfifo(tmp_path / "fifo")
    writer = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=(data,))
    writer.start()
    with pytest.raises(UsageError, match="cannot be rewound"):
        open_source(tmp_path / "fifo")
    writer.join()


def test_an_existing_output_is_kept_unless_it_may_be_replaced(tmp_path):
    video(tmp_path / "out.mp4")
    with pytest.raises(UsageError, match="--overwrite replaces it"):
        check_output(tmp_path / "in.mp4", tmp_path / "out.mp4")
    check_output(tmp_path / "in.mp4", tmp_path / "out.mp4", overwrite=True)


def test_the_growing_file_has_a_short_hidden_name_beside_the_target():
    part = part_of(Path("/tmp") / ("n" * 255))
    assert part.parent == Path("/tmp") and part.name.startswith(".avis-") and len(part.name) < 40


def test_what_cannot_be_printed_is_escaped():
    assert named("a\nb\udcff\x1b[31m") == "a\\nb\\udcff\\x1b[31m"


def test_a_folder_is_read_upright_without_its_hidden_and_damaged_files(tmp_path):
    """A "._" file or a broken PNG lost the whole work, and pictures on their side were stretched."""
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:, 24:] = 200  # the right half is bright: turned clockwise, the lower one
    turned = Image.Exif()
    turned[274] = 6
    for name in ("shot1.jpg", "shot2.jpg", "shot10.jpg"):
        Image.fromarray(pixels).save(tmp_path / name, exif=turned, quality=95)
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 32, 3), np.uint8)).save(whole, "PNG")
    (tmp_path / "shot3.png").write_bytes(whole.getvalue()[:400])
    (tmp_path / "shot4.png").write_bytes(b"nothing")
    (tmp_path / "._shot1.jpg").write_bytes(b"Mac OS X")
    source = open_source(tmp_path, Fraction(30000, 1001))
    assert (source.about.height, source.about.width) == (48, 32) and source.about.rate == Fraction(30000, 1001)
    pictures = list(source.pictures((48, 32), leave_out))
    assert [picture.pts for picture in pictures] == [0, 1, 4]
    assert source.damaged == 2 and source.notes == ["1 hidden files were left out"]
    assert all(p.pixels[:20].max() < 60 and p.pixels[28:].min() > 140 for p in pictures)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_a_single_picture_is_upright_in_every_format(tmp_path, suffix):
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16] = 200
    for code in range(1, 9):
        exif = Image.Exif()
        exif[274] = code
        Image.fromarray(pixels).save(tmp_path / f"in.{suffix}", exif=exif)
        found = read_picture(tmp_path / f"in.{suffix}")
        bright = {1: found[:12], 2: found[:12], 3: found[-12:], 4: found[-12:]}.get(code)
        bright = (found[:, :12] if code in (5, 8) else found[:, -12:]) if bright is None else bright
        assert found.shape[0] == (32 if code < 5 else 48) and bright.min() > 150, code


def test_an_animated_webp_keeps_its_durations(tmp_path):
    frames = [Image.fromarray(np.full((32, 32, 3), 70 * i, np.uint8)) for i in range(3)]
    frames[0].save(
        tmp_path / "in.webp", save_all=True, append_images=frames[1:], duration=[100, 300, 2000], lossless=True
    )
    source = open_source(tmp_path / "in.webp")
    times = [(p.pts, p.duration) for p in source.pictures((32, 32), leave_out)]
    assert times == [(0, 100), (100, 300), (400, 2000)]
    with open_sink(tmp_path / "out.mp4", source.about) as sink:
        for picture in source.pictures((32, 32), leave_out):
            sink.write(picture)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.duration == pytest.approx(2_400_000, abs=20_000)


def test_standard_output_gets_matroska(tmp_path, capfd):
    with open_sink(Path("-"), ABOUT) as sink:
        for i in range(3):
            sink.write(Picture(np.full((32, 32, 3), 60 * i, np.uint8), i))
    assert not list(tmp_path.iterdir())
