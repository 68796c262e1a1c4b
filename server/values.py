"""The kinds of values that settings and requests have, beside plain numbers: sizes, lists, hosts, networks, devices."""

from __future__ import annotations

import json
import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer
from pydantic_core import PydanticCustomError
from pydantic_settings import NoDecode

from core.errors import HIDDEN

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


def parse_named(given: object) -> object:
    """NAME=VALUE, as lines or in a list, or a JSON object, to a table; a table as it is.

    The values are addresses that may hold passwords, so no error shows them.
    """
    if isinstance(given, str) and given.lstrip().startswith("{"):
        try:
            return json.loads(given)
        except ValueError:
            raise PydanticCustomError(HIDDEN, "expected NAME=ADDRESS, or a JSON object") from None
    parts = given.splitlines() if isinstance(given, str) else given
    if not isinstance(parts, list | tuple):
        return given
    pairs = [str(part).strip().partition("=") for part in parts if str(part).strip()]
    names = [name for name, _, _ in pairs]
    if any(not name or not sign for name, sign, _ in pairs):
        raise PydanticCustomError(HIDDEN, "expected NAME=ADDRESS")
    if len(set(names)) < len(names):
        raise PydanticCustomError(HIDDEN, "expected a name once each")
    return {name: value for name, _, value in pairs}


Named = Annotated[dict[str, Any], NoDecode, BeforeValidator(parse_named)]

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
