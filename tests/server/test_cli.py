import errno
import json
import os
import socket
import subprocess
import sys
import types

import pytest

from core.errors import UsageError
from core.json_report import write_json
from server import cli


@pytest.fixture
def command(monkeypatch):
    """A command `test` whose run is what the test makes it."""
    module = types.ModuleType("avis_test_command")
    module.add_arguments = lambda parser: parser.add_argument("--level", type=int, default=0)
    module.run = lambda args: args.level
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(cli.COMMANDS, "test", (module.__name__, "a test"))
    return module


def raising(error):
    def run(args):
        raise error

    return run


def test_a_command_gets_its_arguments_and_its_result_is_the_exit_code(command):
    assert cli.main(["test"]) == 0
    assert cli.main(["test", "--level", "1"]) == 1


def test_bad_input_is_one_sentence_and_exit_code_2(command, capsys):
    command.run = raising(UsageError("expected a video, found a text"))
    assert cli.main(["test"]) == 2
    assert capsys.readouterr().err == "avis: expected a video, found a text\n"


def test_an_interrupted_command_ends_with_130(command):
    command.run = raising(KeyboardInterrupt())
    assert cli.main(["test"]) == 130


def test_any_other_error_is_exit_code_1_with_its_traceback_in_the_log(command, caplog):
    command.run = raising(ZeroDivisionError("never"))
    assert cli.main(["test"]) == 1
    assert "ZeroDivisionError: never" in caplog.text


def test_a_full_disk_is_a_sentence_and_no_traceback(command, capsys, caplog):
    command.run = raising(OSError(errno.ENOSPC, "No space left on device", "out.json"))
    assert cli.main(["test"]) == 1
    assert capsys.readouterr().err == "avis: [Errno 28] No space left on device: 'out.json'\n"
    assert not caplog.text


def test_a_reader_that_goes_away_ends_a_command_without_a_traceback():
    """`avis weights list | head -1`, from the shell."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "server", "weights", "list", "--json", "-"]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr and "BrokenPipe" not in ended.stderr


def test_a_pipe_that_breaks_elsewhere_is_told(command, caplog):
    command.run = raising(BrokenPipeError("a socket"))
    assert cli.main(["test"]) == 1
    assert "BrokenPipeError: a socket" in caplog.text


def test_a_number_that_json_has_not_is_null(tmp_path):
    write_json({"psnr": float("inf"), "rows": [float("nan"), 1.5], "size": (416, 240)}, str(tmp_path / "found.json"))
    found = json.loads((tmp_path / "found.json").read_text())
    assert found == {"psnr": None, "rows": [None, 1.5], "size": [416, 240]}


def test_an_unknown_command_or_option_is_exit_code_2(command, capsys):
    assert cli.main(["tset"]) == 2
    assert "serve" in capsys.readouterr().err
    for arguments in (["--lvel", "1"], ["--level", "high"]):
        assert cli.main(["test", *arguments]) == 2
        message = capsys.readouterr().err
        assert arguments[-1] in message and message.startswith("avis: ") and message.count("\n") == 1


def test_help_lists_every_command_and_imports_none(capsys, monkeypatch):
    monkeypatch.setattr(cli.importlib, "import_module", raising(AssertionError("nothing is imported")))
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in cli.COMMANDS)


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_has_a_help(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    assert f"avis {name}" in capsys.readouterr().out


def test_serve_takes_every_plain_setting_as_an_option(capsys):
    with pytest.raises(SystemExit):
        cli.main(["serve", "--help"])
    text = capsys.readouterr().out
    assert all(option in text for option in ("--host", "--port", "--model", "--device", "--config", "--max-sessions"))


def test_serve_refuses_a_wrong_setting_before_it_starts(capsys):
    assert cli.main(["serve", "--port", "http"]) == 2
    assert "port" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model.window", "7"], "setting of model wan2.1-1.3b, window: expected a multiple of 3, found '7'"),
        (["--codec", "jpeg"], "model wan2.1-1.3b has no codec 'jpeg'; it has taehv, wan-vae"),
    ],
)
def test_serve_refuses_a_wrong_setting_of_the_model_before_it_starts(capsys, arguments, sentence):
    assert cli.main(["serve", "--model", "wan2.1-1.3b", *arguments]) == 2
    assert capsys.readouterr().err == f"avis: {sentence}\n"


def test_serve_takes_the_solvers_settings_and_refuses_a_wrong_one(capsys):
    """The pages named --solver.tier as an option of every command; serve did not know it."""
    assert cli.main(["serve", "--solver.tier", "soft"]) == 2
    assert capsys.readouterr().err == "avis: setting solver.tier: expected 'faithful' or 'sharp', found 'soft'\n"


def test_a_port_that_is_taken_says_what_to_do(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert cli.main(["gateway", "--nodes", "http://127.0.0.1:1", "--port", str(taken.getsockname()[1])]) == 1
    assert "choose another one with --port" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["serve", "gateway", "cluster", "restore"])
def test_no_help_tells_an_empty_default(name, capsys):
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert not any(empty in words for empty in ("(default )", "(default None)", "(default: None)"))


def test_the_help_of_an_operators_setting_tells_the_default_of_each_kind(capsys):
    """The last kind's default stood for all: a mean of 7 was said to be one of 4."""
    with pytest.raises(SystemExit):
        cli.main(["restore", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert "frames in each mean (default: 7, 4) [temporal_average, spatio_temporal_average]" in words


def test_every_command_that_loads_a_model_takes_its_settings(capsys):
    for name in ("serve", "restore", "eval", "bench", "doctor"):
        with pytest.raises(SystemExit):
            cli.main([name, "--help"])
        assert "--model.window" in capsys.readouterr().out, name
