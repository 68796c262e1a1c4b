"""Who asks, and what they may use: one shared token, named tokens of a file, or JSON Web Tokens. Knows no HTTP."""

from __future__ import annotations

import hmac
import logging
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from core.config import Config
from core.errors import UsageError, explain

logger = logging.getLogger(__name__)

NAME = re.compile(r"[\w.@:-]{1,64}", re.A)
LEEWAY = 60.0
"""seconds by which the clock of whoever made a JSON Web Token may be wrong"""
CALLER_HEADER = "X-Avis-Caller"
"""in which a gateway tells a node who asks: it has asked for the token, the node has not seen it"""
SHARED = "shared"
"""the name of whoever shows the one token that all share"""
RELOAD = 1.0
"""seconds between two looks at the file of tokens"""


def check_digest(text: str) -> str:
    """Raises ValueError for what is no SHA-256 in hexadecimal."""
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ValueError("expected a SHA-256 of 64 hexadecimal digits, as sha256sum prints it")
    return text


class Limits(Config):
    """What one holder of a token may use. Unset is as much as the server gives anybody."""

    sessions: int | None = Field(None, ge=0, le=1000)
    """sessions at a time"""
    pixels: int | None = Field(None, ge=64 * 64, le=2**26)
    """most pixels of a restored frame"""
    rate: float | None = Field(None, ge=0.001, le=1000)
    """sessions that may be opened a second"""


class NamedToken(Limits):
    """A table of the file of tokens: what it is named is who holds the token."""

    sha256: Annotated[str, AfterValidator(check_digest)]
    """of the token, which is nowhere in the file"""


@dataclass(frozen=True)
class Caller:
    """Whose request it is."""

    name: str
    """empty for whoever reaches an open server"""
    limits: Limits = field(default_factory=Limits)


ANYBODY = Caller("")


class Keyring:
    """The named tokens of a TOML file, which is read again when it changes."""

    def __init__(self, path: Path):
        """Raises UsageError for a file that is no file of tokens."""
        self._path = path
        self._stamp = self._look()
        self._tokens = read_tokens(path)
        self._looked = float("-inf")

    def find(self, token: str, now: float) -> Caller | None:
        """Who holds the token, None for one that is not in the file."""
        self._refresh(now)
        digest = sha256(token.encode(errors="surrogateescape")).hexdigest()
        found = self._tokens.get(digest)  # of a hash: the time that the look-up takes tells nothing of any token
        return found

    def _refresh(self, now: float) -> None:
        """Reads a file that changed. One that is broken changes nothing, and says so in the log."""
        if now - self._looked < RELOAD:
            return
        self._looked = now
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._tokens = read_tokens(self._path)
            logger.info("read %d tokens from %s", len(self._tokens), self._path)
        except UsageError as error:
            logger.error("the tokens stay as they were: %s", error)

    def _look(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


def read_tokens(path: Path) -> dict[str, Caller]:
    """The holders of the tokens in a TOML file, by the SHA-256 of their token. Raises UsageError."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the tokens {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the tokens {path} are not TOML: {error}") from error
    callers: dict[str, Caller] = {}
    for name, table in tables.items():
        if not NAME.fullmatch(name):
            raise UsageError(f"tokens {path}: a name has 1 to 64 letters, digits and ._@:-, not {name[:70]!r}")
        token = _named_token(path, name, table)
        if token.sha256 in callers:
            raise UsageError(f"tokens {path}: {callers[token.sha256].name} and {name} have the same token")
        callers[token.sha256] = Caller(name, Limits(**token.model_dump(include=set(Limits.model_fields))))
    return callers


def _named_token(path: Path, name: str, table: Any) -> NamedToken:
    try:
        return NamedToken.model_validate(table)
    except ValidationError as error:
        raise UsageError(f"tokens {path}: {name}.{explain(error)}") from error


@dataclass(frozen=True)
class JwtChecker:
    """Reads JSON Web Tokens (RFC 7519) that one issuer signed: `sub` is who holds it, `exp` must be there.

    The claims `sessions`, `pixels` and `rate` are limits, as in the file of tokens.
    """

    key: str
    """the shared secret of HS256, or the public key of RS256 in PEM"""
    algorithm: str
    issuer: str | None = None
    audience: str | None = None

    @classmethod
    def of(
        cls, secret: str | None, public_key: Path | None, issuer: str | None, audience: str | None
    ) -> JwtChecker | None:
        """A checker of what the settings name, None where they name nothing. Raises UsageError for a wrong key."""
        if secret is None and public_key is None:
            return None
        try:
            import jwt
        except ImportError as error:
            raise UsageError('JSON Web Tokens need PyJWT: pip install "avis-server[auth]"') from error
        if public_key is None:
            return cls(secret or "", "HS256", issuer, audience)
        try:
            key = public_key.read_text(encoding="ascii")
            jwt.get_algorithm_by_name("RS256").prepare_key(key)
        except (OSError, ValueError, jwt.PyJWTError) as error:
            raise UsageError(f"{public_key} holds no public key in PEM: {error}") from error
        return cls(key, "RS256", issuer, audience)

    def find(self, token: str) -> Caller | None:
        """Who holds the token, None for one that is not signed by this key, has ended, or is for somebody else."""
        import jwt

        try:
            claims = jwt.decode(
                token,
                self.key,
                algorithms=[self.algorithm],
                issuer=self.issuer,
                audience=self.audience,
                leeway=LEEWAY,
                options={"require": ["exp", "sub"], "verify_aud": self.audience is not None},
            )
            return caller_of(claims)
        except (jwt.PyJWTError, ValidationError, UnicodeError):
            return None


def caller_of(claims: Mapping[str, Any]) -> Caller | None:
    """Who a signed set of claims names, and their limits. Raises ValidationError for limits that are none."""
    subject = claims.get("sub")
    if not isinstance(subject, str) or not NAME.fullmatch(subject):
        return None
    limits = Limits.model_validate({name: claims[name] for name in Limits.model_fields if name in claims}, strict=True)
    return Caller(subject, limits)


class ToldCaller(Limits):
    """A caller, as a gateway tells a node."""

    name: str = Field(pattern=NAME.pattern)


def tell_caller(caller: Caller) -> str:
    """The header in which a gateway tells a node who asks."""
    return ToldCaller(name=caller.name, **caller.limits.model_dump()).model_dump_json(exclude_none=True)


def told_caller(header: str | None) -> Caller | None:
    """Who asks, as a gateway told it; None where it told nothing, or nothing that could be read."""
    try:
        told = ToldCaller.model_validate_json(header or "")
    except ValidationError:
        return None
    return Caller(told.name, Limits(**told.model_dump(include=set(Limits.model_fields))))


@dataclass(frozen=True)
class Doorkeeper:
    """All the ways in which a client may say who it is."""

    token: str | None = None
    """one token that everybody shares"""
    keyring: Keyring | None = None
    jwt: JwtChecker | None = None

    @property
    def asks(self) -> bool:
        """Whether anybody is asked for a token at all."""
        return (self.token, self.keyring, self.jwt) != (None, None, None)

    def find(self, authorization: str, now: float) -> Caller | None:
        """Whose request has this Authorization header; None for one that may not come in."""
        if not self.asks:
            return ANYBODY
        scheme, _, shown = authorization.partition(" ")
        shown = shown.strip()
        if scheme.lower() != "bearer" or not shown:
            return None
        if self.token is not None and same(shown, self.token):
            return Caller(SHARED)
        found = self.keyring.find(shown, now) if self.keyring is not None else None
        return found or (self.jwt.find(shown) if self.jwt is not None else None)


def same(shown: str, token: str) -> bool:
    """Whether two tokens are one, told in the same time whatever was shown."""
    return hmac.compare_digest(shown.encode(errors="surrogateescape"), token.encode())
