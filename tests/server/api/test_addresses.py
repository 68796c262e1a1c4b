"""Whose request it is, whatever the header says."""

from ipaddress import ip_network

import pytest

from server.api.addresses import client_of

PROXY = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def test_nobody_is_believed_who_is_no_trusted_proxy():
    assert client_of("192.0.2.1", "198.51.100.7", ()) == "192.0.2.1"
    assert client_of("192.0.2.1", "198.51.100.7", PROXY) == "192.0.2.1"


def test_a_trusted_proxy_is_believed_as_far_as_it_saw():
    assert client_of("10.0.0.1", "198.51.100.7", PROXY) == "198.51.100.7"
    assert client_of("10.0.0.1", "198.51.100.7, 10.3.3.3", PROXY) == "198.51.100.7", "two proxies"
    assert client_of("10.0.0.1", "1.1.1.1, 198.51.100.7", PROXY) == "198.51.100.7", "the client wrote the first itself"
    assert client_of("fd00::1", "198.51.100.7", PROXY) == "198.51.100.7"


@pytest.mark.parametrize("forwarded", [None, "", "unknown", "<b>", "198.51.100.7:99", ",", "9" * 5000])
def test_what_is_no_address_is_not_taken_for_one(forwarded):
    assert client_of("10.0.0.1", forwarded, PROXY) == "10.0.0.1"


def test_all_addresses_of_one_ipv6_subscriber_are_one_client():
    assert client_of("2001:db8:1:2::5", None, ()) == client_of("2001:db8:1:2:ffff::", None, ()) == "2001:db8:1:2::/64"
    assert client_of("2001:db8:1:3::5", None, ()) != "2001:db8:1:2::/64"
    assert client_of("::ffff:192.0.2.1", None, ()) == "192.0.2.1"
    assert client_of(None, None, ()) == ""
