import json

import pytest

from server import cli
from server.webrtc import versions


def findings(capsys, *arguments):
    code = cli.main(["doctor", "--device", "cpu", "--json", "-", *arguments])
    report = json.loads(capsys.readouterr().out)
    return code, report["ok"], {finding["name"]: finding for finding in report["findings"]}


def test_a_model_is_tried_on_a_chunk(capsys):
    code, fit, found = findings(capsys)
    assert (code == 0) == fit
    assert found["restoring"]["state"] == "ok"
    assert "tiny on cpu" in found["restoring"]["words"]


def test_a_model_without_its_weights_is_a_fault_that_names_the_command(capsys, tmp_path):
    code, fit, found = findings(capsys, "--model", "wan2.1-1.3b", "--model.folder", str(tmp_path))
    assert (code, fit, found["restoring"]["state"]) == (1, False, "fault")
    assert "avis weights fetch taehv" in found["restoring"]["words"]


@pytest.mark.parametrize("arguments", [("--model", "big"), ("--codec", "big"), ("--model.window", "9")])
def test_a_name_that_is_none_is_wrong_usage_and_no_fault_of_the_machine(capsys, arguments):
    assert cli.main(["doctor", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_room_in_dev_shm_is_no_matter(capsys):
    """Frames go through memory without a name (memfd), which no mount bounds; a container with little was a fault."""
    assert "shared memory" not in findings(capsys)[2]


def test_another_version_of_the_webrtc_stack_is_a_fault_and_no_traceback(capsys, monkeypatch):
    """The check ran on import: no command worked, doctor neither."""
    monkeypatch.setitem(versions.KNOWN_VERSIONS, "aiortc", "9.9.9")
    code, _, found = findings(capsys)
    assert code == 1 and "aiortc 9.9.9, found" in found["packages"]["words"]
