"""A server without standard streams, and one whose reader has gone."""

import os
import subprocess
import sys

import pytest

from core.errors import UsageError
from server.api.app import serve
from server.settings import read_settings

SHOW = "import os, sys; from server.cli import open_standard_streams as o; o(); print('x'); "
CHECK = "sys.exit(0 if [os.fstat(n) and n for n in range(3)] == [0, 1, 2] and os.pipe()[0] > 2 else 5)"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_opened_before_a_socket_gets_their_number(closed):
    """The device's socket had the number of standard error: its process started again without end."""
    command = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, SHOW + CHECK]
    assert subprocess.run(command, timeout=60, stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "avis.example"])
def test_a_server_that_other_machines_reach_asks_for_a_token_or_is_told_to_let_everybody_in(host, tmp_path):
    with pytest.raises(UsageError, match="set AVIS_TOKEN"):
        serve(read_settings(host=host))
    tokens = tmp_path / "tokens.toml"
    tokens.write_text("")
    for told in ({"token": "s"}, {"open_to_all": True}, {"tokens": tokens}, {"jwt_secret": "s" * 32}):
        read_settings(host=host, **told).check_exposure()
    for loopback in ("127.0.0.1", "localhost", "::1", "127.0.0.2"):
        read_settings(host=loopback).check_exposure()


def test_the_device_is_told_none_of_our_secrets(monkeypatch):
    from server.settings import device_environment

    for name in ("AVIS_TOKEN", "AVIS_ICE_SECRET", "AVIS_JWT_SECRET", "avis_token"):
        monkeypatch.setenv(name, "a secret")
    assert "a secret" not in device_environment().values()
    assert device_environment()["PATH"] == os.environ["PATH"]
