"""What may be said of a source, and that nothing which is told of it holds its address."""

import json

import pytest
from pydantic import SecretStr

from core.errors import UsageError
from server.cli import parse
from server.commands.flags import given
from server.settings import Settings, read_settings
from server.sources.config import session_config, shown, sources_of

SECRET = "hunter2"


def sources(source):
    settings = read_settings(source=source)
    return sources_of(settings), settings


def test_an_address_keeps_its_commas_and_the_options_follow_it():
    found, settings = sources(["cam=rtsp://u:p@host/a,b=c,operator=gaussian_blur,fps=12.5,start=always,transport=udp"])
    cam = found["cam"]
    assert cam.url == SecretStr("rtsp://u:p@host/a,b=c")
    assert (cam.start, cam.transport, cam.kind) == ("always", "udp", "live")
    config = session_config(cam, settings, {})
    assert (config.operator.kind, config.fps) == ("gaussian_blur", 12.5)


def test_an_operator_may_be_json_with_commas_and_equal_signs_of_its_own():
    found, settings = sources(['cam=x.mp4,operator={"kind": "gaussian_blur", "sigma": 2},size=128x96'])
    config = session_config(found["cam"], settings, {})
    assert (config.operator.sigma, config.size) == (2, (128, 96))


@pytest.mark.parametrize(
    "text",
    [
        'source = {cam = "a.mp4", door = {url = "rtsp://h/x", operator = "denoise"}}',
        '[source]\ncam = "a.mp4"\n[source.door]\nurl = "rtsp://h/x"\noperator = {kind = "denoise"}',
    ],
)
def test_a_file_of_settings_has_a_table_for_each(tmp_path, text):
    file = tmp_path / "avis.toml"
    file.write_text(text)
    found = sources_of(read_settings(file))
    assert {name: source.kind for name, source in found.items()} == {"cam": "file", "door": "live"}
    assert found["door"].session["operator"] == {"kind": "denoise"}


@pytest.mark.parametrize("text", ["cam=a.mp4\ndoor=srt://h:9", json.dumps({"cam": "a.mp4", "door": "srt://h:9"})])
def test_the_environment_has_a_line_for_each_or_json(monkeypatch, text):
    monkeypatch.setenv("AVIS_SOURCE", text)
    assert {name: source.kind for name, source in sources_of(read_settings()).items()} == {"cam": "file", "door": "srt"}


def test_the_option_may_be_repeated():
    args, _ = parse("serve", ["--source", "a=x.mp4", "--source", "b=whep://h/b"])
    settings = read_settings(**given(args, Settings))
    assert {name: source.kind for name, source in sources_of(settings).items()} == {"a": "file", "b": "whep"}


@pytest.mark.parametrize(
    "source, words",
    [
        ([f"rtsp://u:{SECRET}@h/x"], "expected NAME=ADDRESS"),
        ([f"a=rtsp://u:{SECRET}@h/x", "a=b"], "a name once each"),
        ([f"a b=rtsp://u:{SECRET}@h/x"], "a name of letters"),
        ([f"cam=ftp://u:{SECRET}@h/x"], "found ftp://"),
        ([f"cam=rtsp://u:{SECRET}@h/x,operator=nonsense"], "source cam: operator"),
        ([f"cam=rtsp://u:{SECRET}@h/x,operator={{"], "source cam: operator is not JSON"),
        ([f"cam=rtsp://u:{SECRET}@h/x,start=never"], "source cam: start"),
        ([f"cam=rtsp://u:{SECRET}@h/x,fps=0"], "source cam: fps"),
        ({"cam": {"url": f"rtsp://u:{SECRET}@h/x", "colour": 1}}, "source cam: colour: there is no such setting"),
        ({"cam": {"url": f"rtsp://u:{SECRET}@h/x", "session": {}}}, "session: there is no such setting"),
        ({"cam": {"operator": "denoise"}}, "source cam: url"),
        ({"cam": 7}, "expected an address or a table"),
        (f"{{rtsp://u:{SECRET}@h/x", "a JSON object"),
    ],
)
def test_a_wrong_source_is_named_in_one_sentence_without_its_address(source, words):
    with pytest.raises(UsageError, match=words) as refused:
        sources(source)
    assert SECRET not in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "url, place",
    [
        (f"rtsp://u:{SECRET}@cam.example:554/{SECRET}?token={SECRET}", "rtsp://cam.example:554"),
        (f"srt://h:9000?passphrase={SECRET}", "srt://h:9000"),
        (f"http://[::1]:8/{SECRET}.m3u8", "http://[::1]:8"),
        (f"rtsp://u:{SECRET}@h:port/x", "rtsp"),
        ("/videos/a.mp4", "a.mp4"),
        ("file:///videos/a.mp4", "a.mp4"),
        ("/dev/video0", "video0"),
    ],
)
def test_of_an_address_only_scheme_host_and_port_are_told(url, place):
    assert shown(url) == place


def test_a_source_does_not_print_its_address():
    found, _ = sources([f"cam=rtsp://u:{SECRET}@h/x,token={SECRET}"])
    assert SECRET not in repr(found) and SECRET not in str(found)
