"""Whose page may ask, told from two headers."""

import pytest

from server.api.origins import host_of, is_known_host, is_own_origin
from server.values import is_loopback

OURS = [
    "localhost",
    "localhost:8080",
    "LOCALHOST",
    "127.0.0.1:8080",
    "[::1]:8080",
    "[::1]",
    "192.168.1.5:8080",
    "10.0.0.1",
]
PUBLIC = ["avis.example", "avis.example:8443", "AVIS.example", "avis.example."]
FOREIGN = [
    "evil.example",
    "evil.example:8080",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "avis.example.evil",
    "",
]
BROKEN = [
    "localhost:x",
    "a@localhost",
    "localhost/x",
    "localhost?x",
    "localhost#x",
    "[::1",
    "local host",
    "localhost:",
    "\xe9",
]


@pytest.mark.parametrize("host", OURS + PUBLIC)
def test_the_server_knows_its_names(host):
    assert is_known_host([host], {"avis.example"})


@pytest.mark.parametrize("host", FOREIGN + BROKEN)
def test_no_other_name_is_the_server(host):
    assert not is_known_host([host], {"avis.example"})


def test_a_name_is_ours_only_where_it_was_named():
    assert not is_known_host(["avis.example"], set())
    assert is_known_host([], set()), "a client without the header is no browser"
    assert not is_known_host(["localhost", "evil.example"], set())


@pytest.mark.parametrize(
    "origin, host",
    [
        ("http://localhost:8080", "localhost:8080"),
        ("https://avis.example", "avis.example"),
        ("https://AVIS.example", "avis.EXAMPLE"),
        ("https://avis.example", "127.0.0.1:8080"),
        ("http://[::1]:8080", "[::1]:8080"),
    ],
)
def test_a_page_of_ours_may_ask(origin, host):
    assert is_own_origin(origin, host, {"avis.example"})


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "https://evil.example",
        "http://localhost:3000",
        "http://localhost",
        "file://",
        "localhost:8080",
        "https://avis.example.evil",
        "https://avis.example:444",
        "chrome-extension://localhost:8080",
        "http://localhost:8080/x",
    ],
)
def test_no_other_page_may(origin):
    assert not is_own_origin(origin, "localhost:8080", {"avis.example"})


def test_loopback_is_told_by_name_and_address():
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.8.9.1", "::1"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.168.0.1", "example.org", ""]))


def test_a_host_is_read_without_its_port():
    assert host_of("Example.ORG:80") == "example.org"
    assert host_of("[::1]:80") == "::1"
