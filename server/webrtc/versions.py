"""The libraries whose private names this package uses, and the versions in which those names are known."""

from __future__ import annotations

from importlib.metadata import version

KNOWN_VERSIONS = {"aiortc": "1.16.0", "aioice": "0.13.0"}


def check_versions() -> None:
    """Raises RuntimeError when a library is not of the known version."""
    for package, known in KNOWN_VERSIONS.items():
        if (found := version(package)) != known:
            raise RuntimeError(f"server/webrtc is written for {package} {known}, found {found}")
