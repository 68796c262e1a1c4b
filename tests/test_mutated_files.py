"""Hundreds of damaged files through every command that reads files: a result or one sentence, never a traceback."""

import io
import random
from fractions import Fraction

import av
import pytest
import torch
from PIL import Image

from core.errors import UsageError
from core.evaluation.bench import moving_scene
from core.models.load import Model
from core.models.tiny.denoiser import TinyConfig
from core.models.tiny.load import build
from server import cli
from server.commands import options
from server.files.outputs import open_sink
from server.files.source import About, Picture
from server.loadtest.footage import Clip

SMALL = TinyConfig(quarter=16, eighth=16, width=16, heads=2, layers=1, window=2)
SEEDS = {"mp4": 70, "mkv": 60, "webm": 50, "ts": 60, "gif": 60, "avi": 60, "mov": 30}
"""mutations of each kind of video"""
PICTURES = {"png": 40, "jpg": 40, "webp": 40, "tiff": 30, "bmp": 20}
"""mutations of each kind of picture"""


@pytest.fixture(autouse=True)
def small_model(monkeypatch):
    built = build(SMALL)
    monkeypatch.setattr(options, "load", lambda *settings: Model("tiny", *built, torch.device("cpu"), 1))


def mutated(data, rng):
    """`data` with bytes changed, cut off, left out, repeated or put elsewhere."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 3, 20))):
        if not found:
            break
        at, length = rng.randrange(len(found)), rng.randrange(1, 40)
        kind = rng.randrange(5)
        if kind == 0:
            found[at] = rng.randrange(256)
        elif kind == 1:
            found[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x80\0\0\0"))
        elif kind == 2:
            del found[at : at + length]
        elif kind == 3:
            found[at:at] = found[at : at + length]
        elif rng.random() < 0.3 and at > 8:
            del found[at:]
    return bytes(found) or b"\0"


def video(path):
    """Three pictures with sound where the container is one of ours, else pictures alone."""
    if path.suffix in (".mp4", ".mkv", ".webm", ".mov"):
        with open_sink(path, About(32, 32, Fraction(16), Fraction(1, 16), None)) as sink:
            for i, pixels in enumerate(moving_scene(3, 32, 32)):
                sink.write(Picture(pixels, i))
        return path.read_bytes()
    codec, kind = {".ts": ("mpeg2video", "yuv420p"), ".gif": ("gif", "rgb8"), ".avi": ("mjpeg", "yuvj420p")}[
        path.suffix
    ]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, 25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, kind
        for pixels in moving_scene(3, 32, 32):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=kind)))
        container.mux(stream.encode(None))
    return path.read_bytes()


def picture(kind):
    exif = Image.Exif()
    exif[274] = 6
    file = io.BytesIO()
    Image.fromarray(moving_scene(1, 32, 32)[0]).save(file, kind.replace("jpg", "jpeg"), exif=exif)
    return file.getvalue()


def ends_well(capfd, *arguments):
    """Runs a command; its exit code, after a look at all that it said."""
    code = cli.main([str(argument) for argument in arguments])
    said = capfd.readouterr().err
    assert "Traceback" not in said and " failed\n" not in said, (arguments, said)
    assert code in (0, 1, 2), (arguments, code)
    if code == 2:
        sentence = [line for line in said.splitlines() if line.startswith("avis: ")]
        assert len(sentence) == 1, (arguments, said)
    return code


OPERATOR = ("--operator", "inpainting", "--operator.keep", "0.9")


@pytest.mark.parametrize("suffix", SEEDS)
def test_a_damaged_video_is_restored_or_refused(tmp_path, capfd, caplog, suffix):
    rng, path = random.Random(suffix), tmp_path / f"in.{suffix}"
    whole, codes = video(path), []
    for _ in range(SEEDS[suffix]):
        path.write_bytes(mutated(whole, rng))
        codes.append(
            ends_well(capfd, "restore", path, tmp_path / "out.mkv", "--overwrite", "--size", "32x32", *OPERATOR)
        )
    assert {0, 2} <= set(codes), "the mutations are too weak or too strong to prove anything"
    assert not [record for record in caplog.records if record.exc_info]
    assert {p.name for p in tmp_path.iterdir()} <= {path.name, "out.mkv"}


@pytest.mark.parametrize("suffix", PICTURES)
def test_a_damaged_picture_is_restored_or_refused_alone_in_a_folder_and_as_a_mask(tmp_path, capfd, caplog, suffix):
    rng, whole = random.Random(suffix), picture(suffix)
    good = tmp_path / "good.mkv"
    video(good)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "0.png").write_bytes(picture("png"))
    for i in range(PICTURES[suffix]):
        path = folder / f"1.{suffix}"
        path.write_bytes(mutated(whole, rng))
        target = (tmp_path / "out.mkv", "--overwrite", "--size", "32x32")
        if i % 3 == 0:
            ends_well(capfd, "restore", path, *target, *OPERATOR)
        elif i % 3 == 1:
            ends_well(capfd, "restore", folder, *target, *OPERATOR)
        else:
            ends_well(capfd, "restore", good, *target, "--operator", "mask", "--mask", path)
    assert not [record for record in caplog.records if record.exc_info]


def test_a_damaged_clip_is_measured_or_refused(tmp_path, capfd):
    rng, path = random.Random(1), tmp_path / "in.mp4"
    whole = video(path)
    arguments = ("--operators", "inpainting", "--variants", "degraded", "--size", "32x32", "--frames", "3")
    for _ in range(20):
        path.write_bytes(mutated(whole, rng))
        ends_well(capfd, "eval", path, *arguments)


def test_a_damaged_clip_is_sent_by_the_load_test_or_refused(tmp_path):
    rng, path = random.Random(2), tmp_path / "in.mp4"
    whole = video(path)
    for _ in range(30):
        path.write_bytes(mutated(whole, rng))
        try:
            Clip(path, 32, 32)
        except UsageError as error:
            assert "\n" not in str(error)


def test_a_damaged_configuration_is_refused(tmp_path, capfd):
    rng, path = random.Random(3), tmp_path / "avis.toml"
    whole = b'model = "nobody"\nport = 8080\nbind = ["127.0.0.1"]\n[model_settings]\nwidth = 3\n'
    for _ in range(60):
        # the last line names no setting, so that no mutation can start a server
        path.write_bytes(b"nothing_of_the_kind = 1\n" + mutated(whole, rng))
        assert ends_well(capfd, "serve", "--config", path) == 2


def test_a_batch_of_damaged_files_ends_with_a_summary(tmp_path, capfd):
    rng, whole = random.Random(4), video(tmp_path / "whole.mkv")
    (tmp_path / "in").mkdir()
    for i in range(20):
        (tmp_path / "in" / f"{i}.mkv").write_bytes(mutated(whole, rng))
    assert cli.main(["restore", str(tmp_path / "in"), "--out-dir", str(tmp_path / "out"), *OPERATOR]) in (0, 1)
    said = capfd.readouterr()
    assert "Traceback" not in said.err and "of 20" in said.out
