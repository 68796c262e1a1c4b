"""A method from outside through the contract, with a checkout that only enlarges."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from core.contract import SolverConfig
from core.errors import UsageError
from core.operators.super_resolution import SuperResolution
from server.commands import external
from server.commands.external import Job, diffir2vr

PYTHON = Path(sys.executable)
ADAPTER = """
import json, sys
from pathlib import Path
from PIL import Image
job = Path(sys.argv[1])
about = json.loads((job / "job.json").read_text())
for number in range(about["frames"]):
    small = Image.open(job / "y" / f"{number}.png")
    small.resize((about["width"], about["height"]), Image.Resampling.NEAREST).save(job / "restored" / f"{number}.png")
"""


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "avis_adapter.py").write_text(ADAPTER)
    return tmp_path


def restored(checkout, frames=9):
    method = external.load("plain", checkout, PYTHON)
    y = torch.rand(frames, 3, 8, 12) * 2 - 1
    return y, list(method.restore_clip(y, SuperResolution(), 5, SolverConfig(output_gamma=0)))


def test_frames_go_through_the_checkout_and_come_back(checkout):
    y, parts = restored(checkout, 21)
    assert [len(part.x) for part in parts] == [9, 12]
    wanted = y.repeat_interleave(4, -1).repeat_interleave(4, -2)
    assert (torch.cat([part.x for part in parts]) - wanted).abs().max() < 1 / 127


def test_the_job_tells_the_operator_and_the_exact_measurement(tmp_path):
    y = torch.rand(2, 3, 8, 12) * 2 - 1
    external.write_job(Job(tmp_path, SuperResolution(noise=0.02), 32, 48, 7), y)
    about = json.loads((tmp_path / "job.json").read_text())
    assert about["operator"] == {"kind": "super_resolution", "noise": 0.02, "scale": 4}
    assert (about["width"], about["height"], about["measured"], about["seed"]) == (48, 32, [12, 8], 7)
    assert np.array_equal(np.load(tmp_path / "y.npy"), y.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("raise SystemExit('no weights here')", "plain ended with 1: no weights here"),
        ("(job / 'restored' / '3.png').unlink()", "expected 9 frames of plain, 0.png and on, found no 3.png"),
        ("small.save(job / 'restored' / '0.png')", "expected frames of 48x32 of plain, found 12x8"),
    ],
)
def test_a_checkout_that_fails_is_told_in_one_sentence(checkout, change, told):
    (checkout / "avis_adapter.py").write_text(ADAPTER + change)
    with pytest.raises(UsageError, match=told):
        restored(checkout)


def test_what_is_not_installed_is_told(tmp_path, checkout):
    with pytest.raises(UsageError, match="expected --checkout DIR and --python PATH"):
        external.load("plain", None, PYTHON)
    with pytest.raises(UsageError, match=r"not installed: diffir2vr needs .*inference.py"):
        external.load("diffir2vr", tmp_path, PYTHON)
    with pytest.raises(UsageError, match="not installed: expected the Python"):
        external.load("plain", checkout, tmp_path / "python")


def test_diffir2vr_is_called_as_its_readme_says(tmp_path):
    words = diffir2vr(Job(tmp_path, SuperResolution(), 480, 832, 0))
    assert words[0] == "inference.py" and words[words.index("--final_size") + 1] == "(480, 832)"
    assert words[words.index("--input") + 1] == str(tmp_path / "y")
    with pytest.raises(UsageError, match="scale 4 or denoise, not super_resolution"):
        diffir2vr(Job(tmp_path, SuperResolution(scale=2), 480, 832, 0))
