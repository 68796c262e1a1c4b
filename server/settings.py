"""Everything the server can be told, in one frozen object. The only file that reads the environment."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, DirectoryPath, Field, FilePath, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from core.errors import UsageError, explain
from server.exposure import Exposure
from server.numerics import NUMERICS
from server.values import (
    Address,
    Addresses,
    Devices,
    Named,
    Ports,
    Texts,
    WarmSizes,
    check_ice_servers,
    is_loopback,
    named,
)

PLAYERS_PER_PROCESSOR, PLAYERS_EACH = 16, 8
"""players in all and of one address, where no setting says how many"""


class Settings(Exposure):
    """Later sources win: defaults, the TOML file, AVIS_* of the environment, the command line."""

    model_config = SettingsConfigDict(
        env_prefix="AVIS_", extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    port: int = Field(8080, ge=0, le=65535)
    """port of the HTTP server; 0 takes a free one"""

    admin_port: int | None = Field(None, ge=0, le=65535)
    """port of `GET /metrics`, for operators; unset serves none, 0 takes a free one"""
    admin_host: str = "127.0.0.1"
    """address that the admin port listens on: nobody is asked for a token there"""

    node: str = Field("", pattern=r"^([a-z0-9][a-z0-9-]{0,31})?$")
    """name of this server as a node of a cluster: a to z, 0 to 9 and dashes, 32 at most. It begins every session's id,
    and lets gateways ask for its state and drain it; empty on a server that stands alone"""

    model: str = "tiny"
    """name of the model that restores, as `avis doctor` lists them"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    devices: Devices = ()
    """several devices, as in cuda:0,cuda:1, with a process each; a session lives on one and moves when that is lost"""
    weights: Literal["pretrained", "random"] = "pretrained"
    """pretrained, or random to try a model without its weights"""
    codec: str | None = None
    """the video codec of a model that has several; unset takes its default"""
    model_settings: dict[str, Any] = Field(default_factory=dict)
    """a table of settings of the model itself; on the command line `--model.KEY VALUE`"""
    threads: int = Field(0, ge=0, le=1024)
    """CPU threads of the device process; 0 leaves it to torch"""
    warm_sizes: WarmSizes = ()
    """restored sizes that are warmed up and timed before the first session; unset takes the model's own"""
    solver: dict[str, Any] = Field(default_factory=dict)
    """a table of solver settings for sessions that name none; on the command line `--solver.KEY VALUE`"""

    recordings: Annotated[DirectoryPath, BeforeValidator(named)] | None = None
    """existing directory in which sessions may have themselves recorded; unset records nothing"""
    certificate_key: Annotated[FilePath, BeforeValidator(named)] | None = None
    """PEM file of the Ed25519 private key that signs a certificate of each recording; unset certifies none"""
    max_players: int = Field(16, ge=1, le=1000)
    """players of one published stream"""
    players_most: int | None = Field(None, ge=1, le=10_000)
    """players of all streams together; unset is 16 for each processor, since their packets take its time"""
    players_each: int | None = Field(None, ge=1, le=10_000)
    """of them, those of one address; unset is 8 where other machines reach the server, else there is no limit"""
    max_sessions: int = Field(8, ge=1, le=1000)
    """sessions at a time, whatever the device could carry"""
    admission: Literal["measured", "places"] = "measured"
    """measured: a session opens while the device has the time for all at full quality; places: while there is a
    place, and all go down the quality ladder together"""
    sessions_each: int | None = Field(None, ge=1, le=1000)
    """sessions at a time of one address; unset is half of max_sessions where other machines reach the server, and no
    limit on this machine alone or on a node of a cluster. Behind a proxy, name it in trusted_proxies"""
    queue_most: int = Field(32, ge=0, le=1000)
    """refused clients that may wait in line for a place"""
    queue_each: int = Field(4, ge=1, le=1000)
    """of them, those of one address"""
    queue_patience: float = Field(15.0, gt=0, le=3600)
    """seconds after which a client that waits and does not ask again loses its place in line"""
    fps: float = Field(16.0, ge=1, le=60)
    """frames per second of a session that names no rate"""
    max_fps: float = Field(30.0, ge=1, le=60)
    """most frames per second that a session may ask for"""
    min_side: int = Field(64, ge=16, le=16384)
    """shortest side of a restored frame, in pixels"""
    max_pixels: int = Field(832 * 480, ge=64 * 64, le=2**26)
    """most pixels of a restored frame"""
    max_input_pixels: int = Field(1920 * 1088, ge=64 * 64, le=2**26)
    """larger pictures that come in are not decoded"""
    max_body: int = Field(256 * 1024, ge=1024, le=2**26)
    """most bytes of a request; a drawn mask is the largest thing in it"""

    source: Named = Field(default_factory=dict)
    """streams that the server fetches itself, by name: NAME=ADDRESS,KEY=VALUE,..., or a table (docs/cameras.md)"""
    push: Named = Field(default_factory=dict)
    """streams that are pushed to other servers by WHIP, by name, written in the same way"""
    push_token: str | None = Field(None, min_length=1)
    """token that a push shows to the other server as `Authorization: Bearer`, where it names none of its own"""

    latency_budget: float = Field(1.0, gt=0, le=30)
    """seconds from a chunk's last frame to the first of its restored frames that the quality ladder holds"""
    backlog: int = Field(2, ge=1, le=8)
    """chunks of one session that may wait for the device"""
    preroll: float = Field(0.1, ge=0, le=2)
    """seconds of restored video kept in hand against jitter"""

    offer_timeout: float = Field(5.0, gt=0, le=60)
    """seconds that negotiating an offer may take"""
    connect_timeout: float = Field(10.0, gt=0, le=600)
    """seconds from the answer to the connection"""
    first_frame_timeout: float = Field(5.0, gt=0, le=600)
    """seconds from a connected peer to its first frame"""
    idle_pause: float = Field(2.0, gt=0, le=600)
    """seconds without a frame after which the next one starts a new stream"""
    idle_timeout: float = Field(10.0, gt=0, le=3600)
    """seconds without a frame after which a session is closed"""
    max_session_time: float = Field(0.0, ge=0, le=10**7)
    """seconds after which a session is closed; 0 never does"""
    drain_patience: float = Field(0.0, ge=0, le=86_400)
    """seconds after SIGTERM in which open sessions may go on and none is opened; a second signal ends them at once"""
    drain_timeout: float = Field(3.0, gt=0, le=4)
    """seconds that closing all sessions may take when the server ends"""

    load_timeout: float = Field(600.0, gt=0, le=86400)
    """seconds in which the device process must have its model loaded and warm"""
    step_timeout: float = Field(30.0, gt=0, le=86400)
    """seconds a chunk may take at most; a device that has shown its pace is given less"""
    max_restarts: int = Field(5, ge=0, le=1000)
    """restarts of the device process in a row, without one restored chunk between, before giving up"""

    ice_servers: Annotated[Texts, AfterValidator(check_ice_servers)] = ()
    """URLs of STUN and TURN servers; none are asked unless named here"""
    ice_username: str | None = None
    """user of the TURN servers"""
    ice_credential: str | None = None
    """password of the TURN servers"""
    ice_secret: str | None = None
    """secret shared with the TURN servers: clients are told credentials made from it, valid for an hour"""
    ice_relay: bool = False
    """media goes through the TURN servers only, for a server that no client reaches directly"""
    bind: Addresses = ()
    """local addresses for media; none means every address of the machine but loopback"""
    udp_ports: Ports | None = None
    """first and last local UDP port for media, as in 50000-50100; unset leaves the choice to the system"""
    private_peers: bool | None = None
    """whether clients may name private addresses (RFC 1918, unique local), to which the server then sends connectivity
    checks; unset allows it unless the server has a public address: public_ip, or an IPv4 address of its media.
    False also ignores checks that come from private addresses"""
    public_ip: Address | None = None
    """address to name in candidates when a 1:1 NAT stands before the server"""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """least severity that is logged: debug, info, warning or error"""
    log_format: Literal["console", "json"] = "console"
    """console for people, or json: one object a line, with the request and the session it belongs to"""
    trace_endpoint: str | None = Field(None, pattern="^https?://", max_length=2000)
    """URL of an OpenTelemetry collector (OTLP over HTTP, as in http://127.0.0.1:4318/v1/traces) that gets a trace of
    each chunk; needs the extra trace"""
    trace_share: float = Field(1.0, ge=0, le=1)
    """share of the chunks that is traced"""

    @model_validator(mode="after")
    def _serves_somebody(self) -> Settings:
        """Refuses what would refuse every session later."""
        if self.fps > self.max_fps:
            raise ValueError(f"fps, {self.fps:g}, is above max_fps, {self.max_fps:g}")
        if self.min_side**2 > self.max_pixels:
            raise ValueError(f"a square of min_side, {self.min_side}, has more than max_pixels, {self.max_pixels}")
        if self.node and self.asks_for_a_token and self.token is None:
            raise ValueError("a node of a cluster needs token, by which it knows its gateways")
        if self.ice_relay and not any(url.startswith("turn") for url in self.ice_servers):
            raise ValueError("ice_relay needs a TURN server among ice_servers")
        return self

    @property
    def is_near(self) -> bool:
        """Whether its clients are programs of this machine, or gateways, who speak for many."""
        return is_loopback(self.host) or bool(self.node)

    @property
    def most_players(self) -> int:
        """Players of all streams together."""
        return self.players_most or PLAYERS_PER_PROCESSOR * (os.cpu_count() or 1)

    @property
    def most_players_each(self) -> int | None:
        """Players of one address; None is as many as there may be."""
        return self.players_each or (None if self.is_near else PLAYERS_EACH)

    @property
    def most_sessions_each(self) -> int | None:
        """Sessions at a time of one address; None is as many as there may be."""
        if self.sessions_each is not None or self.is_near or self.max_sessions == 1:
            return self.sessions_each
        return self.max_sessions // 2

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, FileSource(settings_cls, init_settings)


class FileSource(PydanticBaseSettingsSource):
    """The values of the TOML file, which `read_settings` hands over under a name that is no setting."""

    KEY = "_file"

    def __init__(self, settings_cls: type[BaseSettings], init: PydanticBaseSettingsSource):
        super().__init__(settings_cls)
        self._values: dict[str, Any] = getattr(init, "init_kwargs", {}).pop(self.KEY, {})

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self._values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self._values


def read_settings(config: Path | None = None, **overrides: Any) -> Settings:
    """The settings of this run. Raises UsageError with one sentence that names the wrong value."""
    try:
        return Settings(**{FileSource.KEY: _read_toml(config), **overrides})
    except ValidationError as error:
        raise UsageError(f"setting {explain(error)}") from error
    except SettingsError as error:  # a table in the environment that is no JSON
        raise UsageError(f"{error}: expected a JSON object") from error


def _read_toml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the configuration {path} is not TOML: {error}") from error


def device_environment() -> dict[str, str]:
    """What the device process sees: this environment, what a numeric library wants, where our code lies.

    It is told its options in words; our own settings, some of them secrets, are none of its business.
    """
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {name: value for name, value in os.environ.items() if not name.upper().startswith("AVIS_")}
    return {**NUMERICS, **environment, "PYTHONPATH": path}
