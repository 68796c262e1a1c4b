"""Clients are told ICE servers with credentials that end."""

import base64
import hashlib
import hmac

from server.ice import ice_servers


def test_credentials_are_made_from_the_secret_and_carry_their_end():
    (server,) = ice_servers(("turn:a.example:3478?transport=udp",), None, None, "north", now=1000.0)
    assert server.username == "87400:avis"
    expected = hmac.new(b"north", b"87400:avis", hashlib.sha1).digest()
    assert base64.b64decode(server.credential) == expected


def test_a_turn_server_is_linked_with_its_login_and_a_stun_server_without():
    stun, turn = ice_servers(("stun:a.example", "turn:b.example"), 'u"x', "p", None, now=0.0)
    assert stun.link() == '<stun:a.example>; rel="ice-server"'
    assert turn.link() == (
        '<turn:b.example>; rel="ice-server"; username="u\\"x"; credential="p"; credential-type="password"'
    )
    assert stun.as_dict() == {"urls": "stun:a.example"}
    assert turn.as_dict() == {"urls": "turn:b.example", "username": 'u"x', "credential": "p"}
