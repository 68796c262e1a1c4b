"""How the settings bound what a client's offer may ask for."""

import pytest

from server.sessions.negotiation import rtc_config, sdp_limits
from server.settings import read_settings


@pytest.mark.parametrize(
    "settings, private",
    [
        ({"bind": ("192.168.1.7",)}, True),
        ({"bind": ("192.168.1.7", "2a00:1450::1")}, True),
        ({"bind": ("192.168.1.7", "8.8.4.4")}, False),
        ({"bind": ("10.0.0.7",), "public_ip": "8.8.4.4"}, False),
        ({"bind": ("10.0.0.7",), "public_ip": "8.8.4.4", "private_peers": True}, True),
        ({"bind": ("192.168.1.7",), "private_peers": False}, False),
        ({"bind": ("10.0.0.7",), "public_ip": "127.0.0.1"}, True),
        ({"bind": ("10.0.0.7",), "public_ip": "192.168.1.7"}, True),
    ],
)
def test_a_public_server_sends_nothing_to_private_addresses_unless_it_is_told_to(settings, private):
    """A client had the server send to any address of the network that it stands in."""
    found = read_settings(**settings)
    assert sdp_limits(found).allow_private is private


@pytest.mark.parametrize("private_peers, learnt", [(None, True), (True, True), (False, False)])
def test_a_client_behind_a_bridge_is_answered_unless_that_is_forbidden(private_peers, learnt):
    """In a container each client has the private address of the bridge, also where the server has a public one."""
    found = read_settings(public_ip="8.8.4.4", private_peers=private_peers)
    assert rtc_config(found, 16).limits.allow_private is learnt


def test_every_address_that_media_is_bound_to_counts(monkeypatch):
    for addresses, private in ((["10.0.0.7"], True), (["10.0.0.7", "8.8.4.4"], False), ([], True)):
        monkeypatch.setattr("aioice.ice.get_host_addresses", lambda use_ipv4, use_ipv6, found=addresses: found)
        assert sdp_limits(read_settings()).allow_private is private
