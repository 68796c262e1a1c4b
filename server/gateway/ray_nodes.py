"""Nodes on a Ray cluster: an actor on each machine keeps a server running. The only file that imports Ray.

Ray knows machines and devices, and starts and ends what runs on them. No request, report or picture waits for it:
gateways read the addresses of the servers from a file, and go on with the last one when Ray is away.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from core.errors import UsageError
from server.gateway.supervisor import Supervisor, default_folder

logger = logging.getLogger(__name__)

RESOURCE = "avis_device"
"""Ray's custom resource of a machine that serves. Its actor holds all of it, so Ray never takes the machine for idle"""
SLOT = "avis-slot"
"""label of a Ray node that shares its machine with others: each has a slot of its own, for a server of its own"""
NAMESPACE = "avis"
LOOK = 0.5
"""seconds between two looks of an actor at its server"""
ANSWER = 5.0
"""seconds that an actor may take to answer: one that is being restarted does not answer at all"""
BY_RAY = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
"""what Ray sets in the environment of an actor that asks for no CPU and no GPU of Ray's"""


class NodeActor:
    """Keeps the server of one machine running. It is never in the way of media: the server is a process of its own."""

    def __init__(self, name: str, slot: str, arguments: Sequence[str], folder: str, token: str):
        """`slot`: which of this machine's servers it is; no two ever run in one."""
        for variable in BY_RAY:
            os.environ.pop(variable, None)
        where = [*arguments, "--host", ray.util.get_node_ip_address()] if "--host" not in arguments else arguments
        self._token, self._fault = token, ""
        self._supervisor = Supervisor(Path(folder) if folder else default_folder(), f"slot-{slot}", name, where, token)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="avis-supervisor", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.is_set():
            try:
                self._supervisor.look()
                self._fault = ""
            except (UsageError, OSError) as error:
                logger.error("the server of this node does not run: %s", error)
                self._fault = str(error)
            self._over.wait(LOOK)

    def describe(self) -> dict[str, Any]:
        """Where the server is, how often it was started again, and what is wrong if it does not run."""
        supervisor, server = self._supervisor, self._supervisor.server
        told = {"name": server.name, "url": server.url, "pid": server.pid} if server else {"url": None}
        return {**told, "restarts": supervisor.restarts, "adopted": supervisor.adopted, "fault": self._fault}

    def drain(self, seconds: float) -> None:
        """Has the server take no new session, and close what is left after `seconds`. Raises OSError."""
        server = self._supervisor.server
        if server is None:
            return
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"}
        body = json.dumps({"seconds": seconds}).encode()
        request = urllib.request.Request(f"{server.url}/cluster/drain", body, headers)
        urllib.request.urlopen(request, timeout=ANSWER).close()

    def stop(self) -> None:
        """Ends the server, and this actor's care for it."""
        self._over.set()
        self._thread.join(ANSWER)
        self._supervisor.stop()


class RayNodes:
    """The machines of a Ray cluster that have RESOURCE, and the actors on them."""

    def __init__(self, address: str, arguments: Sequence[str], folder: str, token: str):
        """`arguments`: of `avis serve`. Raises UsageError where Ray cannot be reached."""
        check_ray_token(os.environ, Path.home())
        self._arguments, self._folder, self._token = list(arguments), folder, token
        self._retired: set[str] = set()
        """machines whose server has ended for good, until Ray takes them away"""
        try:
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError, ValueError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UsageError(f"the Ray cluster at {address} cannot be reached: {first}") from error

    def reconcile(self) -> dict[str, dict[str, Any]]:
        """Has an actor on each machine; what those say that answer, by the machine."""
        machines = self.machines()
        self._retired &= set(machines)
        actors = {machine: self._actor(machine) for machine in machines if machine not in self._retired}
        asked = {machine: actor.describe.remote() for machine, actor in actors.items()}
        ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER) if asked else ([], [])
        return {machine: told for machine, ref in asked.items() if ref in ready and (told := answer(ref)) is not None}

    @staticmethod
    def machines() -> list[str]:
        """Ids of the machines that serve and live."""
        return sorted(node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get(RESOURCE))

    def want(self, devices: int) -> None:
        """Asks Ray's autoscaler for so many machines, until the next call."""
        if devices > len(self.machines()) - len(self._retired):
            self._retired.clear()  # they are still here: their servers start again at once
        request_resources(bundles=[{RESOURCE: 1}] * devices)

    def retire(self, machine: str) -> None:
        """Ends the server of a machine, which must be empty, and gives its devices back to Ray."""
        self._retired.add(machine)
        actor = self._actor(machine)
        ray.get(actor.stop.remote(), timeout=30)
        ray.kill(actor)

    def _actor(self, machine: str) -> Any:
        """The actor of a machine: the one there is, or a new one that outlives this process."""
        node = next(node for node in ray.nodes() if node["NodeID"] == machine)
        name, slot = f"n{machine[:8]}", node.get("Labels", {}).get(SLOT, "0")
        kind: Any = ray.remote(NodeActor)
        return kind.options(
            name=f"{NAMESPACE}-{machine[:12]}",
            get_if_exists=True,
            lifetime="detached",
            max_restarts=-1,
            max_concurrency=8,
            num_cpus=0,
            resources={RESOURCE: node["Resources"][RESOURCE]},
            scheduling_strategy=NodeAffinitySchedulingStrategy(machine, soft=False),
        ).remote(name, slot, self._arguments, self._folder, self._token)

    @staticmethod
    def close() -> None:
        """Leaves Ray. The actors stay."""
        ray.shutdown()


def answer(ref: Any) -> dict[str, Any] | None:
    """What an actor said; None for one that died meanwhile."""
    try:
        told: dict[str, Any] = ray.get(ref, timeout=ANSWER)
        return told
    except ray.exceptions.RayError as error:
        logger.warning("a node actor does not answer: %s", str(error).strip().splitlines()[0])
        return None


def check_ray_token(environment: Any, home: Path) -> None:
    """Raises UsageError where Ray would let in everybody: it listens on all addresses of a machine."""
    named = environment.get("RAY_AUTH_TOKEN") or environment.get("RAY_AUTH_TOKEN_PATH")
    if environment.get("RAY_AUTH_MODE") != "token" or not (named or (home / ".ray" / "auth_token").is_file()):
        raise UsageError("Ray lets in everybody who reaches it: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE")
