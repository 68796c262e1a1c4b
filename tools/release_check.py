"""Builds wheel and sdist, installs each in a fresh environment, and serves the page from it. Ends with 1 on a failure.

python tools/release_check.py            with every dependency installed anew, as `pipx run` would: minutes
python tools/release_check.py --quick    with the dependencies of this environment: what is checked are our own files
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import tomllib
import urllib.request
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 120.0
"""seconds until the server must be ready"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    if f"## {version}" not in (ROOT / "CHANGELOG.md").read_text():
        print(f"CHANGELOG.md has no section {version}")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        for archive in build(Path(folder) / "dist"):
            check_content(archive)
            check_installed(archive, Path(folder) / archive.suffix.removeprefix("."), version, quick)
    return 0


def build(folder: Path) -> list[Path]:
    """The sdist, and the wheel that is built from it."""
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "-o", folder, ROOT], check=True, stdout=subprocess.DEVNULL
    )
    return sorted(folder.iterdir())


def check_content(archive: Path) -> None:
    """The page, the weights and the licence are in; tests and footage are not in the wheel."""
    if archive.suffix == ".whl":
        names = zipfile.ZipFile(archive).namelist()
        assert not [name for name in names if name.startswith(("tests/", "data/"))], "the wheel has tests in it"
    else:
        with tarfile.open(archive) as opened:
            names = opened.getnames()
    for wanted in ("web/index.html", "web/app.js", "core/weights/", "server/cli.py", "LICENSE"):
        assert any(wanted in name for name in names), f"{archive.name} lacks {wanted}"
    print(f"{archive.name}: {len(names)} files, {archive.stat().st_size / 1e6:.1f} MB")


def check_installed(archive: Path, folder: Path, version: str, quick: bool) -> None:
    """Installs the archive in a fresh environment in `folder` and serves the page from there."""
    venv.create(folder, with_pip=True)
    install = [str(folder / "bin/python"), "-m", "pip", "install", "-q"]
    if quick:
        site = next((folder / "lib").glob("python*")) / "site-packages"
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
        install += ["--no-deps", "--force-reinstall"]
    subprocess.run([*install, archive], check=True)
    where = "import core, server, importlib.metadata as m; print(server.__file__, m.version('avis-server'))"
    found = subprocess.run([folder / "bin/python", "-c", where], cwd=folder, capture_output=True, text=True, check=True)
    assert str(folder) in found.stdout and found.stdout.split()[-1] == version, found.stdout
    serve(folder)


def serve(folder: Path) -> None:
    """Starts the installed server on a free port, waits until it is ready, fetches the page, and ends it."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(folder / "bin/avis"), "serve", "--port", "0", "--device", "cpu", "--warm-sizes", "128x96"]
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = re.search(r"http://\S+", server.stdout.readline())
        assert address is not None, "the server did not start"
        began = time.monotonic()
        while not answers(f"{address[0]}/readyz"):
            assert server.poll() is None and time.monotonic() - began < PATIENCE, "the server is not ready"
            time.sleep(0.5)
        assert answers(f"{address[0]}/") and answers(f"{address[0]}/app.js"), "the page is not served"
        server.terminate()
        assert server.wait(15) == 0, f"the server ended with {server.returncode}"
    print(f"  installed and served in {time.monotonic() - began:.0f} s")


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
