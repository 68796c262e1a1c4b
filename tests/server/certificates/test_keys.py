import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from core.errors import UsageError
from server.certificates.keys import PRIVATE, PUBLIC, public_pem, raw, read_private, read_public, signing_key

EXAMPLE = """-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
"""


def pem(key, encryption=None):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def test_a_user_s_key_is_made_once_and_is_theirs_alone(tmp_path):
    folder = tmp_path / "state" / "avis"
    made = signing_key(None, folder)
    again = signing_key(None, folder)
    assert raw(made.public_key()) == raw(again.public_key()) == raw(read_public(folder / PUBLIC))
    assert stat.S_IMODE((folder / PRIVATE).stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.iterdir()) == sorted((PRIVATE, PUBLIC))


def test_the_key_of_the_standards_example_is_taken(tmp_path):
    """RFC 8410, 10.3: what openssl writes has the same form."""
    path = tmp_path / "key.pem"
    path.write_text(EXAMPLE)
    assert raw(signing_key(path).public_key()) == "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1"


def test_what_is_no_key_is_told_from_one(tmp_path):
    key, path = Ed25519PrivateKey.generate(), tmp_path / "key.pem"
    cases = [
        (read_private, b"", "found none"),
        (read_private, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "found none"),
        (read_private, public_pem(key.public_key()), "found none"),
        (read_private, pem(key, BestAvailableEncryption(b"secret")), "found an encrypted one"),
        (read_private, pem(generate_private_key(SECP256R1())), "a key of another kind"),
        (read_public, b"nothing", "found none"),
        (read_public, pem(key), "found a private one"),
        (read_public, public_pem(generate_private_key(SECP256R1()).public_key()), "a key of another kind"),
    ]
    for reader, data, why in cases:
        path.write_bytes(data)
        with pytest.raises(UsageError, match=why):
            reader(path)
    with pytest.raises(UsageError, match="No such file"):
        read_private(tmp_path / "absent.pem")
