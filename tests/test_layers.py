"""The direction of imports: core knows tensors, server knows clocks and sockets."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "core": {"server", "aiohttp", "aiortc", "aioice", "asyncio", "uvloop", "time", "socket"},
    "server": {"torch", "core.engine", "core.models"},
}
DEVICE_SIDE = [
    ROOT / "server" / "device" / "__main__.py",
    ROOT / "server" / "device" / "warm_up.py",
    ROOT / "server" / "files" / "download.py",
    *(ROOT / "server" / "commands").glob("*.py"),
]
"""What of the server may load a model: the device process, and the commands that work without a server."""
FILES = [(package, path) for package in FORBIDDEN for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


TRAINING = ROOT / "core" / "training"
"""A program that runs for a day may look at the clock."""


def trespasses(package, path):
    forbidden = FORBIDDEN[package]
    if path in DEVICE_SIDE:
        forbidden = forbidden - {"torch", "core.engine", "core.models"}
    if TRAINING in path.parents:
        forbidden = forbidden - {"time"}
    return {name for name in imported(path) for f in forbidden if name == f or name.startswith(f + ".")}


@pytest.mark.parametrize("package, path", FILES, ids=[str(path.relative_to(ROOT)) for _, path in FILES])
def test_each_layer_imports_only_what_it_may_know(package, path):
    assert not trespasses(package, path)


def test_a_forbidden_import_is_seen(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("from core import engine\nimport torch.nn\n")
    assert trespasses("server", bad) == {"core.engine", "torch.nn"}
