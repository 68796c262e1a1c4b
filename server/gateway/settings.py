"""Everything a gateway can be told, in one frozen object."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from core.errors import UsageError, explain
from server.exposure import Exposure
from server.values import Texts


class NodesSettings(BaseSettings):
    """How to find the nodes of a cluster. The command line wins over AVIS_CLUSTER_* of the environment."""

    model_config = SettingsConfigDict(
        env_prefix="AVIS_CLUSTER_", extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    nodes: Texts = ()
    """addresses of the nodes, as in http://10.0.0.1:8080,http://10.0.0.2:8080"""
    nodes_dns: str | None = None
    """HOST:PORT of a name that has an address for each node, as a headless service of Kubernetes"""
    nodes_file: Path | None = None
    """file with the address of one node a line, as `avis cluster watch` keeps it"""
    node_token: str | None = Field(None, min_length=1)
    """the token of the nodes: what they were started with as --token"""


class GatewaySettings(NodesSettings, Exposure):
    """The settings of `avis gateway`."""

    model_config = NodesSettings.model_config

    port: int = Field(8080, ge=0, le=65535)
    """port of the gateway; 0 takes a free one"""
    admin_port: int | None = Field(None, ge=0, le=65535)
    """port of `GET /metrics`, for operators; unset serves none, 0 takes a free one"""
    admin_host: str = "127.0.0.1"
    """address that the admin port listens on: nobody is asked for a token there"""
    max_body: int = Field(256 * 1024, ge=1024, le=16 * 1024 * 1024)
    """most bytes of a request"""
    connections_per_node: int = Field(64, ge=1, le=10_000)
    """requests that may be under way to one node"""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """least severity that is logged: debug, info, warning or error"""
    log_format: Literal["console", "json"] = "console"
    """console for people, or json: one object a line"""

    @model_validator(mode="after")
    def _lets_nobody_slip_in(self) -> GatewaySettings:
        """The nodes let the gateway in, so the gateway must not let in everybody."""
        if self.node_token is not None and not self.asks_for_a_token:
            raise ValueError("node_token is set and token is not: everybody would reach the nodes through the gateway")
        return self


def read_nodes(**overrides: Any) -> NodesSettings:
    """The settings of a command that talks to nodes. Raises UsageError with one sentence."""
    return _read(NodesSettings, overrides)


def read_gateway(**overrides: Any) -> GatewaySettings:
    """The settings of a gateway. Raises UsageError with one sentence that names the wrong value."""
    found = _read(GatewaySettings, overrides)
    assert isinstance(found, GatewaySettings)
    return found


def _read(kind: type[NodesSettings], overrides: dict[str, Any]) -> NodesSettings:
    try:
        return kind(**overrides)
    except ValidationError as error:
        raise UsageError(f"setting {explain(error)}") from error
    except SettingsError as error:
        raise UsageError(f"{error}: expected a list") from error
