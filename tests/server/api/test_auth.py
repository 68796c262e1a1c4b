"""Who may come in, and with which limits."""

import base64
import json
import os
import time
from hashlib import sha256

import pytest

from core.errors import UsageError
from server.api.auth import ANYBODY, Caller, Doorkeeper, JwtChecker, Keyring, Limits, read_tokens

jwt = pytest.importorskip("jwt")

SECRET = "a secret of at least thirty-two bytes, as HS256 wants it"


def digest(token):
    return sha256(token.encode()).hexdigest()


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "tokens.toml"
    path.write_text(
        f'[camera]\nsha256 = "{digest("one")}"\nsessions = 2\npixels = 99840\nrate = 0.5\n'
        f'[lab]\nsha256 = "{digest("two")}"\n'
    )
    return path


def touch(path, text):
    path.write_text(text)
    os.utime(path, ns=(time.time_ns(), time.time_ns()))


def test_a_token_of_the_file_names_who_holds_it_and_the_limits(tokens):
    doorkeeper = Doorkeeper(keyring=Keyring(tokens))
    assert doorkeeper.find("Bearer one", 0.0) == Caller("camera", Limits(sessions=2, pixels=99840, rate=0.5))
    assert doorkeeper.find("bearer  two ", 0.0) == Caller("lab", Limits())
    for wrong in (
        "",
        "Bearer",
        "Bearer ",
        "Bearer three",
        "Basic one",
        "one",
        f"Bearer {digest('one')}",
        "Bearer \udcff",
    ):
        assert doorkeeper.find(wrong, 0.0) is None, wrong


def test_the_file_holds_no_token(tokens):
    assert "one" not in tokens.read_text()


def test_a_change_of_the_file_counts_within_a_second_and_a_broken_one_changes_nothing(tokens):
    keyring = Keyring(tokens)
    assert keyring.find("three", 0.0) is None
    touch(tokens, f'[new]\nsha256 = "{digest("three")}"\n')
    assert keyring.find("three", 2.0) == Caller("new")
    assert keyring.find("one", 2.0) is None, "a token that was taken out of the file opened the door"
    for broken in ("[new", f'[new]\nsha256 = "{digest("three")}"\nsesions = 1\n', "x = 1\n"):
        touch(tokens, broken)
        assert keyring.find("three", time.monotonic()) == Caller("new")
    tokens.unlink()
    assert keyring.find("three", time.monotonic() + 100) == Caller("new")


@pytest.mark.parametrize(
    "text, word",
    [
        ("[a", "not TOML"),
        ("a = 1", "a."),
        ('[a]\nsha256 = "one"', "64 hexadecimal"),
        ("[a]\nsessions = 1", "sha256"),
        (f'[a]\nsha256 = "{digest("x")}"\nsessions = -1', "a.sessions"),
        (f'[a]\nsha256 = "{digest("x")}"\nrate = inf', "a.rate"),
        (f'["a b"]\nsha256 = "{digest("x")}"', "a name"),
        (f'[a]\nsha256 = "{digest("x")}"\n[b]\nsha256 = "{digest("x")}"', "same token"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(tmp_path, text, word):
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=word) as refused:
        read_tokens(path)
    assert "\n" not in str(refused.value)
    with pytest.raises(UsageError, match="cannot read"):
        read_tokens(tmp_path / "nowhere")


def test_an_open_server_asks_nobody_and_a_shared_token_is_one_of_the_ways(tokens):
    assert Doorkeeper().find("", 0.0) == ANYBODY
    both = Doorkeeper("shared secret", Keyring(tokens))
    assert both.find("Bearer shared secret", 0.0) == Caller("shared")
    assert both.find("Bearer one", 0.0).name == "camera"
    assert both.find("Bearer shared", 0.0) is None


def signed(key=SECRET, algorithm="HS256", **claims):
    claims = {"sub": "ann", "exp": time.time() + 300, **claims}
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, key, algorithm)


def test_a_signed_token_names_its_subject_and_its_limits():
    doorkeeper = Doorkeeper(jwt=JwtChecker(SECRET, "HS256"))
    assert doorkeeper.find(f"Bearer {signed()}", 0.0) == Caller("ann")
    token = signed(sessions=1, pixels=8192, rate=2)
    assert doorkeeper.find(f"Bearer {token}", 0.0) == Caller("ann", Limits(sessions=1, pixels=8192, rate=2))
    assert doorkeeper.find(f"Bearer {signed(exp=time.time() - 30)}", 0.0), "clocks differ by a minute at most"


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": None},
        {"sub": None},
        {"sub": "a b"},
        {"sub": "x" * 65},
        {"exp": 1},
        {"nbf": time.time() + 3600},
        {"sessions": -1},
        {"sessions": True},
        {"sessions": "9"},
        {"pixels": 10**400},
        {"rate": "many"},
    ],
)
def test_a_signed_token_with_claims_that_are_none_opens_nothing(claims):
    assert JwtChecker(SECRET, "HS256").find(signed(**claims)) is None


def test_nobody_signs_but_the_holder_of_the_key():
    checker = JwtChecker(SECRET, "HS256", issuer="us", audience="avis")
    assert checker.find(signed(iss="us", aud="avis")).name == "ann"
    assert checker.find(signed(iss="them", aud="avis")) is None
    assert checker.find(signed(iss="us", aud="other")) is None
    assert checker.find(signed(iss="us")) is None
    assert checker.find(signed(key="another secret of at least thirty-two bytes", iss="us", aud="avis")) is None
    head, body, _ = signed(iss="us", aud="avis").split(".")
    none = base64.urlsafe_b64encode(json.dumps({"alg": "none", "typ": "JWT"}).encode()).rstrip(b"=").decode()
    for forged in (f"{none}.{body}.", f"{head}.{body}.", f"{head}.{body}", "a.b.c", "...", "\udcff", "x" * 10_000):
        assert checker.find(forged) is None, forged


def test_a_public_key_reads_what_its_private_key_signed_and_is_no_shared_secret():
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = (
        private.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )
    checker = JwtChecker(public, "RS256")
    assert checker.find(signed(key=private, algorithm="RS256")).name == "ann"
    assert checker.find(signed()) is None
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
    import hmac

    body = signed().split(".")[1].encode()
    mac = hmac.digest(public.encode(), head + b"." + body, "sha256")
    forged = b".".join([head, body, base64.urlsafe_b64encode(mac).rstrip(b"=")]).decode()
    assert checker.find(forged) is None, "the public key was taken for a secret"
