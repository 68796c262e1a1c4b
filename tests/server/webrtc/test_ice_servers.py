"""Clients are told ICE servers with credentials that end."""

import base64
import hashlib
import hmac

from server.sessions.negotiation import rtc_config
from server.settings import read_settings
from server.webrtc.ice_servers import ice_servers


def test_credentials_are_made_from_the_secret_and_carry_their_end():
    settings = read_settings(ice_servers=("turn:a.example:3478?transport=udp",), ice_secret="north")
    (server,) = ice_servers(settings, now=1000.0)
    assert server.username == "4600:avis"
    expected = hmac.new(b"north", b"4600:avis", hashlib.sha1).digest()
    assert base64.b64decode(server.credential) == expected


def test_the_server_itself_logs_in_with_the_secret_too():
    settings = read_settings(ice_servers=("turn:a.example",), ice_secret="north", ice_username="me")
    config = rtc_config(settings, 16.0)
    assert config.ice_username.endswith(":me") and len(base64.b64decode(config.ice_credential)) == 20


def test_a_turn_server_is_linked_with_its_login_and_a_stun_server_without():
    servers = "stun:a.example", "turn:b.example"
    stun, turn = ice_servers(read_settings(ice_servers=servers, ice_username='u"x', ice_credential="p"), now=0.0)
    assert stun.link() == '<stun:a.example>; rel="ice-server"'
    assert turn.link() == (
        '<turn:b.example>; rel="ice-server"; username="u\\"x"; credential="p"; credential-type="password"'
    )
    assert stun.as_dict() == {"urls": "stun:a.example"}
    assert turn.as_dict() == {"urls": "turn:b.example", "username": 'u"x', "credential": "p"}
