"""Prometheus' own tool on what we export and on the rules that we ship. Debian's package `prometheus` brings it."""

import subprocess
from pathlib import Path

import pytest

DOCKER = Path(__file__).parents[2] / "docker/prometheus"

pytestmark = pytest.mark.network


@pytest.mark.parametrize(
    "command",
    ["check rules alerts.yml", "test rules alerts_test.yml", "check config --syntax-only prometheus.yml"],
)
def test_promtool_takes_the_rules_and_the_configuration(command):
    run = subprocess.run(["promtool", *command.split()], cwd=DOCKER, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
