"""`avis novel-view` end to end, with a small configuration of the real model."""

import json

import av
import numpy as np
import pytest
import transformers

from core.novel_view.depth_model import seen_size
from server import cli

pytestmark = pytest.mark.usefixtures("loads")


@pytest.fixture
def clip(tmp_path):
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        video = container.add_stream("libx264", 24, {"crf": "4"})
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        for index in range(11):
            pixels = np.full((48, 64, 3), 40 + 10 * index, np.uint8)
            pixels[:, 20:44] = 200
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode(None))
    return tmp_path / "clip.mp4"


def shown(path):
    with av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)], rate


@pytest.mark.parametrize("trajectory", ["orbit-left", "orbit-down"])
def test_the_scene_is_shown_from_another_camera_and_scored_against_the_truth(tmp_path, trajectory):
    arguments = ["novel-view", "scene", str(tmp_path / "out.mp4"), "--depth", "scene", "--trajectory", trajectory]
    arguments += ["--size", "96x64", "--frames", "9", "--json", str(tmp_path / "r.json")]
    assert cli.main(arguments) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["frames"] == 9 == len(shown(tmp_path / "out.mp4")[0])
    assert 0 < report["holes"] < 0.5 and report["hole_iou"] > 0.85
    assert report["psnr"]["outside"] > report["psnr"]["whole"] > report["psnr"]["inside"]
    assert report["psnr"]["outside"] > 22


def test_a_camera_that_stays_shows_the_clip_itself_at_its_rate(clip, tmp_path):
    np.save(tmp_path / "d.npy", np.full((48, 64), 3.0))
    (tmp_path / "stay.json").write_text("[[0, 0, 0]]")
    arguments = ["novel-view", str(clip), str(tmp_path / "out.mp4"), "--depth", str(tmp_path / "d.npy")]
    arguments += ["--trajectory", str(tmp_path / "stay.json"), "--size", "64x48", "--json", str(tmp_path / "r.json")]
    assert cli.main(arguments) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["frames"] == 11 and report["holes"] == 0 and "psnr" not in report, "of real footage no truth is known"
    frames, rate = shown(tmp_path / "out.mp4")
    original, _ = shown(clip)
    assert rate == 24
    assert all(abs(a.astype(int) - b).mean() < 12 for a, b in zip(frames, original, strict=True))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--depth", "gone.npy"], "expected depth in gone.npy, found none"),
        (["--depth", "model:nowhere"], "expected a folder with a depth model"),
        (["--depth", "scene", "--trajectory", "orbit-up"], "expected a trajectory among orbit-left, orbit-down"),
        (["--depth", "scene", "--trajectory", "gone.json"], "expected a JSON list of [theta, phi, r]"),
        (["--depth", "scene", "--size", "60x48"], "multiples of 16"),
        (["--depth", "scene", "--fov", "nan"], "expected an angle from 1 to 170"),
        (["--depth", "scene", "--depth-scale", "0"], "expected a number above 0"),
        ([], "--depth"),
    ],
)
def test_bad_arguments_end_with_2_and_leave_no_file(clip, tmp_path, capsys, arguments, sentence):
    size = [] if "--size" in arguments else ["--size", "64x48"]
    assert cli.main(["novel-view", str(clip), str(tmp_path / "out.mp4"), *size, *arguments]) == 2
    assert sentence in capsys.readouterr().err and not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("text", ["{}", "[[0, 0]]", "[]", "[[0, 0, 1]]", "[[0, 200, 0]]", "[[0, null, 0]]", "no"])
def test_a_file_that_holds_no_trajectory_is_refused(clip, tmp_path, capsys, text):
    (tmp_path / "t.json").write_text(text)
    arguments = ["novel-view", "scene", str(tmp_path / "out.mp4"), "--depth", "scene"]
    assert cli.main([*arguments, "--trajectory", str(tmp_path / "t.json")]) == 2
    assert "expected" in capsys.readouterr().err


def test_a_file_that_is_there_is_not_replaced(clip, tmp_path):
    (tmp_path / "out.mp4").write_bytes(b"mine")
    assert cli.main(["novel-view", "scene", str(tmp_path / "out.mp4"), "--depth", "scene"]) == 2
    assert (tmp_path / "out.mp4").read_bytes() == b"mine"


def small_dpt():
    config = transformers.DPTConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=64,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        is_hybrid=False,
    )
    return transformers.DPTForDepthEstimation(config)


def small_depth_anything():
    backbone = transformers.Dinov2Config(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
    )
    return transformers.DepthAnythingForDepthEstimation(config)


@pytest.mark.parametrize("build_model", [small_dpt, small_depth_anything])
def test_a_depth_model_in_a_folder_is_run(tmp_path, clip, build_model):
    """With random weights: nothing is downloaded, and the clip goes through."""
    build_model().save_pretrained(tmp_path / "model")
    arguments = ["novel-view", str(clip), str(tmp_path / "out.mp4"), "--depth", f"model:{tmp_path / 'model'}"]
    assert cli.main([*arguments, "--size", "64x48", "--frames", "9", "--json", str(tmp_path / "r.json")]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["frames"] == 9


def test_a_depth_model_sees_whole_patches():
    assert seen_size(240, 416, 14) == (238, 420)
    assert seen_size(1080, 1920, 14) == (294, 518)
