"""Everything the server can be told, in one frozen object. The only file that reads the environment."""

from __future__ import annotations

import json
import os
import re
import tomllib
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    DirectoryPath,
    Field,
    FilePath,
    PlainSerializer,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from core.errors import UsageError, explain

SIZE = re.compile(r"(\d{1,5})x(\d{1,5})", re.A)


def parse_size(text: object) -> tuple[int, int]:
    """WIDTHxHEIGHT to (width, height). Raises ValueError for anything else."""
    if isinstance(text, tuple | list):
        text = "x".join(map(str, text))
    match = SIZE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"a size is WIDTHxHEIGHT, as in 416x240, not {text!r}")
    return int(match[1]), int(match[2])


def show_size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def parse_list(text: object) -> object:
    """A,B,... or a JSON array, as the environment and the command line give a list; other values as they are."""
    if not isinstance(text, str):
        return text
    if text.lstrip().startswith("["):
        return json.loads(text)
    return [part.strip() for part in text.split(",") if part.strip()]


Side = Annotated[int, Field(ge=0, le=99_999)]
Size = Annotated[tuple[Side, Side], BeforeValidator(parse_size), PlainSerializer(show_size)]
"""(width, height) in pixels, written WIDTHxHEIGHT"""


def parse_ports(text: object) -> tuple[int, int]:
    """FIRST-LAST to two port numbers. Raises ValueError for anything else."""
    if isinstance(text, tuple | list):
        text = "-".join(map(str, text))
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text, re.A) if isinstance(text, str) else None
    if match is None or not 0 < int(match[1]) <= int(match[2]) < 65536:
        raise ValueError(f"a range of ports is FIRST-LAST, as in 50000-50100, not {text!r}")
    return int(match[1]), int(match[2])


Port = Annotated[int, Field(ge=1, le=65535)]
Ports = Annotated[tuple[Port, Port], BeforeValidator(parse_ports)]


def check_warm_sizes(sizes: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Raises ValueError for a size that no stream can have."""
    for size in sizes:
        if min(size) < 16 or size[0] % 16 or size[1] % 16:
            raise ValueError(f"a size is a multiple of 16 each way, not {show_size(size)}")
    return sizes


ICE_SERVER = re.compile(r"(stun|turn)s?:[\w.\[\]:-]+(\?transport=(udp|tcp))?", re.A)


def check_ice_servers(urls: tuple[str, ...]) -> tuple[str, ...]:
    """Raises ValueError for what is no address of a STUN or TURN server (RFC 7064, RFC 7065)."""
    for url in urls:
        if not ICE_SERVER.fullmatch(url):
            raise ValueError(f"a STUN or TURN server is stun:HOST or turn:HOST:PORT?transport=udp, not {url!r}")
    return urls


def check_address(text: str) -> str:
    """Raises ValueError for what is no IP address: no media would ever come there."""
    try:
        ip_address(text)
    except ValueError:
        raise ValueError("expected an IP address, as in 192.0.2.7") from None
    return text


def parse_network(text: object) -> IPv4Network | IPv6Network:
    """An address or a network. Raises ValueError for anything else."""
    try:
        return ip_network(str(text))
    except ValueError:
        raise ValueError("expected an address or a network, as in 10.0.0.0/8") from None


def named(path: object) -> object:
    """Raises ValueError for an empty name: it would be the folder that the server was started in."""
    if path == "":
        raise ValueError("expected a directory")
    return path


HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*(:\d{1,5})?", re.A)


def check_hosts(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of hosts in lower case. Raises ValueError for what is none."""
    for name in names:
        if not HOST.fullmatch(name.lower()):
            raise ValueError(f"a public host is a name, as in avis.example or avis.example:8443, not {name!r}")
    return tuple(name.lower() for name in names)


Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_list)]
Hosts = Annotated[Texts, AfterValidator(check_hosts)]
Address = Annotated[str, AfterValidator(check_address)]
Addresses = Annotated[tuple[Address, ...], NoDecode, BeforeValidator(parse_list)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(parse_network)]
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(parse_list)]
WarmSizes = Annotated[tuple[Size, ...], NoDecode, BeforeValidator(parse_list), AfterValidator(check_warm_sizes)]


LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def is_loopback(host: str) -> bool:
    """Whether a name or an address is that of this machine alone."""
    if host.lower() in LOOPBACK_NAMES:
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


DEVICE = re.compile(r"cpu|cuda(:\d{1,3})?", re.A)
MOST_DEVICES = 64


def check_devices(names: tuple[str, ...]) -> tuple[str, ...]:
    """Raises ValueError for what is no list of devices. The processor may be named several times, a GPU once."""
    wrong = next((name for name in names if not DEVICE.fullmatch(name)), None)
    if wrong is not None:
        raise ValueError(f"a device is cpu or cuda:N, not {wrong[:40]!r}")
    twice = next((name for name in names if name != "cpu" and names.count(name) > 1), None)
    if twice is not None or len(names) > MOST_DEVICES:
        raise ValueError(f"{twice} is named twice" if twice else f"expected {MOST_DEVICES} devices at most")
    return names


Devices = Annotated[Texts, AfterValidator(check_devices)]


class Settings(BaseSettings):
    """Later sources win: defaults, the TOML file, AVIS_* of the environment, the command line."""

    model_config = SettingsConfigDict(
        env_prefix="AVIS_", extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    host: str = "127.0.0.1"
    """address the HTTP server listens on"""
    port: int = Field(8080, ge=0, le=65535)
    """port of the HTTP server; 0 takes a free one"""

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
    """settings of the model itself, by name: see core.model_settings"""
    threads: int = Field(0, ge=0, le=1024)
    """CPU threads of the device process; 0 leaves it to torch"""
    warm_sizes: WarmSizes = ()
    """restored sizes that are warmed up and timed before the first session; unset takes the model's own"""
    solver: dict[str, Any] = Field(default_factory=dict)
    """a session's solver settings where it says nothing, by name: see core.contract.SolverConfig"""

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
    recordings: Annotated[DirectoryPath, BeforeValidator(named)] | None = None
    """directory in which sessions may have themselves recorded; unset keeps nothing of anybody"""
    max_players: int = Field(16, ge=1, le=1000)
    """players of one published stream; each is encoded for on its own"""
    max_sessions: int = Field(8, ge=1, le=1000)
    """sessions at a time, whatever the device could carry"""
    admission: Literal["measured", "places"] = "measured"
    """measured: a session opens while the device has the time for all at full quality; places: while there is a
    place, and all go down the quality ladder together"""
    sessions_each: int | None = Field(None, ge=1, le=1000)
    """sessions at a time of one address; unset is no limit of its own. Behind a proxy, name it in trusted_proxies"""
    offers_each: float | None = Field(None, ge=0.01, le=1000)
    """sessions that one address may open a second, twice as many at once; unset is no limit"""
    queue_most: int = Field(32, ge=0, le=1000)
    """refused clients that may wait in line for a place"""
    queue_each: int = Field(4, ge=1, le=1000)
    """of them, those of one address"""
    trusted_proxies: Networks = ()
    """addresses or networks of proxies whose X-Forwarded-For says who asks; unset believes nobody's"""
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
        if self.jwt_secret is not None and self.jwt_public_key is not None:
            raise ValueError("jwt_secret and jwt_public_key exclude each other")
        if self.ice_relay and not any(url.startswith("turn") for url in self.ice_servers):
            raise ValueError("ice_relay needs a TURN server among ice_servers")
        return self

    @property
    def asks_for_a_token(self) -> bool:
        """Whether clients must show a token of any kind."""
        return any(way is not None for way in (self.token, self.tokens, self.jwt_secret, self.jwt_public_key))

    def check_exposure(self) -> None:
        """Raises UsageError where whoever reaches the server could use it, unless it was told to let everybody in."""
        if not (is_loopback(self.host) or self.asks_for_a_token or self.open_to_all):
            raise UsageError(
                f"other machines reach {self.host}: set AVIS_TOKEN (or tokens, jwt_secret, jwt_public_key), or "
                "open_to_all to let everybody in"
            )

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


DEVICE_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}
"""Waiting threads must sleep, not spin beside the codecs; mapped memory is kept, as page faults are dear."""


def device_environment() -> dict[str, str]:
    """What the device process sees: this environment, what a numeric library wants, where our code lies.

    It is told its options in words; our own settings, some of them secrets, are none of its business.
    """
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {name: value for name, value in os.environ.items() if not name.upper().startswith("AVIS_")}
    return {**DEVICE_ENVIRONMENT, **environment, "PYTHONPATH": path}
