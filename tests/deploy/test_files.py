"""What ships beside the code: the image, the compose file, the Kubernetes manifests, as far as no engine is needed."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from server.settings import Settings

ROOT = Path(__file__).parents[2]
VERSION = "1.33.0"
"""of the Kubernetes schemas that the manifests are held to"""
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OURS = ("avis", "avis-gpu")


def manifests(name):
    """The documents of one kustomization, those that it builds upon too."""
    folder = ROOT / "k8s" / name
    for entry in yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]:
        path = (folder / entry).resolve()
        if path.is_dir():
            yield from manifests(path.relative_to(ROOT / "k8s"))
        else:
            yield from yaml.safe_load_all(path.read_text())


def container():
    [deployment] = [one for one in manifests("base") if one["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    return pod, pod["containers"][0]


def variables(text_or_mapping):
    names = text_or_mapping if isinstance(text_or_mapping, dict) else set(text_or_mapping)
    return {name.removeprefix("AVIS_").lower() for name in names if name.startswith("AVIS_")}


def test_every_package_is_in_the_wheel():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    inits = [path for top in ("core", "server") for path in (ROOT / top).rglob("__init__.py")]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in inits}
    assert set(listed) == found | {"avis_client", "web"}


# --- the image -----------------------------------------------------------------------------------


def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([hadolint, "--format", "json", ROOT / "docker/Dockerfile"], capture_output=True, text=True)
    assert json.loads(found.stdout) == []


def test_the_image_runs_as_nobody_in_particular_and_says_whether_it_is_well():
    last = DOCKERFILE.rsplit("FROM ", 1)[1]
    assert "\nUSER 10001\n" in last and "HEALTHCHECK" in last and "/readyz" in last
    assert DOCKERFILE.index("USER 10001") > DOCKERFILE.index("RUN useradd")
    tag = DOCKERFILE.split("ARG BASE=", 1)[1].split("\n", 1)[0]
    assert tag.count(".") == 2, f"the base {tag} names no release"


# --- compose -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*OURS, "weights", "turn", "prometheus"])
def test_a_service_has_no_more_rights_than_it_needs(name):
    service = COMPOSE["services"][name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    assert name == "turn" or service["read_only"]


def test_each_image_names_a_release():
    for name, service in COMPOSE["services"].items():
        image = service.get("image")
        assert image is None or (":" in image and not image.endswith((":latest", "/latest"))), f"{name}: {image}"


def test_nothing_but_media_is_reached_from_other_machines_unless_told():
    for name, service in COMPOSE["services"].items():
        for port in service.get("ports", []):
            assert port.startswith(("127.0.0.1:", "${HTTP_BIND:-127.0.0.1}:")) or port.endswith("/udp"), (
                f"{name}: {port}"
            )


def test_every_variable_of_compose_and_kubernetes_is_a_setting():
    base = yaml.safe_load((ROOT / "k8s/base/kustomization.yaml").read_text())
    literals = [text.split("=")[0] for one in base["configMapGenerator"] for text in one["literals"]]
    named = {one["name"] for one in container()[1]["env"]} | set(literals)
    for service in OURS:
        named |= set(COMPOSE["services"][service]["environment"])
    image = {word.split("=")[0] for word in DOCKERFILE.split() if word.startswith("AVIS_")}
    soon = {"public_host"}  # a server without this setting ignores it
    assert variables(named | image) - soon <= set(Settings.model_fields)


def test_the_server_is_given_longer_to_end_than_it_takes():
    for service in map(COMPOSE["services"].get, OURS):
        drain = float(service["environment"]["AVIS_DRAIN_PATIENCE"])
        assert float(service["stop_grace_period"].removesuffix("s")) > drain + Settings().drain_timeout + 3
    literals = yaml.safe_load((ROOT / "k8s/base/kustomization.yaml").read_text())["configMapGenerator"][0]["literals"]
    drain = float(dict(text.split("=") for text in literals)["AVIS_DRAIN_PATIENCE"])
    pod, server = container()
    pause = float(server["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > pause + drain + Settings().drain_timeout + 3


def test_prometheus_and_grafana_find_what_is_mounted_for_them():
    for service in ("prometheus", "grafana"):
        for volume in COMPOSE["services"][service]["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith(".") or (ROOT / source).exists(), volume
    scraped = yaml.safe_load((ROOT / "docker/prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    [target] = scraped["static_configs"][0]["targets"]
    server = COMPOSE["services"]["avis"]
    assert target == f"{server['networks']['default']['aliases'][0]}:{server['environment']['AVIS_ADMIN_PORT']}"


@pytest.mark.network
@pytest.mark.parametrize("profile", ["cpu", "gpu", "weights"])
def test_compose_itself_takes_the_file(profile):
    command = ["docker-compose", "--profile", profile, "config", "--services"]
    if shutil.which("docker-compose") is None:
        pytest.fail("Debian's docker-compose is expected: make deploy-tools")
    run = subprocess.run(command, cwd=ROOT, env={**os.environ, "TURN_SECRET": "x"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "turn" in run.stdout.split()


# --- Kubernetes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["base", "gpu"])
def test_the_manifests_are_what_the_published_schemas_ask_for(name):
    kinds = []
    for manifest in manifests(name):
        kinds.append(manifest["kind"])
        if manifest["kind"] == "Deployment":  # kustomize adds the label that selects its pods
            manifest["spec"]["selector"] = {"matchLabels": {"app.kubernetes.io/name": "avis"}}
        kubernetes_validate.validate(manifest, VERSION, strict=True)
    assert {"Deployment", "Service"} <= set(kinds)


def test_a_manifest_with_a_misspelt_field_is_seen():
    [service] = [one for one in manifests("base") if one["kind"] == "Service"]
    service["spec"]["portz"] = service["spec"].pop("ports")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(service, VERSION, strict=True)


def test_the_pod_is_asked_whether_it_lives_and_whether_it_is_ready_and_by_the_right_names():
    pod, server = container()
    assert server["livenessProbe"]["httpGet"]["path"] == "/healthz", "a slow device must not kill the pod"
    assert server["readinessProbe"]["httpGet"]["path"] == server["startupProbe"]["httpGet"]["path"] == "/readyz"
    ports = {port["name"] for port in server["ports"]}
    [monitor] = manifests("monitoring")
    asked = [server[probe]["httpGet"]["port"] for probe in ("livenessProbe", "readinessProbe", "startupProbe")]
    assert {*asked, *(one["port"] for one in monitor["spec"]["podMetricsEndpoints"])} <= ports
    assert pod["securityContext"]["runAsNonRoot"] and server["securityContext"]["readOnlyRootFilesystem"]
    assert server["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.network
@pytest.mark.parametrize("name", ["base", "gpu", "monitoring"])
def test_kustomize_builds_them(name):
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not here: the manifests were held to their schemas one by one")
    run = subprocess.run(["kubectl", "kustomize", ROOT / "k8s" / name], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for manifest in yaml.safe_load_all(run.stdout):
        if manifest["kind"] != "PodMonitor":
            kubernetes_validate.validate(manifest, VERSION, strict=True)


def test_turn_reaches_the_server_and_nothing_else():
    turn = COMPOSE["services"]["turn"]
    major, minor = map(int, turn["image"].split(":")[1].split(".")[:2])
    assert (major, minor) >= (4, 9), "older ones let a crafted address pass the list"
    denied = set(re.findall(r"--denied-peer-ip=(\S+)", turn["command"]))
    assert denied == {"0.0.0.0-255.255.255.255", "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}
    assert re.findall(r"--allowed-peer-ip=(\S+)", turn["command"]) == ["${PUBLIC_IP:-127.0.0.1}"]
    assert {"--use-auth-secret", "--no-cli", "--no-multicast-peers"} <= set(turn["command"].split())
