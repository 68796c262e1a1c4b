"""The manifests of a cluster: every command in them is one that this version takes."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from server.cli import parse

K8S = Path(__file__).parents[2] / "k8s"
FILES = [*(K8S / "cluster").glob("*.yaml"), *(K8S / "ray").glob("*.yaml")]


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def texts(value):
    """Every list of words and every text in a document."""
    if isinstance(value, dict):
        for part in value.values():
            yield from texts(part)
    elif isinstance(value, list):
        if value and all(isinstance(part, str) for part in value):
            yield value
        for part in value:
            yield from texts(part)


def commands(path):
    """The words of every `avis` command of a file, without `avis`."""
    for document in documents(path):
        for words in texts(document):
            if words[0] in ("serve", "gateway"):
                yield words
            for script in words:
                for command in re.findall(r"\bavis ([a-z][^;&|]*)", script):
                    yield shlex.split(command)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_command_is_one_that_there_is(path):
    for name, *words in commands(path):
        parse(name, words)


def test_commands_are_found():
    found = [name for path in FILES for name, *_ in commands(path)]
    assert sorted(found) == ["cluster", "cluster", "gateway", "gateway", "serve"]


def test_a_pod_is_given_longer_to_end_than_its_clients_to_move():
    [node] = [d for d in documents(K8S / "cluster" / "nodes.yaml") if d["kind"] == "StatefulSet"]
    spec = node["spec"]["template"]["spec"]
    script = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
    assert spec["terminationGracePeriodSeconds"] > int(re.search(r"--seconds (\d+)", script)[1]) + 10


def test_no_token_is_written_down():
    for path in FILES:
        for document in documents(path):
            for variable in re.findall(r"\{[^{}]*'name': '[A-Z_]*TOKEN'[^{}]*", str(document)):
                assert "valueFrom" in variable, f"{path.name}: {variable}"
