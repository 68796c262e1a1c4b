"""A server process that outlives its supervisor, and is adopted by the next one."""

import os
import signal
import sys
import time

import pytest

from core.errors import UsageError
from server.gateway.supervisor import Supervisor, born, check_private, default_folder

SERVER = """
import http.server, os, sys
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
print(f"AVIS listens on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""


@pytest.fixture
def supervise(tmp_path):
    """Makes supervisors of one device whose server is a small program; ends what is left."""
    made = []

    def make(program=SERVER):
        found = Supervisor(tmp_path / "run", "cuda:0", "a", [], token="secret")
        found._command = [sys.executable, "-c", program]
        made.append(found)
        return found

    yield make
    for found in made:
        found.stop()


def look_until(supervisor, condition, seconds=20):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        supervisor.look()
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("what was waited for did not come")


def test_a_server_is_started_once_and_told_its_name(supervise):
    supervisor = supervise()
    supervisor.look()
    server = supervisor.server
    assert server.lives and server.name.startswith("a-") and server.url.startswith("http://127.0.0.1:")
    supervisor.look()
    assert supervisor.server is server
    assert (supervisor.restarts, supervisor.adopted) == (0, False)


def test_a_server_that_was_killed_is_started_again_under_a_new_name(supervise):
    supervisor = supervise()
    supervisor.look()
    first = supervisor.server
    os.kill(first.pid, signal.SIGKILL)
    look_until(supervisor, lambda: supervisor.server not in (None, first))
    assert supervisor.server.name != first.name
    assert supervisor.restarts == 1
    assert not first.lives


def test_a_second_supervisor_adopts_the_server_and_starts_none(supervise):
    first, second = supervise(), supervise()
    first.look()
    second.look()
    assert second.adopted and second.server == first.server
    os.kill(first.server.pid, signal.SIGKILL)
    look_until(second, lambda: second.server is not None and second.server.pid != first.server.pid)
    assert not second.adopted
    look_until(first, lambda: first.server == second.server)
    assert first.adopted, "both supervise one server, and never two"


def test_a_server_outlives_the_process_that_started_it(supervise, tmp_path):
    program = (
        "import sys; from pathlib import Path; from server.gateway.supervisor import Supervisor\n"
        f"s = Supervisor(Path({str(tmp_path / 'run')!r}), 'cuda:0', 'a', [], token='secret')\n"
        f"s._command = [sys.executable, '-c', {SERVER!r}]\n"
        "s.look()\nprint(s.server.pid)\n"
    )
    import subprocess

    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    pid = int(output)
    assert born(pid), "it ended with its supervisor"
    supervisor = supervise()
    supervisor.look()
    assert supervisor.adopted and supervisor.server.pid == pid


def test_a_server_that_does_not_come_up_is_told_in_its_own_last_words(supervise):
    supervisor = supervise("import sys; sys.exit('avis: no such model')")
    with pytest.raises(UsageError, match="no such model"):
        supervisor.look()
    assert supervisor.server is None
    supervisor.look()  # not before its pause is over
    assert supervisor.server is None


def test_a_stopped_server_ends(supervise):
    supervisor = supervise()
    supervisor.look()
    pid = supervisor.server.pid
    supervisor.stop()
    assert not born(pid)


def test_no_node_runs_without_a_token(tmp_path):
    with pytest.raises(UsageError, match="needs a token"):
        Supervisor(tmp_path, "cpu", "a", [], token="")


def test_the_folder_of_locks_is_ours_alone(tmp_path):
    """/tmp/avis was for whoever came first: another user could hold every lock, or have a log written elsewhere."""
    ours = tmp_path / "new" / "avis"
    check_private(ours)
    assert ours.stat().st_mode & 0o777 == 0o700
    check_private(ours)
    ours.chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "new")
    (tmp_path / "file").touch()
    for wrong in (ours, tmp_path / "link", tmp_path / "file"):
        with pytest.raises(UsageError):
            check_private(wrong)
    assert default_folder().name == f"avis-{os.getuid()}"
