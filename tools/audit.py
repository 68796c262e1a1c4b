"""Holds the installed packages to the known weaknesses (OSV). Ends with 1 when one is found.

A package whose weakness is known for years is asked for first: an index that does not name it was not asked, and then
"nothing found" would mean nothing. That is told in one sentence, and ends with 0.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

CONTROL = "jinja2==2.4.1"
"""its weaknesses are known since 2014"""
OURS = "avis-server"


def main() -> int:
    if not weaknesses([CONTROL]):
        print("audit skipped: the list of known weaknesses cannot be reached from here (api.osv.dev)")
        return 0
    installed = sorted({f"{one.name}=={one.version.partition('+')[0]}" for one in distributions() if one.name != OURS})
    found = weaknesses(installed)
    for package, ids in found.items():
        print(f"{package}: {', '.join(ids)}")
    print(f"{len(installed)} packages audited, {len(found)} with known weaknesses")
    return 1 if found else 0


def weaknesses(requirements: list[str]) -> dict[str, list[str]]:
    """The ids of the known weaknesses, by package. Empty, too, when nobody could be asked."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text("\n".join(requirements))
        command = ["-m", "pip_audit", "-r", str(listed), "--no-deps", "--disable-pip", "-s", "osv", "-f", "json"]
        run = subprocess.run([sys.executable, *command, "--progress-spinner=off"], capture_output=True, text=True)
    return parse(run.stdout)


def parse(report: str) -> dict[str, list[str]]:
    """The weak packages of a report of pip-audit, which is empty when it failed."""
    dependencies: list[dict[str, Any]] = json.loads(report)["dependencies"] if report.strip() else []
    return {
        f"{one['name']} {one['version']}": [weakness["id"] for weakness in one["vulns"]]
        for one in dependencies
        if one.get("vulns")
    }


if __name__ == "__main__":
    sys.exit(main())
