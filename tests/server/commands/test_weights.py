import hashlib
import json
from dataclasses import replace

import pytest
import torch

from core.errors import UsageError
from core.models.load import load
from core.models.wan import weights
from core.models.wan.model import randomise
from core.models.wan.taehv import TAEHV, TAEHVConfig
from server import cli
from server.commands import weights as command

SMALL = TAEHVConfig(encoder_width=8, decoder_widths=(8, 8, 8, 8))


def avis(folder, *arguments):
    return cli.main(["weights", "--folder", str(folder), *arguments])


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A small taehv in the place of the published one; returns the folder it is in."""
    source = tmp_path / "source.pth"
    torch.save(dict(randomise(TAEHV, SMALL, torch.device("cpu"), torch.float32).state_dict()), source)
    content = source.read_bytes()
    file = replace(
        weights.PUBLISHED["taehv"].files[0],
        url=source.as_uri(),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    monkeypatch.setitem(weights.PUBLISHED, "taehv", replace(weights.PUBLISHED["taehv"], files=(file,)))
    monkeypatch.setattr(command, "TAEHVConfig", lambda: SMALL)
    path = tmp_path / "folder" / file.path
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return tmp_path / "folder"


def test_list_shows_every_set_with_its_licence(tmp_path, capsys):
    assert avis(tmp_path, "list", "--json", "-") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["weights"]}
    assert set(rows) == set(weights.PUBLISHED)
    assert "no commercial use" in rows["self-forcing"]["licence"]
    assert {row["state"] for row in rows.values()} == {"no"}
    assert avis(tmp_path, "list") == 0


def test_the_folder_is_named_before_or_after_the_action(tmp_path, capsys):
    for arguments in (["--folder", str(tmp_path), "list"], ["list", "--folder", str(tmp_path)]):
        assert cli.main(["weights", *arguments, "--json", "-"]) == 0
        assert json.loads(capsys.readouterr().out)["folder"] == str(tmp_path)
    (tmp_path / "file").touch()
    assert avis(tmp_path / "file", "fetch", "taehv", "--yes") == 2
    assert "expected a folder" in capsys.readouterr().err


def test_a_conversion_that_fails_leaves_nothing_behind(published, monkeypatch):
    def save_half(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "save_file", save_half)
    before = sorted(published.rglob("*"))
    assert avis(published, "convert", "taehv") == 1
    assert sorted(published.rglob("*")) == before


def test_nothing_is_fetched_before_the_licence_is_accepted(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "download", lambda *_: pytest.fail("fetched without consent"))
    assert avis(tmp_path, "fetch", "self-forcing") == 2
    out, err = capsys.readouterr()
    assert "CC BY-NC-SA 4.0" in out
    assert "--yes" in err


def test_an_unknown_name_is_a_usage_error(tmp_path, capsys):
    assert avis(tmp_path, "fetch", "wan9") == 2
    assert "there are no weights 'wan9'" in capsys.readouterr().err


def test_what_is_here_is_not_fetched_again(published, capsys):
    assert avis(published, "fetch", "taehv") == 0
    assert "already in" in capsys.readouterr().out


def test_verify_finds_a_flipped_bit_and_a_missing_file(published, capsys):
    assert avis(published, "verify", "taehv") == 0
    path = published / weights.PUBLISHED["taehv"].files[0].path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert avis(published, "verify", "taehv") == 1
    assert "its SHA-256 is not the published one" in capsys.readouterr().out
    path.unlink()
    assert avis(published, "verify", "taehv") == 1
    assert "missing" in capsys.readouterr().out


def test_convert_makes_a_file_that_verifies_without_the_original(published, capsys):
    assert avis(published, "convert", "taehv") == 0
    (published / weights.PUBLISHED["taehv"].files[0].path).unlink()
    assert avis(published, "verify", "taehv") == 0
    assert avis(published, "list", "--json", "-") == 0
    assert '"converted"' in capsys.readouterr().out


def test_converting_what_is_not_there_names_the_command(tmp_path, capsys):
    assert avis(tmp_path, "convert", "wan-vae") == 2
    assert "avis weights fetch wan-vae" in capsys.readouterr().err


def test_a_prompt_without_the_encoder_names_the_command(tmp_path, capsys):
    assert avis(tmp_path, "prompt", "a cat") == 2
    assert "avis weights fetch umt5-xxl" in capsys.readouterr().err


def test_a_prompt_that_could_not_be_written_is_refused_before_the_encoder_loads(tmp_path, capsys):
    assert avis(tmp_path, "prompt", "a street", "--out", str(tmp_path / "none" / "p.safetensors")) == 2
    assert "for --out" in capsys.readouterr().err


def test_serving_without_weights_names_the_command(tmp_path):
    with pytest.raises(UsageError, match="avis weights fetch taehv"):
        load("wan2.1-1.3b", device="cpu", settings={"folder": str(tmp_path)})


def test_what_was_done_is_told_as_json_and_the_words_for_people_make_way(published, capsys):
    for action, key, count in (("convert", "converted", 1), ("verify", "files", 2), ("fetch", "fetched", 0)):
        assert avis(published, action, "taehv", "--json", "-") == 0
        out, err = capsys.readouterr()
        found = json.loads(out)
        assert found["folder"] == str(published) and "taehv" in err
        assert len(found[key]) == count
    (published / weights.PUBLISHED["taehv"].files[0].path).write_bytes(b"broken")
    assert avis(published, "verify", "taehv", "--json", "-") == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False
