"""Who reaches a server or a gateway, by what names, and what each may ask of it: settings that both of them have."""

from __future__ import annotations

from pydantic import Field, FilePath, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.errors import UsageError
from server.values import Hosts, Networks, is_loopback

OFFERS, OFFERS_NEAR = 2.0, 50.0
"""offers of one address a second, where no setting says how many"""


class Exposure(BaseSettings):
    """What whoever listens on an address has to be told."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    host: str = "127.0.0.1"
    """address that it listens on"""
    public_host: Hosts = ()
    """names, beside localhost and plain addresses, by which browsers may call the server, as in avis.example"""
    open_to_all: bool = False
    """let anybody in who reaches an address that other machines reach, although nobody is asked for a token"""
    max_connections: int = Field(256, ge=4, le=65536)
    """HTTP connections at a time; no more than a quarter of the files that the system lets the server open"""
    connections_each: int = Field(32, ge=1, le=65536)
    """of them, those of one address; this machine and trusted proxies have no limit of their own"""
    head_timeout: float = Field(10.0, gt=0, le=600)
    """seconds in which a new connection must have sent its first request"""
    keepalive_timeout: float = Field(30.0, gt=0, le=3600)
    """seconds that a connection may stay open without a request"""

    token: str | None = Field(None, min_length=1)
    """what clients must show as `Authorization: Bearer`, and the page as `#token=...` at the end of its address; unset
    lets everybody in"""
    tokens: FilePath | None = None
    """TOML file of named tokens, each with limits of its own, by the SHA-256 of each; a change counts at once"""
    jwt_secret: str | None = Field(None, min_length=32)
    """secret that JSON Web Tokens are signed with (HS256)"""
    jwt_public_key: FilePath | None = None
    """PEM file of the public key for JSON Web Tokens (RS256)"""
    jwt_issuer: str | None = Field(None, min_length=1)
    """who must have issued a JSON Web Token (claim iss); unset asks for nobody"""
    jwt_audience: str | None = Field(None, min_length=1)
    """for whom a JSON Web Token must be (claim aud); unset asks for nobody"""
    trusted_proxies: Networks = ()
    """addresses or networks of proxies whose X-Forwarded-For says who asks; unset believes nobody's"""
    offers_each: float | None = Field(None, ge=0.01, le=1000)
    """offers that one address may send a second, twice as many at once; unset is 2 where other machines reach the
    server, and 50 on this machine alone and on a node of a cluster"""

    @model_validator(mode="after")
    def _has_one_key(self) -> Exposure:
        if self.jwt_secret is not None and self.jwt_public_key is not None:
            raise ValueError("jwt_secret and jwt_public_key exclude each other")
        return self

    @property
    def is_near(self) -> bool:
        """Whether its clients are programs of this machine."""
        return is_loopback(self.host)

    @property
    def most_offers_each(self) -> float:
        """Offers of one address a second."""
        return self.offers_each or (OFFERS_NEAR if self.is_near else OFFERS)

    @property
    def asks_for_a_token(self) -> bool:
        """Whether clients must show a token of any kind."""
        return any(way is not None for way in (self.token, self.tokens, self.jwt_secret, self.jwt_public_key))

    def check_exposure(self) -> None:
        """Raises UsageError where whoever reaches the server could use it, unless it was told to let everybody in."""
        if not (is_loopback(self.host) or self.asks_for_a_token or self.open_to_all):
            raise UsageError(
                f"other machines reach {self.host}: set {self.model_config['env_prefix']}TOKEN (or tokens, jwt_secret, "
                "jwt_public_key), or open_to_all to let everybody in"
            )
