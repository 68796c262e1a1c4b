"""A page before a gateway: when its node drains, it moves to another, and its picture does not stand still."""

import asyncio
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import ClientSession

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

ROOT = Path(__file__).parents[2]
SERVE = ["--port", "0", "--admission", "places", "--max-sessions", "2", "--threads", "1", "--warm-sizes", "128x96"]
WATCH = """() => {
    const video = document.querySelector("#restored");
    globalThis.shown = [];
    const note = () => { shown.push(performance.now()); video.requestVideoFrameCallback(note); };
    video.requestVideoFrameCallback(note);
}"""
"""Notes when each picture is shown."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site():
    """The gateway's address, and the nodes' by name."""
    processes = []

    async def start(*words):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server", *words), cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        processes.append(process)
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        return line.decode().split()[-1]

    try:
        nodes = {name: await start("serve", "--node", name, *SERVE) for name in "ab"}
        url = await start("gateway", "--port", "0", "--nodes", ",".join(nodes.values()))
        async with ClientSession() as http, asyncio.timeout(90):
            while True:
                async with http.get(f"{url}/readyz") as reply:
                    if reply.status == 200 and (await reply.json())["nodes"] == 2:
                        break
                await asyncio.sleep(0.2)
        yield url, nodes
    finally:
        for process in processes:
            process.terminate()
            await process.wait()


async def test_a_page_moves_from_a_draining_node_and_shows_pictures_all_the_while(chromium, open_page, site):
    url, nodes = site
    async with open_page(chromium) as page, ClientSession() as http:
        posted = []
        page.on("response", lambda reply: posted.append(reply) if reply.request.method == "POST" else None)
        await page.goto(url)
        await page.locator("#start").click()
        await page.wait_for_selector("body:is([data-state=streaming], [data-state=passthrough])", timeout=60_000)
        first = (await posted[-1].json())["id"].partition(".")[0]
        await page.evaluate(WATCH)
        await asyncio.sleep(3)
        async with http.post(f"{nodes[first]}/cluster/drain", json={"seconds": 30}) as reply:
            assert (await reply.json()) == {"sessions": 1}
        async with asyncio.timeout(20):
            while len(posted) < 2:  # noqa: ASYNC110 - the page tells nobody
                await asyncio.sleep(0.1)
        answer = await posted[-1].json()
        assert answer["id"].partition(".")[0] not in ("", first) and answer["resumed"] is False
        await asyncio.sleep(8)
        shown = await page.evaluate("shown")
        gaps = [b - a for a, b in pairwise(shown)]
        print(f"longest gap {max(gaps):.0f} ms of {len(shown)} pictures")
        assert max(gaps) < 1500
        async with http.get(f"{nodes[first]}/cluster/node") as reply:
            assert (await reply.json())["open"] == 0, "the page left its old node"
        assert await page.evaluate("document.body.dataset.state") in ("streaming", "passthrough")
