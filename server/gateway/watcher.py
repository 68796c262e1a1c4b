"""`avis cluster up` and `watch`: a server on each machine of a Ray cluster, the list of them, and how many there are.

A process of its own, and the only one that Ray may end: gateways and servers go on without it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import ValidationError

from core.errors import UsageError, explain
from core.json_report import write_json
from server import logs
from server.gateway.autoscale import Autoscale, AutoscaleConfig, steps
from server.gateway.forward import bearer
from server.gateway.membership import Static
from server.gateway.placement import MISSES, Cluster
from server.gateway.probes import Probes
from server.gateway.ray_nodes import RayNodes
from server.gateway.report import Report
from server.gateway.settings import NodesSettings

logger = logging.getLogger(__name__)

LOOK = 2.0
"""seconds between two rounds"""
UP = 180.0
"""seconds that the servers of all machines may take to listen"""
KEEP = 600.0
"""seconds for which a server stays in the list that no actor tells of: it may outlive its actor, and Ray. Gateways see
for themselves whether it answers"""
MOVE = 300.0
"""seconds that clients have to leave a node that is no longer wanted"""


def up(settings: NodesSettings, args: argparse.Namespace) -> int:
    """Starts a server on each machine, and waits until all listen. Exit code 1 when one does not."""
    nodes = RayNodes(args.address, args.serve, args.folder, settings.node_token or "")
    try:
        if not nodes.machines():
            raise UsageError("no machine of the Ray cluster has the resource avis_device: ray start --resources")
        until = time.monotonic() + UP
        while True:
            told = nodes.reconcile()
            listening = [node for node in told.values() if node["url"]]
            if len(listening) == len(nodes.machines()) or time.monotonic() > until:
                break
            time.sleep(0.5)
    finally:
        nodes.close()
    for machine, node in told.items():
        print(f"{machine[:12]}  {node.get('name', '')}  {node['url'] or node['fault'] or 'starting'}")
    write_json({"nodes": list(told.values())}, args.json)
    return 0 if len(listening) == len(told) else 1


def watch(settings: NodesSettings, args: argparse.Namespace) -> int:
    """Keeps a server on each machine and their addresses in a file, until interrupted."""
    logs.set_up("info", "console")
    config = autoscale_config(args) if args.autoscale else None
    nodes = RayNodes(args.address, args.serve, args.folder, settings.node_token or "")
    watcher = Watcher(nodes, args.nodes_file, settings, Autoscale(config) if config else None)
    try:
        while True:
            watcher.look()
            if args.once:
                return 0
            time.sleep(LOOK)
    finally:
        nodes.close()


def autoscale_config(args: argparse.Namespace) -> AutoscaleConfig:
    """The bounds of the command line. Raises UsageError with one sentence."""
    values = {name: value for name in AutoscaleConfig.model_fields if (value := getattr(args, name)) is not None}
    try:
        return AutoscaleConfig.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"--{explain(error)}") from error


class Watcher:
    """One round after the other; what Ray and the nodes say decides, so that a new watcher goes on as the old one."""

    def __init__(self, nodes: RayNodes, file: Path, settings: NodesSettings, autoscale: Autoscale | None):
        self._nodes = nodes
        self._file = file
        self._settings = settings
        self._autoscale = autoscale
        self._seen = dict.fromkeys(read_nodes_file(file), time.monotonic())
        """when each address was last told by its actor"""

    def look(self) -> None:
        """A server on each machine, the list of their addresses, and as many machines as the demand wants."""
        told = self._nodes.reconcile()
        urls = sorted(str(node["url"]) for node in told.values() if node["url"])
        now = time.monotonic()
        self._seen |= dict.fromkeys(urls, now)
        self._seen = {url: seen for url, seen in self._seen.items() if now - seen < KEEP}
        write_nodes(self._file, sorted(self._seen))
        if self._autoscale is not None:
            self._scale(self._autoscale, told, urls)

    def _scale(self, rule: Autoscale, told: dict[str, dict[str, Any]], urls: list[str]) -> None:
        reports = asyncio.run(self._reports(urls))
        wanted = rule.wanted(list(reports.values()), time.monotonic())
        machines = {node["url"]: machine for machine, node in told.items()}
        todo, urls_of = steps(list(reports.values()), wanted), {report.node: url for url, report in reports.items()}
        for name in todo.remove:
            logger.info("node %s is drained and ends", name)
            self._nodes.retire(machines[urls_of[name]])
            self._seen.pop(urls_of[name], None)
        self._nodes.want(wanted)
        asyncio.run(self._tell("POST", [urls_of[name] for name in todo.drain]))
        asyncio.run(self._tell("DELETE", [urls_of[name] for name in todo.take_back]))

    async def _reports(self, urls: list[str]) -> dict[str, Report]:
        """What each node that answers says of itself."""
        cluster = Cluster()
        cluster.list_urls(urls)
        async with aiohttp.ClientSession() as http:
            probes = Probes(cluster, Static(urls), http, bearer(self._settings.node_token))
            for _ in range(MISSES):
                await probes.ask_all([node.url for node in cluster.nodes if not node.answers])
        return {node.url: node.report for node in cluster.nodes if node.answers and node.report}

    async def _tell(self, method: str, urls: list[str]) -> None:
        """Has nodes drain (POST), or no longer (DELETE). One that does not answer is asked again in the next round."""
        headers, timeout = bearer(self._settings.node_token), aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as http:
            for url in urls:
                try:
                    async with http.request(method, f"{url}/cluster/drain", json={"seconds": MOVE}) as reply:
                        logger.info("node %s: %s drain, answered %d", url, method, reply.status)
                except (aiohttp.ClientError, TimeoutError) as error:
                    logger.warning("node %s does not drain: %r", url, error)


def read_nodes_file(file: Path) -> list[str]:
    """The addresses of an earlier watcher; none where there was no such file."""
    try:
        return file.read_text().split()
    except FileNotFoundError:
        return []


def write_nodes(file: Path, urls: list[str]) -> None:
    """The addresses, one a line. A reader finds the old list or the new one, never a part."""
    part = file.with_name(file.name + ".part")
    part.write_text("".join(f"{url}\n" for url in urls))
    part.replace(file)
