"""A real Chromium for the tests of the page, with a synthetic clip as its camera.

The tests need Chromium, which pip cannot bring. A Makefile gets it where it is missing (as root, on Debian):

    command -v chromium || { apt-get update -q && apt-get install -y --no-install-recommends chromium; }
"""

import shutil
from contextlib import asynccontextmanager

import numpy as np
import pytest
import pytest_asyncio
from playwright.async_api import async_playwright

FPS = 16


@pytest.fixture(scope="session")
def camera_clip(tmp_path_factory):
    """Three seconds of 416x240 as Y4M: bars that drift over a gradient, and a square that runs."""
    path = tmp_path_factory.mktemp("camera") / "camera.y4m"
    y, x = np.mgrid[0:240, 0:416]
    with path.open("wb") as file:
        file.write(b"YUV4MPEG2 W416 H240 F16:1 Ip A1:1 C420jpeg\n")
        for n in range(3 * FPS):
            luma = (60 + y / 4 + 60 * ((x + 3 * n) // 9 % 2)).astype(np.uint8)
            luma[90:150, 8 * n : 8 * n + 60] = 235
            chroma = np.full((2, 120, 208), 128, np.uint8)
            file.write(b"FRAME\n" + luma.tobytes() + chroma.tobytes())
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium(camera_clip):
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.fail("Chromium is not installed: apt-get install chromium, or deselect with -m 'not browser'")
    arguments = [
        "--no-sandbox",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={camera_clip}",
        "--allow-loopback-in-peer-connection",
    ]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=arguments)
        yield browser
        await browser.close()


@pytest.fixture(scope="session")
def open_page():
    """`async with open_page(browser) as page`: a page whose console must stay free of errors.

    `page.excused` names the errors that a test provokes.
    """

    @asynccontextmanager
    async def open_page(browser, **options):
        context = await browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        page = await context.new_page()
        page.excused, errors = [], []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(f"{error}\n{error.stack}"))
        try:
            yield page
        finally:
            await page.goto("about:blank")  # a closed context is not told to its page
            await context.close()
        assert [e for e in errors if not any(word in e for word in page.excused)] == []

    return open_page
