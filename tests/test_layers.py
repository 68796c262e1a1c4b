"""The direction of imports: core knows tensors, server knows clocks and sockets."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "core": {"server", "aiohttp", "aiortc", "aioice", "asyncio", "uvloop", "time", "socket"},
    "server": {"torch", "core.engine", "core.models"},
}
TABLE = "core.models.table"
"""What there is under which name: it loads no model and no torch, so that the server may read it."""
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
    names = {name for name in imported(path) if name != TABLE and not name.startswith(TABLE + ".")}
    return {name for name in names for f in forbidden if name == f or name.startswith(f + ".")}


@pytest.mark.parametrize("package, path", FILES, ids=[str(path.relative_to(ROOT)) for _, path in FILES])
def test_each_layer_imports_only_what_it_may_know(package, path):
    assert not trespasses(package, path)


def test_a_forbidden_import_is_seen(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("from core import engine\nimport torch.nn\n")
    assert trespasses("server", bad) == {"core.engine", "torch.nn"}


def test_the_server_process_never_loads_torch():
    """What the server imports, imports it in its turn: naming torch nowhere was not enough, it took 219 MiB."""
    program = "import json, sys, server.api.app, server.commands.serve; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = json.loads(run.stdout)
    heavy = ("torch", "cv2", "core.engine", "core.solver", "core.models.load", "server.device.__main__")
    assert not [name for name in loaded if name in heavy or name.startswith("torch.")]
    assert {"core.contract", "core.operators.config", "server.sessions.sessions"} <= set(loaded)


def definitions(path):
    return [node for node in ast.walk(ast.parse(path.read_text())) if hasattr(node, "body") and hasattr(node, "name")]


@pytest.mark.parametrize("path", [path for _, path in FILES], ids=[str(path.relative_to(ROOT)) for _, path in FILES])
def test_files_functions_and_classes_can_be_taken_in(path):
    """400 lines a file, 45 a function, and 25 methods a class, unless its docstring says why it has more."""
    assert len(path.read_text().splitlines()) <= 400
    for node in definitions(path):
        if isinstance(node, ast.ClassDef):
            methods = sum(isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) for part in node.body)
            assert methods <= 25 or "more than 25 methods" in (ast.get_docstring(node) or "").lower(), node.name
        else:
            assert node.end_lineno - node.lineno + 1 <= 45, node.name
