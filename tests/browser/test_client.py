"""The JavaScript client in a real browser, against the real server."""

import asyncio
import json
import subprocess
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from server.api.app import create_app, listening
from server.api.keys import SESSIONS
from server.settings import read_settings
from server.simulation.process import SimulatedProcess
from server.simulation.simulation import SimulatedDevice

pytestmark = pytest.mark.browser
in_module = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "clients/js"

PAINT = """
  const canvas = Object.assign(document.createElement("canvas"), {width: 128, height: 96});
  const paint = canvas.getContext("2d");
  let n = 0;
  setInterval(() => { paint.fillStyle = `hsl(${n++ * 9} 80% 50%)`; paint.fillRect(0, 0, 128, 96); }, 60);
  window.camera = canvas.captureStream(16).getVideoTracks()[0];
  window.client = await import("/client/index.js");
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served():
    """A server that also gives out the client, as a page's own server would."""
    fixed = {"port": 0, "admission": "places", "bind": ("127.0.0.1",), "max_sessions": 2}
    app = create_app(read_settings(**fixed))
    app.router.add_static("/client/lib", ROOT / "web")
    app.router.add_static("/client", CLIENT)
    app.router.add_get("/blank/page", blank)

    async def start_device():
        return SimulatedProcess(SimulatedDevice(seconds=0.02))

    app[SESSIONS].worker.start_device = start_device
    async with listening(app[SESSIONS].settings, app) as url:
        await app[SESSIONS].worker.settled()
        yield app[SESSIONS], url


async def blank(request):
    return web.Response(text="<link rel=icon href=data:,>", content_type="text/html")


@in_module
async def test_a_track_comes_back_restored_with_reports_and_outlives_its_connection(chromium, open_page, served):
    sessions, url = served
    async with open_page(chromium) as page:
        await page.goto(f"{url}/blank/page")
        size = await page.evaluate(
            f"""async () => {{
              {PAINT}
              window.restored = await client.restore(camera, {{operator: "denoise", size: "128x96"}});
              window.reports = [];
              restored.addEventListener("report", ({{detail}}) => reports.push(detail));
              window.video = Object.assign(document.createElement("video"), {{muted: true}});
              video.srcObject = restored.stream;
              await video.play();
              return [video.videoWidth, video.videoHeight, restored.track.kind];
            }}"""
        )
        assert size == [128, 96, "video"]
        [session] = sessions
        assert session.config.operator.kind == "denoise"
        await page.wait_for_function("reports.length >= 2")
        assert await page.evaluate("reports[0].operator") == "denoise"
        assert await page.evaluate("restored.change({operator: {kind: 'gaussian_blur', sigma: 2}})") > 0
        assert session.wanted.operator.sigma == 2
        told = "new Promise((resolve) => restored.addEventListener('track', ({detail}) => resolve(detail.kind)))"
        again = asyncio.ensure_future(page.evaluate(told))
        await page.evaluate("1")  # it listens by now
        await session.pc.close()
        assert await again == "video"
        assert await page.evaluate("restored.stream.getTracks().length") == 1
        [other] = sessions
        assert other.id != session.id and other.config.operator.sigma == 2
        assert await page.evaluate("(restored.stop(), restored.ended)") is None
        await page.wait_for_function("restored.track.readyState === 'ended'")


@in_module
async def test_what_cannot_be_mended_is_thrown(chromium, open_page, served):
    _, url = served
    async with open_page(chromium) as page:
        page.excused.append("422")
        await page.goto(f"{url}/blank/page")
        error = await page.evaluate(
            f"""async () => {{
              {PAINT}
              try {{ await client.restore(camera, {{operator: "nonsense"}}); }}
              catch (error) {{ return [error.name, error.status, error.code]; }}
            }}"""
        )
        assert error == ["ServerError", 422, "bad_setting"]


def test_the_package_holds_what_it_imports_and_depends_on_nothing(tmp_path):
    package = json.loads((CLIENT / "package.json").read_text())
    assert not {"dependencies", "peerDependencies"} & set(package)
    copied = [word for word in package["scripts"]["prepack"].split() if word.endswith(".js")]
    lib = {Path(word).name for word in copied}
    assert all((CLIENT / word).exists() for word in copied)
    for source in [CLIENT / "index.js", *(ROOT / "web" / name for name in lib)]:
        imported = {line.split('"')[1] for line in source.read_text().splitlines() if line.startswith("import ")}
        assert {Path(name).name for name in imported} <= lib, source


@pytest.mark.network
def test_npm_packs_it(tmp_path):
    run = subprocess.run(
        ["npm", "pack", "--json", "--pack-destination", tmp_path], cwd=CLIENT, capture_output=True, check=True
    )
    names = {one["path"] for one in json.loads(run.stdout[run.stdout.index(b"[") :])[0]["files"]}
    assert names >= {"index.js", "index.d.ts", "lib/api.js", "lib/keeper.js", "lib/pace.js", "lib/session.js"}
