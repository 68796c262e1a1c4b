"""Another browser tab as the source of the page. Which tab, a person chooses in a window that no test can reach."""

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

SHARE = """() => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 640, height: 360 });
    const context = canvas.getContext("2d");
    setInterval(() => {
        context.fillStyle = `hsl(${performance.now() / 20} 80% 50%)`;
        context.fillRect(0, 0, 640, 360);
    }, 60);
    navigator.mediaDevices.getDisplayMedia = async (wish) => {
        globalThis.wish = wish;
        return (globalThis.shared = canvas.captureStream(16));
    };
}"""
"""Answers as a person does who chooses a tab."""
DENY = """() => {
    navigator.mediaDevices.getDisplayMedia = () => { throw new DOMException("", "NotAllowedError"); };
}"""
STREAM_MS = 60_000


async def choose_tab(page, server, answer):
    await page.goto(f"{server}/?source=scene&size=256x144")
    await page.wait_for_selector("#operator option", state="attached")
    await page.evaluate(answer)
    await page.check("input[name=source][value=tab]", force=True)


async def test_a_tab_is_restored_and_let_go_again(server, chromium, open_page):
    async with open_page(chromium) as page:
        await choose_tab(page, server, SHARE)
        assert await page.inner_text("#start") == "Choose a tab" and await page.is_visible("#sound")
        await page.click("#start")
        await page.wait_for_selector("body:is([data-state=streaming], [data-state=passthrough])", timeout=STREAM_MS)
        wish = await page.evaluate("wish")
        assert wish["video"]["displaySurface"] == "browser" and wish["selfBrowserSurface"] == "exclude"
        assert wish["audio"] is False
        await page.click("#stop")
        assert await page.evaluate("shared.getTracks().map((track) => track.readyState)") == ["ended"]


async def test_a_tab_that_is_not_given_is_told(server, chromium, open_page):
    async with open_page(chromium) as page:
        await choose_tab(page, server, DENY)
        await page.click("#start")
        await page.wait_for_selector("#notice:visible")
        assert "did not allow the tab" in await page.inner_text("#notice p")
        assert await page.is_visible("#start")


async def test_an_address_may_name_the_tab(server, chromium, open_page):
    async with open_page(chromium) as page:
        await page.goto(f"{server}/?source=tab")
        await page.wait_for_selector("#operator option", state="attached")
        await page.wait_for_function("document.querySelector('#start').textContent === 'Choose a tab'")
