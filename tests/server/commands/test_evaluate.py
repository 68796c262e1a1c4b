"""`avis eval` and `avis bench` end to end on a small clip, with a small configuration of the real model."""

import json
from argparse import ArgumentTypeError

import av
import numpy as np
import pytest
import torch

from core.evaluation.bench import moving_scene
from core.models.load import Model
from core.models.tiny.denoiser import TinyConfig
from core.models.tiny.load import build
from server import cli
from server.commands import bench, evaluate_loss, options
from server.files.inputs import read_picture
from server.files.sheet import busiest
from server.files.vmaf import vmaf, vmaf_ffmpeg

SMALL = TinyConfig(quarter=32, eighth=32, width=32, heads=2, layers=1, window=2)


@pytest.fixture(autouse=True)
def small_model(monkeypatch):
    def load(name, weights, device, codec, settings):
        return Model(name, *build(SMALL), torch.device("cpu"), 1)

    monkeypatch.setattr(options, "load", load)


@pytest.fixture
def clip(tmp_path):
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        video = container.add_stream("libx264", 16, {"crf": "4"})
        video.height, video.width, video.pix_fmt = 96, 128, "yuv420p"
        for pixels in moving_scene(12, 96, 128):
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode(None))
    return tmp_path / "clip.mp4"


def test_rows_come_with_and_without_output_consistency_and_a_sheet_is_drawn(clip, tmp_path):
    arguments = ["eval", str(clip), "--size", "64x48", "--frames", "10", "--no-vmaf"]
    arguments += ["--operators", "super_resolution", "--variants", "degraded,x_init,flash"]
    arguments += ["--json", str(tmp_path / "report.json"), "--sheet", str(tmp_path / "sheet.png")]
    assert cli.main(arguments) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    rows = [(r["variant"], r["output_consistency"], r["frames"], r["guided_chunks"]) for r in report["rows"]]
    assert rows == [
        ("degraded", False, 10, 0),
        ("x_init", False, 10, 0),
        ("x_init", True, 10, 0),
        ("flash", False, 10, 1),
        ("flash", True, 10, 1),
    ]
    assert all("vmaf" not in row and row["psnr"] > 10 for row in report["rows"])
    assert report["gains"][0]["operator"] == "super_resolution" and report["gains"][0]["clips"] == 1
    assert read_picture(tmp_path / "sheet.png").shape[1] >= 4 * 64


def test_losses_compare_intact_frozen_and_masked_on_the_same_frames(clip, tmp_path, capsys):
    arguments = ["eval", str(clip), "--size", "64x48", "--operators", "super_resolution,temporal_average"]
    arguments += ["--loss", "0.1,0.3", "--burst", "2", "--json", str(tmp_path / "report.json")]
    assert cli.main(arguments) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    rows = [(r["operator"], r["loss"], r["variant"], r["lost"], r["affected"]) for r in report["rows"]]
    assert rows[:6] == [
        *(("super_resolution", 0.1, variant, 2, 2) for variant in ("intact", "freeze", "mask")),
        *(("super_resolution", 0.3, variant, 4, 4) for variant in ("intact", "freeze", "mask")),
    ]
    assert len(rows) == 12 and rows[6][3] == 2 < rows[6][4]
    intact, freeze, mask, *_ = (row["psnr_lost"] for row in report["rows"])
    assert len({intact, freeze, mask}) == 3, "each variant restores in its own way"
    assert report["settings"]["burst"] == 2 and "mask over freeze" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--operators", "sharpen"], "expected --operators among"),
        (["--variants", "flash,best"], "found 'best'"),
        (["--operators", "mask"], "use inpainting"),
        (["--size", "60x48"], "multiples of 16"),
        (["--operator.keep", "7"], "operator inpainting"),
        (["--loss", "0.1", "--variants", "flash"], "expected no --variants with --loss"),
        (["--loss", "0.1", "--burst", "12"], "expected more than --burst 12 frames"),
        (["--sheet", "nowhere/sheet.png"], "for --sheet"),
        (["--sheet", "sheet.txt"], "expected a .png file for --sheet, found sheet.txt"),
        (
            ["--operators", "gaussian_blur", "--operator.keep", "0.5"],
            "expected an operator among --operators that has --operator.keep, found gaussian_blur",
        ),
        (["--seed", "-1"], "expected a whole number from 0"),
    ],
)
def test_bad_arguments_end_with_2_and_one_sentence(clip, capsys, arguments, sentence):
    assert cli.main(["eval", str(clip), "--size", "64x48", *arguments]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("text", ["5", "0.1,", "0", "many"])
def test_shares_that_are_none_are_refused(text):
    with pytest.raises(ArgumentTypeError, match="expected shares between 0 and 1"):
        evaluate_loss.shares(text)


def test_vmaf_is_high_for_the_same_video_and_lower_for_another(tmp_path):
    ffmpeg = vmaf_ffmpeg()
    assert ffmpeg is not None, "imageio-ffmpeg, of the extra dev, brings an FFmpeg with libvmaf"
    pixels = moving_scene(6, 96, 128)
    noise = np.random.default_rng(0).integers(0, 60, pixels.shape)
    (tmp_path / "a.rgb").write_bytes(pixels.tobytes())
    (tmp_path / "b.rgb").write_bytes(np.clip(pixels + noise, 0, 255).astype(np.uint8).tobytes())
    same = vmaf(ffmpeg, tmp_path / "a.rgb", tmp_path / "a.rgb", (96, 128))
    other = vmaf(ffmpeg, tmp_path / "b.rgb", tmp_path / "a.rgb", (96, 128))
    assert same > 90 and other < same - 10


def test_the_enlarged_part_of_a_sheet_is_where_the_detail_is():
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[40:50, 60:75] = np.random.default_rng(0).integers(0, 256, (10, 15, 3))
    top, left, height, width = busiest(pixels)
    assert top <= 40 and top + height >= 50 and left <= 60 and left + width >= 75


def test_bench_reports_every_stage_and_a_share_of_the_roofline(tmp_path):
    arguments = ["bench", "--size", "64x48", "--chunks", "3", "--json", str(tmp_path / "report.json")]
    assert cli.main(arguments) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["stages_ms"]) == set(bench.STAGES)
    assert report["settings"]["chunks"] == 3 and report["flops"] > 0
    assert sum(report["stages_ms"].values()) <= 1.5 * report["chunk_ms"]["p95"]
    assert 0 < report["roofline"]["fraction"] < 1
    assert report["memory_bytes"] > report["session_bytes"] > 0
