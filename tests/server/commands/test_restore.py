"""`avis restore` end to end on small files, with a small configuration of the real model."""

import json
from fractions import Fraction

import av
import numpy as np
import pytest

from core.engine import Engine
from core.evaluation.bench import moving_scene
from core.operators.averages import SpatioTemporalAverage
from core.operators.super_resolution import SuperResolution
from server import cli
from server.commands import restore_file
from server.files.inputs import open_source, read_clip, read_picture
from server.files.outputs import write_png
from server.files.source import About, Picture

pytestmark = pytest.mark.usefixtures("loads")


def write_video(path, frames=14, height=48, width=64, rotation=0, audio=False):
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", 16, {"crf": "4"})
        video.height, video.width, video.pix_fmt = height, width, "yuv420p"
        if rotation:
            video.set_display_rotation(rotation)
        sound = container.add_stream("aac", 16000, layout="mono") if audio else None
        for i, pixels in enumerate(moving_scene(frames, height, width)):
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            if sound:
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 16000, 1000 * i
                container.mux(sound.encode(frame))
        container.mux(video.encode(None))
        if sound:
            container.mux(sound.encode(None))


def about(path):
    source = open_source(path)
    source.close()
    return source.about


def run(*arguments):
    return cli.main(["restore", *map(str, arguments)])


def test_a_simulated_run_reports_frames_chunks_and_quality(tmp_path, capsys):
    write_video(tmp_path / "in.mp4", audio=True)
    args = ("--operator", "super_resolution", "--simulate", "--json", "-")
    assert run(tmp_path / "in.mp4", tmp_path / "out.mp4", *args) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["frames"], report["chunks"], report["guided_chunks"]) == (14, 2, 1)
    assert report["psnr"]["x_init"] > 20 and report["psnr"]["restored"] > 20
    assert 0 < report["ssim"]["restored"] <= 1 and 0 < report["residual"] < 0.1
    assert len(read_clip(tmp_path / "out.mp4", (48, 64), None)) == 14
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert len(container.streams.audio) == 1


def test_an_operator_may_be_named_by_its_json_and_what_it_measures_be_coded(tmp_path, capsys):
    write_video(tmp_path / "in.mp4")
    composed = '{"kind": "compose", "operators": [{"kind": "gaussian_blur"}, {"kind": "super_resolution", "scale": 2}]}'
    found = {}
    for coding in ("jpeg:90", "jpeg:5"):
        args = ("--operator", composed, "--simulate", "--coded", coding, "--overwrite", "--json", "-")
        assert run(tmp_path / "in.mp4", tmp_path / "out.mp4", *args) == 0
        found[coding] = json.loads(capsys.readouterr().out)["psnr"]["x_init"]
    assert found["jpeg:90"] > found["jpeg:5"] + 1


def test_a_kernel_comes_as_a_picture(tmp_path, capsys):
    write_video(tmp_path / "in.mp4")
    write_png(tmp_path / "kernel.png", np.full((3, 5, 3), 200, np.uint8))
    write_png(tmp_path / "large.png", np.full((65, 65, 3), 200, np.uint8))
    write_png(tmp_path / "even.png", np.full((4, 4, 3), 200, np.uint8))
    args = (tmp_path / "in.mp4", tmp_path / "out.mp4", "--operator", "kernel")
    assert run(*args, "--kernel", tmp_path / "kernel.png") == 0
    for name, why in (("large.png", "63 pixels each way at most"), ("even.png", "odd number of rows")):
        assert run(*args, "--overwrite", "--kernel", tmp_path / name) == 2
        assert why in capsys.readouterr().err
    assert run(*args, "--overwrite") == 2
    assert "--operator kernel needs --kernel PNG" in capsys.readouterr().err


def test_each_field_of_an_interlaced_video_becomes_a_picture(tmp_path, capsys):
    """Their order is that of the file; the lines of a moving bar show it."""
    path = tmp_path / "in.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg2video", 25, {"flags": "+ilme+ildct", "q": "2"})
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        video.codec_context.bit_rate = 4_000_000
        for index in range(8):
            pixels = np.full((48, 64, 3), 30, np.uint8)
            for field in (0, 1):
                pixels[field::2, 4 * (2 * index + field) : 4 * (2 * index + field) + 4] = 220
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode(None))
    assert about(path).first_field in ("top", "bottom")
    args = ("--operator", "deinterlace", "--operator.field", "top", "--json", "-")
    assert run(path, tmp_path / "out.mp4", *args) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["frames"] == 16 and "each field became a picture: 50 a second" in report["notes"]
    clip = read_clip(tmp_path / "out.mp4", (48, 64), None)
    bars = clip[:, :, :, 1].mean(1).argmax(1)
    assert len(clip) == 16 and about(tmp_path / "out.mp4").rate == 50
    assert (np.diff(bars) > 0).all()
    assert run(path, tmp_path / "2.mp4", *args, "--size", "128x96") == 2
    assert "scaling would mix the two fields" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("operator", "why"),
    [
        ("{", "what is no JSON"),
        ('{"kind": "sharpen"}', "found 'sharpen'"),
        ('{"kind": ["mask"]}', "expected an operator among"),
        ('{"kind": "compose", "operators": [{"kind": "denoise"}]}', "does not match any of the expected tags"),
        ('{"kind": "kernel", "taps": [[1, 2]]}', "odd number"),
    ],
)
def test_json_that_is_no_operator_is_refused_in_one_sentence(operator, why, tmp_path, capsys):
    assert run("in.mp4", tmp_path / "out.mp4", "--operator", operator) == 2
    error = capsys.readouterr().err
    assert why in error and error.count("\n") == 1


def test_only_what_is_degraded_here_is_coded_here(tmp_path, capsys):
    assert run("in.mp4", tmp_path / "out.mp4", "--operator", "denoise", "--coded", "jpeg:40") == 2
    assert "--coded goes with --simulate" in capsys.readouterr().err


def test_an_odd_size_is_padded_for_the_model_and_comes_back_as_it_was(tmp_path):
    (tmp_path / "in").mkdir()
    for i, pixels in enumerate(moving_scene(3, 35, 51)):
        write_png(tmp_path / "in" / f"{i}.png", pixels)
    args = ("--operator", "inpainting", "--simulate", "--operator.keep", "0.9")
    assert run(tmp_path / "in", tmp_path / "out", *args) == 0
    assert [read_picture(p).shape for p in sorted((tmp_path / "out").iterdir())] == [(35, 51, 3)] * 3


def test_an_incoming_small_video_comes_back_four_times_as_large(tmp_path):
    write_video(tmp_path / "in.mp4", frames=9, height=18, width=22)
    assert run(tmp_path / "in.mp4", tmp_path / "out.mkv", "--operator", "super_resolution") == 0
    assert (about(tmp_path / "out.mkv").height, about(tmp_path / "out.mkv").width) == (72, 88)


def test_an_operators_setting_may_be_one_of_several_whole_numbers(tmp_path):
    """`--operator.scale 2` was refused: "Input should be 2 or 4, found '2'"."""
    write_video(tmp_path / "in.mp4", frames=9, height=32, width=48)
    arguments = ("--operator", "super_resolution", "--operator.scale", "2")
    assert run(tmp_path / "in.mp4", tmp_path / "out.mkv", *arguments) == 0
    assert (about(tmp_path / "out.mkv").height, about(tmp_path / "out.mkv").width) == (64, 96)


def test_a_rotated_video_is_restored_upright(tmp_path):
    write_video(tmp_path / "in.mp4", frames=9, rotation=90)
    assert run(tmp_path / "in.mp4", tmp_path / "out.mp4", "--operator", "temporal_average") == 0
    assert (about(tmp_path / "out.mp4").height, about(tmp_path / "out.mp4").width) == (64, 48)


def test_one_picture_in_gives_one_picture_out(tmp_path):
    write_png(tmp_path / "in.png", moving_scene(1, 40, 64)[0])
    args = ("--operator", "gaussian_blur", "--simulate", "--operator.sigma", "1")
    assert run(tmp_path / "in.png", tmp_path / "out.png", *args) == 0
    assert read_picture(tmp_path / "out.png").shape == (40, 64, 3)


def test_where_the_mask_is_white_the_picture_stays(tmp_path):
    (tmp_path / "in").mkdir()
    pixels = moving_scene(1, 40, 56)[0]
    write_png(tmp_path / "in" / "0.png", pixels)
    mask = np.full((40, 56, 3), 255, np.uint8)
    mask[10:20, 30:45] = 0
    write_png(tmp_path / "mask.png", mask)
    args = ("--operator", "mask", "--mask", tmp_path / "mask.png", "--solver.output_gamma", "1000")
    assert run(tmp_path / "in", tmp_path / "out", *args) == 0
    restored = read_picture(tmp_path / "out" / "000000.png").astype(int)
    assert np.abs(restored - pixels)[mask == 255].max() <= 2


def test_the_mask_is_padded_with_the_picture():
    geometry = restore_file.fit(About(50, 35, Fraction(16), Fraction(1, 16), 1), None, None, False)
    mask = np.zeros((35, 50, 3), np.uint8)
    mask[:, 40:] = 255
    fitted = restore_file.fit_mask(mask, About(50, 35, Fraction(16), Fraction(1, 16), 1), geometry)
    assert fitted.shape == (48, 64, 3)
    assert (fitted[:, :40] == 0).all() and (fitted[:, 40:] == 255).all()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--operator", "sharpen"), "expected an operator among super_resolution"),
        (
            ("--operator", "inpainting", "--operator.keep", "2"),
            "keep: expected less than or equal to 0.99",
        ),
        (("--operator", "inpainting", "--operator.sigma", "2"), "sigma: there is no such setting"),
        (("--operator", "super_resolution", "--solver.num_steps", "many"), "--solver.num_steps"),
        (("--operator", "mask"), "needs --mask PNG"),
        (("--operator", "inpainting", "--mask", "in.mp4"), "--mask goes with --operator mask"),
        (("--operator", "mask", "--mask", "MASK"), "expected a mask of 64x48 pixels"),
        (("--operator", "gaussian_blur", "--size", "16x16"), "more than 30 pixels"),
        (("--operator", "inpainting", "--json", "nowhere/report.json"), "for --json"),
        (("--operator", "inpainting", "--size", "99999x99999"), "from 16 to 8192 pixels each way, found 99999x99999"),
        (("--operator", "inpainting", "--seed", str(2**31)), f"expected a whole number from 0 to {2**31 - 1}"),
        (("--operator", "inpainting", "--operator.noise", "nan"), "noise: expected"),
        (("--operator", "inpainting", "--solver.gamma", "inf"), "--solver.gamma: expected a finite number"),
    ],
)
def test_bad_input_ends_with_2_and_one_sentence_and_leaves_nothing(tmp_path, capsys, arguments, sentence):
    write_video(tmp_path / "in.mp4", frames=9)
    write_png(tmp_path / "mask.png", np.zeros((48, 65, 3), np.uint8))
    arguments = [str(tmp_path / "mask.png") if a == "MASK" else a for a in arguments]
    assert run(tmp_path / "in.mp4", tmp_path / "out.mp4", *arguments) == 2
    message = capsys.readouterr().err.strip()
    assert sentence in message and message.startswith("avis: ") and "\n" not in message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "mask.png"]


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (FloatingPointError("x"), 1)])
def test_an_interrupted_or_failed_run_leaves_no_file(tmp_path, monkeypatch, error, code):
    write_video(tmp_path / "in.mp4", frames=33)
    step, calls = Engine.step, []

    def torn(*args, **settings):
        calls.append(1)
        if len(calls) == 3:
            raise error
        return step(*args, **settings)

    monkeypatch.setattr(Engine, "step", torn)
    assert run(tmp_path / "in.mp4", tmp_path / "out.mp4", "--operator", "super_resolution", "--simulate") == code
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_a_short_last_chunk_repeats_its_last_picture():
    chunk = [Picture(pixels, i) for i, pixels in enumerate(moving_scene(5, 16, 16))]
    geometry = restore_file.Geometry((16, 16), (16, 32), (16, 32), (16, 16))
    filled = restore_file.fill(chunk, 12, geometry)
    assert filled.shape == (12, 16, 32, 3)
    assert (filled[5:] == filled[4]).all() and (filled[:, :, 16:] == filled[:, :, 15:16]).all()


def test_sizes_for_pictures_that_fit_and_that_do_not():
    source = About(50, 35, Fraction(16), Fraction(1, 16), None)
    simulated = restore_file.fit(source, None, SuperResolution(), True)
    assert simulated == restore_file.Geometry((35, 50), (48, 64), (48, 64), (35, 50))
    incoming = restore_file.fit(source, None, SpatioTemporalAverage(), False)
    assert incoming == restore_file.Geometry((35, 50), (36, 52), (144, 208), (140, 200))
    scaled = restore_file.fit(source, (238, 418), SuperResolution(), False)
    assert scaled == restore_file.Geometry((60, 105), (60, 108), (240, 432), (238, 418), (74, 105))


@pytest.mark.parametrize(
    ("how", "shown", "scaled"), [("crop", (48, 96), (192, 96)), ("pad", (48, 96), (48, 24)), ("inside", (48, 24), None)]
)
def test_a_size_of_another_shape_never_squashes(how, shown, scaled):
    """A portrait of 48x96 in 96x48 came out twice as wide as it was."""
    geometry = restore_file.fit(About(48, 96, Fraction(16), Fraction(1, 16), None), (48, 96), None, True, how)
    assert (geometry.shown, geometry.scaled, geometry.aspect) == (shown, scaled, 1)


def test_oblong_pixels_stay_oblong_at_their_own_shape_and_become_square_at_another():
    source = About(72, 58, Fraction(16), Fraction(1, 16), None, Fraction(64, 45))
    assert restore_file.fit(source, (58, 72), None, True).aspect == Fraction(64, 45)
    assert restore_file.fit(source, (116, 144), None, True).scaled is None
    other = restore_file.fit(source, (58, 102), None, True, "inside")
    assert other.aspect == 1 and abs(other.shown[1] / other.shown[0] - float(source.shape)) < 0.03
