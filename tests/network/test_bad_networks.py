"""Two processes in two network namespaces, with a bad network between them that neither knows of."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SPACES = ("avisA", "avisM", "avisB")
SHARED_MACHINE = 2
"""how much longer than promised a gap may be here, where other processes take the processor"""

pytestmark = [pytest.mark.network]


def ip(*arguments):
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)


def why_not():
    if os.name != "posix" or os.geteuid() != 0:
        return "needs root"
    if shutil.which("ip") is None:
        return "needs the ip command (iproute2)"
    made = ip("netns", "add", "avisprobe")
    ip("netns", "del", "avisprobe")
    return None if made.returncode == 0 else f"no network namespaces here: {made.stderr.strip()}"


@pytest.fixture(scope="module")
def spaces():
    """avisA -- avisM -- avisB: two hosts and the machine between them."""
    if reason := why_not():
        pytest.skip(reason)
    remove()
    for space in SPACES:
        ip("netns", "add", space)
    for end, address in (("A", "10.99.0.1/24"), ("B", "10.99.0.2/24")):
        ip("link", "add", f"av{end}", "netns", f"avis{end}", "type", "veth", "peer", f"am{end}", "netns", "avisM")
        ip("-n", f"avis{end}", "addr", "add", address, "dev", f"av{end}")
        ip("-n", f"avis{end}", "link", "set", "lo", "up")
        ip("-n", f"avis{end}", "link", "set", f"av{end}", "up")
        ip("-n", "avisM", "link", "set", f"am{end}", "up")
    yield
    remove()


def remove():
    for space in SPACES:
        ip("netns", "del", space)


async def start(space, script, *arguments):
    command = ["ip", "netns", "exec", space, sys.executable, str(HERE / script), *arguments]
    pipe = asyncio.subprocess.PIPE
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, env=environment, limit=1 << 20)


async def line(process):
    async with asyncio.timeout(60):
        return (await process.stdout.readline()).decode()


async def call(seconds, **profile):
    """What both ends tell after `seconds` over a network of this profile."""
    processes = []
    try:
        bridge = await start("avisM", "bridge.py", "amA", "amB", json.dumps(profile))
        processes.append(bridge)
        assert (await line(bridge)).strip() == "ready"
        ends = [
            await start("avisA", "peer.py", "camera", str(seconds)),
            await start("avisB", "peer.py", "server", str(seconds)),
        ]
        processes += ends
        camera, server = ends
        for source, target in ((camera, server), (server, camera)):
            target.stdin.write((await line(source)).encode())
            await target.stdin.drain()
        told, sender = json.loads(await line(server)), json.loads(await line(camera))
        told |= {
            name: sender.get(name)
            for name in ("sent", "retransmitted", "target_bps", "encoder_rebuilds", "capacity_bps")
        }
        print(profile, told)
        return told
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.wait()


@pytest.mark.parametrize(("loss", "seed"), [(0.0, 1), (0.01, 1), (0.03, 1), (0.03, 2), (0.05, 1), (0.05, 2), (0.05, 3)])
async def test_random_loss_freezes_the_picture_for_a_moment_only(spaces, loss, seed):
    told = await call(10, delay=0.02, loss=loss, seed=seed)
    assert told["ordered"] and told["seen"] >= 0.9 * told["sent"] > 100
    assert told["longest_gap"] <= 0.3 * SHARED_MACHINE


async def test_bursts_of_four_freeze_it_a_little_longer(spaces):
    told = await call(12, delay=0.02, loss=0.03, burst=4)
    assert told["ordered"] and told["seen"] >= 0.85 * told["sent"]
    assert told["longest_gap"] <= 0.7 * SHARED_MACHINE


async def test_a_thin_link_slows_the_picture_and_does_not_stop_it(spaces):
    """The library's own pinned rate sent twice what the link took: four pictures in fourteen seconds.

    And a start that did not know the link let the first picture stand for two of them.
    """
    told = await call(14, delay=0.02, kbps=1000, queue=0.3)
    assert told["ordered"] and told["last_fps"] >= 14
    assert told["longest_gap"] <= 0.5 * SHARED_MACHINE


async def test_the_picture_is_back_soon_after_a_blackout(spaces):
    told = await call(12, delay=0.02, blackout=[4, 5])
    assert told["ordered"] and told["last_fps"] >= 12
    assert 4.5 < told["longest_gap"] <= 5 + 2 * SHARED_MACHINE
