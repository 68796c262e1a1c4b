"""`avis bench --compare` with small configurations of the real classes."""

import json
from functools import partial

import pytest

from core.models.wan import compare as wan_compare
from core.models.wan.dit import DiTConfig
from core.models.wan.vae import WanVAEConfig
from server import cli
from server.commands import compare

DIT = DiTConfig(dim=48, ffn_dim=64, layers=2, heads=2, text_dim=8, text_len=4, freq_dim=16)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(compare, "compare_step", partial(wan_compare.compare_step, config=DIT))
    monkeypatch.setattr(compare, "compare_vae", partial(wan_compare.compare_vae, config=WanVAEConfig(base=8)))


def bench(*arguments):
    return cli.main(["bench", "--device", "cpu", "--size", "32x48", *arguments])


def test_our_step_is_timed_in_turn_with_the_plain_one(tmp_path, capsys):
    arguments = ["--compare", "plain", "--chunks", "3", "--model.window", "6", "--json", str(tmp_path / "r.json")]
    assert bench(*arguments) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["what"] == "transformer, 2 layers, 3 chunks 32x48, K=2, window 6"
    assert len(report["ours_s"]) == len(report["theirs_s"]) == 3
    assert report["ratio"] == min(report["ours_s"]) / min(report["theirs_s"]) > 0
    assert report["difference"] < 1e-4
    assert "ours / theirs" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_our_autoencoder_is_timed_in_turn_with_that_of_diffusers(capsys):
    pytest.importorskip("diffusers")
    assert bench("--compare", "diffusers", "--json", "-") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["size"], report["dtype"], report["basis"]) == ("32x48", "float32", "cpu")
    assert report["difference"] < 1e-4


def test_without_diffusers_a_sentence_says_how_to_get_it(monkeypatch, capsys):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(wan_compare, "import_module", absent)
    assert bench("--compare", "diffusers") == 2
    assert capsys.readouterr().err == "avis: comparing needs the package diffusers: pip install diffusers\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--size", "40x48"], "expected multiples of 16 for --size, found 40x48"),
        (["--model.window", "7"], "setting of model wan2.1-1.3b, window: expected a multiple of 3, found '7'"),
        (["--model.sink", "6"], "a sink of 6 needs a window of 12 at least, not 9"),
    ],
)
def test_bad_arguments_end_with_2_and_one_sentence(capsys, arguments, sentence):
    assert bench("--compare", "plain", *arguments) == 2
    assert sentence in capsys.readouterr().err
