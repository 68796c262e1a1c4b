import os
import subprocess
import sys

import pytest

from core.errors import UsageError
from server.numerics import NUMERICS
from server.sessions.dispatch import worker_config
from server.settings import device_environment, read_settings
from server.values import parse_size


def test_the_command_line_beats_the_environment_and_that_the_file(tmp_path, monkeypatch):
    file = tmp_path / "avis.toml"
    file.write_text('port = 1\nfps = 12\nhost = "h"\nwarm_sizes = ["256x144"]\n[solver]\nnum_steps = 1\n')
    monkeypatch.setenv("AVIS_PORT", "2")
    monkeypatch.setenv("AVIS_FPS", "13")
    settings = read_settings(file, port="3")
    assert (settings.port, settings.fps, settings.host) == (3, 13, "h")
    assert settings.warm_sizes == ((256, 144),)
    assert settings.solver == {"num_steps": 1}


@pytest.mark.parametrize(
    "text, word",
    [
        ("prot = 1", "prot"),
        ("port = 'x'", "port"),
        ("port = 99999", "port"),
        ("warm_sizes = ['a']", "WIDTHxHEIGHT"),
        ("warm_sizes = ['100x100']", "multiple of 16"),
        ("recordings = '/nowhere'", "recordings"),
        ("recordings = ''", "recordings: expected a directory, found ''"),
        ("token = ''", "token"),
        ("ice_servers = ['turn://host']", "turn:HOST:PORT"),
        ("fps = nan", "finite"),
        ("log_level = 'loud'", "'debug', 'info', 'warning' or 'error', found 'loud'"),
        ("bind = ['eth0']", r"bind\.0: expected an IP address, as in 192\.0\.2\.7, found 'eth0'"),
        ("public_ip = 'here'", "public_ip: expected an IP address, as in .*, found 'here'"),
        ("trusted_proxies = ['proxy']", r"trusted_proxies\.0: expected an address or a network"),
    ],
)
def test_a_wrong_setting_is_named_in_one_sentence(tmp_path, text, word):
    file = tmp_path / "avis.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=word):
        read_settings(file)


def test_a_list_is_text_with_commas_or_json_from_the_environment_and_the_command_line(monkeypatch):
    monkeypatch.setenv("AVIS_ICE_SERVERS", '["turn:a?transport=udp", "stun:b"]')
    monkeypatch.setenv("AVIS_WARM_SIZES", "416x240, 256x144")
    settings = read_settings(bind="127.0.0.1")
    assert settings.ice_servers == ("turn:a?transport=udp", "stun:b")
    assert settings.warm_sizes == ((416, 240), (256, 144))
    assert settings.bind == ("127.0.0.1",)
    monkeypatch.setenv("AVIS_SOLVER", "t0=1")
    with pytest.raises(UsageError, match=r"solver.*expected a JSON object"):
        read_settings()
    monkeypatch.delenv("AVIS_SOLVER")
    monkeypatch.setenv("AVIS_BIND", "[oops")
    with pytest.raises(UsageError, match="bind"):
        read_settings()


@pytest.mark.parametrize(
    "given, words",
    [
        ({"fps": "60"}, "setting fps, 60, is above max_fps, 30"),
        (
            {"min_side": 512, "max_pixels": 100_000},
            "setting a square of min_side, 512, has more than max_pixels, 100000",
        ),
        ({"ice_relay": True, "ice_servers": ("stun:a",)}, "setting ice_relay needs a TURN server"),
    ],
)
def test_settings_with_which_every_session_would_fail_are_refused_at_once(given, words):
    """And in a sentence without all that was given, which held the token."""
    with pytest.raises(UsageError) as refused:
        read_settings(token="secret", **given)
    assert str(refused.value).startswith(words) and "secret" not in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.toml"):
        read_settings(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("= 1")
    with pytest.raises(UsageError, match="not TOML"):
        read_settings(tmp_path / "bad.toml")


@pytest.mark.parametrize("text", ["", "416", "416x", "x240", "416x240x3", "-1x2", "416 x 240", None, 7, "1e9x1"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="WIDTHxHEIGHT"):
        parse_size(text)
    assert parse_size("416x240") == (416, 240)


@pytest.mark.parametrize("ports", ["", "1", "2-1", "0-5", "1-70000", "a-b"])
def test_what_is_no_range_of_ports_is_refused(ports):
    with pytest.raises(UsageError, match="udp_ports"):
        read_settings(udp_ports=ports)
    assert read_settings(udp_ports="50000-50100").udp_ports == (50000, 50100)


def test_the_device_inherits_the_environment_and_sleeps_while_it_waits(monkeypatch):
    monkeypatch.setenv("SOMETHING", "1")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    environment = device_environment()
    assert environment["SOMETHING"] == "1"
    assert environment["OMP_WAIT_POLICY"] == "passive"


def test_every_command_that_computes_waits_as_the_device_does_and_what_the_user_set_stands():
    """`avis bench` and `avis restore` spun where the device sleeps: three times its CPU on a busy machine."""
    ask = "from server.numerics import prepare; prepare(); import os; print(os.environ['OMP_WAIT_POLICY'])"

    def policy(**given):
        known = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        ran = subprocess.run([sys.executable, "-c", ask], env={**known, **given}, capture_output=True, text=True)
        return ran.stdout.strip()

    assert policy() == NUMERICS["OMP_WAIT_POLICY"]
    assert policy(OMP_WAIT_POLICY="active") == "active"


def test_settings_of_the_model_come_from_file_and_command_line_and_reach_the_device(tmp_path):
    file = tmp_path / "avis.toml"
    file.write_text('model = "wan2.1-1.3b"\n[model_settings]\nwindow = 9\nsink = 3\n')
    settings = read_settings(file, model_settings={"window": "12"})
    assert worker_config(settings).options.model_settings == {"window": "12", "sink": 3}


@pytest.mark.parametrize(
    "told, sessions, offers",
    [
        ({}, None, 50),
        ({"host": "0.0.0.0", "open_to_all": True}, 4, 2),
        ({"host": "0.0.0.0", "open_to_all": True, "max_sessions": 1}, None, 2),
        ({"host": "0.0.0.0", "token": "t", "node": "a"}, None, 50),
        ({"host": "0.0.0.0", "token": "t", "sessions_each": 7, "offers_each": 9}, 7, 9),
    ],
)
def test_one_address_has_its_share_where_other_machines_reach_the_server(told, sessions, offers):
    settings = read_settings(**told)
    assert (settings.most_sessions_each, settings.most_offers_each) == (sessions, offers)


def test_a_folder_of_recordings_that_is_absent_is_said_to_be_wanted(tmp_path):
    """It read: Path does not point to a directory."""
    with pytest.raises(UsageError, match="setting recordings: expected an existing directory, found"):
        read_settings(recordings=str(tmp_path / "absent"))
