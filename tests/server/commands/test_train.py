"""The recipe itself is tested in tests/core/training/test_train.py."""

import pytest

from server import cli

SMALL = ("--minutes", "0.0001", "--size", "32", "--batch", "2", "--threads", "1")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--minutes", "0"), "expected --minutes above 0, found 0"),
        (("--minutes", "nan"), "expected --minutes above 0, found nan"),
        (("--rate", "-1"), "expected --rate above 0, found -1"),
        (("--batch", "0"), "expected --batch from 1, found 0"),
        (("--threads", "0"), "expected --threads from 1, found 0"),
        (("--size", "7"), "expected a --size from 16 in multiples of 8, found 7"),
        (("--seed", "-1"), "expected --seed from 0 to"),
        (("--hold", "1.5"), "expected --hold from 0 to 1, found 1.5"),
        (("--peer", "RUN"), "expected another run's folder for --peer"),
        (("--run", "FILE"), "expected a folder for --run, found a file in"),
        (("--videos", "nowhere"), "expected an existing folder for --videos, found nowhere"),
        (("--photos", "FOLDER"), "expected files (.jpg, .jpeg, .png) in the folder"),
    ],
)
def test_bad_arguments_end_with_2_and_one_sentence(tmp_path, capsys, arguments, sentence):
    """They were tracebacks, or weights of one step."""
    (tmp_path / "file").touch()
    places = {"FILE": str(tmp_path / "file"), "FOLDER": str(tmp_path), "RUN": str(tmp_path / "run")}
    given = [places.get(argument, argument) for argument in arguments]
    assert cli.main(["train", *SMALL, "--run", str(tmp_path / "run"), *given]) == 2
    message = capsys.readouterr().err
    assert sentence in message and message.count("\n") == 1
    assert not (tmp_path / "run").exists()
