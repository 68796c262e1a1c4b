"""Ed25519 keys that sign certificates: from a PEM file, or one that is made once for a user. Knows no certificate."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from core.errors import UsageError
from server.files.paths import named

FOLDER = Path.home() / ".local" / "state" / "avis"
"""where the user's own key lies"""
PRIVATE, PUBLIC = "certificate-key.pem", "certificate-key.pub.pem"
LARGEST = 1 << 16
"""bytes of a PEM file at most"""


def signing_key(path: Path | None, folder: Path | None = None) -> Ed25519PrivateKey:
    """The key in the PEM file `path`, or the user's own in `folder`, made if there is none. Raises UsageError."""
    return read_private(path) if path is not None else own_key(folder or FOLDER)


def read_private(path: Path) -> Ed25519PrivateKey:
    data = contents(path)
    try:
        found = load_pem_private_key(data, password=None)
    except TypeError as error:
        raise UsageError(f"expected a key without a password in {named(path)}, found an encrypted one") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"expected an Ed25519 private key in PEM in {named(path)}, found none") from error
    if not isinstance(found, Ed25519PrivateKey):
        raise UsageError(f"expected an Ed25519 private key in {named(path)}, found a key of another kind")
    return found


def read_public(path: Path) -> Ed25519PublicKey:
    """The public key in a PEM file. A private one is refused: it has no place where certificates are checked."""
    data = contents(path)
    if b"PRIVATE KEY" in data:
        raise UsageError(f"expected a public key in {named(path)}, found a private one, which only its owner needs")
    try:
        found = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"expected an Ed25519 public key in PEM in {named(path)}, found none") from error
    if not isinstance(found, Ed25519PublicKey):
        raise UsageError(f"expected an Ed25519 public key in {named(path)}, found a key of another kind")
    return found


def own_key(folder: Path) -> Ed25519PrivateKey:
    """The key in `folder`. The first call makes it, readable by its owner alone, and its public half beside it."""
    path = folder / PRIVATE
    if path.exists():
        return read_private(path)
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    part = folder / f".{PRIVATE}-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
        try:
            os.link(part, path)
        except FileExistsError:  # another process was faster: its key is the key
            return read_private(path)
        finally:
            part.unlink()
        (folder / PUBLIC).write_bytes(public_pem(key.public_key()))
    except OSError as error:
        raise UsageError(
            f"cannot make a key in {named(folder)}: {error.strerror}; --certificate-key names one"
        ) from error
    return key


def raw(key: Ed25519PublicKey) -> str:
    """The 32 bytes of a public key, as certificates show them."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def contents(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"expected a PEM file with a key, found {named(path)}: {reason}") from error
