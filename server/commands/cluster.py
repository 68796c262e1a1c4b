"""`avis cluster`: looks at the nodes of a cluster, drains one, and runs nodes on Ray."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
from rich.table import Table

from core.errors import UsageError
from core.json_report import check_json, write_json
from server.commands.console import console
from server.commands.flags import add_settings, given, words
from server.gateway.autoscale import AutoscaleConfig
from server.gateway.forward import bearer
from server.gateway.membership import membership
from server.gateway.overview import node_line
from server.gateway.placement import MISSES, Cluster, Node
from server.gateway.probes import Probes
from server.gateway.settings import NodesSettings, read_nodes

GRACE = 5.0
"""seconds after the time to move in which a node closes what is left"""
LOOK = 0.5
"""seconds between two looks at a node that drains"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="up | watch | status | drain")
    status = actions.add_parser("status", help="list the nodes and what each of them holds")
    drain = actions.add_parser("drain", help="take no new session on a node, and have its clients move")
    drain.add_argument("node", metavar="NODE", help="name of the node")
    drain.add_argument("--seconds", type=seconds, default=30.0, help="time that clients have to move (default 30)")
    drain.add_argument("--cancel", action="store_true", help="take sessions there again")
    up = actions.add_parser("up", help="run a server on each machine of a Ray cluster")
    watch = actions.add_parser("watch", help="as up, and keep the list of nodes and the number of machines right")
    for action in (up, watch):
        add_ray_arguments(action)
    add_watch_arguments(watch)
    for action in (status, drain):
        add_settings(action, NodesSettings)
        action.add_argument("--json", metavar="FILE", help="write the report as one JSON object; - is standard output")


def add_ray_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", default="auto", help="of the Ray cluster (default auto: the one on this machine)")
    parser.add_argument("--folder", default="", help="for locks and logs of servers (default /tmp/avis-UID)")
    parser.add_argument("--node-token", metavar="VALUE", help="the token that the servers will ask for")
    parser.add_argument("--json", metavar="FILE", help="write the report as one JSON object; - is standard output")
    parser.add_argument("serve", nargs="*", metavar="-- ARGUMENTS", help="of avis serve, after two dashes")


def add_watch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes-file", type=Path, required=True, metavar="FILE", help="to keep, for avis gateway")
    parser.add_argument("--once", action="store_true", help="do all there is to do, once, and end")
    parser.add_argument("--autoscale", action="store_true", help="ask Ray for machines as the demand wants them")
    for name, field in AutoscaleConfig.model_fields.items():
        help_text = f"{words(field)} (default {field.default})"
        parser.add_argument(f"--{name}", metavar="VALUE", help=help_text)


def seconds(text: str) -> float:
    """An argparse type: seconds from 0 to a day."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 86_400:
        raise argparse.ArgumentTypeError(f"expected seconds from 0 to 86400, found {text!r}")
    return found


def run(args: argparse.Namespace) -> int:
    check_json(args.json)
    settings = read_nodes(**given(args, NodesSettings)) if args.action in ("status", "drain") else read_token(args)
    if args.action in ("up", "watch"):
        return of_ray(args.action, settings, args)
    return asyncio.run({"status": status, "drain": drain}[args.action](settings, args))


def read_token(args: argparse.Namespace) -> NodesSettings:
    """The settings of a command that starts nodes. Raises UsageError where the nodes would let in everybody."""
    settings = read_nodes(**({} if args.node_token is None else {"node_token": args.node_token}))
    if settings.node_token is None:
        raise UsageError("the nodes would let in everybody: set AVIS_CLUSTER_NODE_TOKEN, or --node-token")
    return settings


def of_ray(action: str, settings: NodesSettings, args: argparse.Namespace) -> int:
    """`up` and `watch`. Raises UsageError where Ray is not installed."""
    try:
        watcher = importlib.import_module("server.gateway.watcher")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UsageError('Ray is not installed: pip install "avis-server[cluster]"') from error
    found: int = getattr(watcher, action)(settings, args)
    return found


async def status(settings: NodesSettings, args: argparse.Namespace) -> int:
    """Exit code 0 when every node takes sessions or drains, else 1. Raises UsageError when none answers."""
    async with aiohttp.ClientSession() as http:
        cluster = await look(settings, http)
    if not cluster.answering() and all(node.state == "lost" for node in cluster.nodes):
        raise UsageError(f"no node answers: {cluster.reason()}")
    report = {"nodes": [node_line(node) for node in cluster.nodes]}
    console(args.json).print(table(cluster.nodes))
    write_json(report, args.json)
    return 0 if all(node.answers for node in cluster.nodes) else 1


async def look(settings: NodesSettings, http: aiohttp.ClientSession) -> Cluster:
    """The cluster after as many probes as make a node that does not answer a lost one."""
    cluster = Cluster()
    nodes = membership(settings.nodes, settings.nodes_dns, settings.nodes_file)
    try:
        cluster.list_urls(await nodes.urls())
    except (OSError, ValueError) as error:
        raise UsageError(f"the list of nodes cannot be read: {error}") from error
    if not cluster.nodes:
        raise UsageError("the list of nodes is empty")
    probes = Probes(cluster, nodes, http, bearer(settings.node_token))
    for _ in range(MISSES):
        await probes.ask_all([node.url for node in cluster.nodes if not node.answers])
    return cluster


async def drain(settings: NodesSettings, args: argparse.Namespace) -> int:
    """Drains a node and waits until it is empty. Raises UsageError for a node that is not there."""
    async with aiohttp.ClientSession() as http:
        node = named(await look(settings, http), args.node)
        if args.cancel:
            await tell(http, settings, node, "DELETE", None)
            print(f"node {node.name} takes sessions again")
            return 0
        if node.state == "draining" and node.report and node.report.open == 0:
            raise UsageError(f"node {node.name} is drained already: it holds no session and takes none")
        await tell(http, settings, node, "POST", {"seconds": args.seconds})
        left = await emptied(settings, http, node, args.seconds + GRACE)
    write_json({"node": node.name, "sessions_left": left}, args.json)
    console(args.json).print(f"node {node.name} is {'drained' if left == 0 else f'draining, {left} sessions are left'}")
    return 0 if left == 0 else 1


def named(cluster: Cluster, name: str) -> Node:
    """The node of that name. Raises UsageError with the names that there are."""
    node = cluster.named(name)
    if node is None:
        names = ", ".join(sorted(node.name for node in cluster.answering())) or "none"
        raise UsageError(f"no node has the name {name[:40]!r}; those that answer: {names}")
    return node


async def tell(http: aiohttp.ClientSession, settings: NodesSettings, node: Node, method: str, body: Any) -> None:
    """Sends a node the request to drain, or no longer to."""
    headers, timeout = bearer(settings.node_token), aiohttp.ClientTimeout(total=5)
    try:
        async with http.request(
            method, f"{node.url}/cluster/drain", json=body, headers=headers, timeout=timeout
        ) as reply:
            if reply.status >= 400:
                raise UsageError(f"node {node.name} refuses to drain: HTTP {reply.status}")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise UsageError(f"node {node.name} does not answer: {error or type(error).__name__}") from error


async def emptied(settings: NodesSettings, http: aiohttp.ClientSession, node: Node, patience: float) -> int:
    """Waits until the node holds no session, or is gone; how many it holds at the end of `patience`."""
    until, told = time.monotonic() + patience, -1
    while True:
        cluster = await look(settings, http)
        found = cluster.at(node.url)
        left = found.report.open if found and found.answers and found.report else 0
        if left != told:
            print(f"node {node.name}: {left} sessions left", file=sys.stderr)
        told = left
        if left == 0 or time.monotonic() > until:
            return left
        await asyncio.sleep(LOOK)


def table(nodes: list[Node]) -> Table:
    found = Table("node", "address", "state", "sessions", "free", "load", "in line", "version", "why", box=None)
    for node in nodes:
        r = node.report
        figures = (f"{r.open}/{r.places}", str(r.free), f"{r.load:.0%}", str(r.waiting), r.version) if r else ("",) * 5
        found.add_row(node.name, node.url, node.state, *figures, node.why)
    return found
