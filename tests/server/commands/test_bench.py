"""`avis bench` on the embedded model itself."""

import json

import pytest

from server import cli


def test_every_backend_is_timed_and_none_loses_more_than_the_gate(tmp_path, capsys):
    arguments = ["bench", "--backends", "--size", "64x48", "--chunks", "1", "--json", str(tmp_path / "report.json")]
    assert cli.main(arguments) == 0
    rows = {row["backend"]: row for row in json.loads((tmp_path / "report.json").read_text())["backends"]}
    assert list(rows) == ["float32", "bfloat16"] and rows["float32"]["speed_up"] == 1
    assert sum(row["chosen"] for row in rows.values()) == 1
    assert abs(rows["bfloat16"]["psnr_loss"]) < 0.02 and rows["bfloat16"]["psnr_loss"] != 0
    assert all(row["roofline"]["fraction"] > 0 for row in rows.values())
    assert "chosen" in capsys.readouterr().out


def test_short_chunks_are_timed_as_short_ones(tmp_path):
    arguments = ["bench", "--latency", "low", "--size", "64x48", "--chunks", "2", "--json", str(tmp_path / "r.json")]
    assert cli.main(arguments) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["settings"]["latency"] == "low"
    assert report["fps"] == pytest.approx(4000 / report["chunk_ms"]["median"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--backends", "--model", "wan2.1-1.3b"], "has no backends to choose from"),
        (["--backends", "--model.backend", "float32"], "expected no --long and no --model.backend"),
        (["--latency", "low", "--model", "wan2.1-1.3b"], "trained on chunks of 12 frames, and takes none of 4"),
    ],
)
def test_bad_arguments_end_with_2_and_one_sentence(capsys, arguments, sentence):
    assert cli.main(["bench", *arguments]) == 2
    assert sentence in capsys.readouterr().err
