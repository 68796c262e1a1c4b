"""The page in a real Firefox, against the real server: every control, and that both sides of the wipe are one frame."""

import shutil

import pytest
import pytest_asyncio

from tests.browser.firefox import firefox

pytestmark = [pytest.mark.network, pytest.mark.asyncio(loop_scope="module")]

SIZE = "256x144"
STATE = "document.body.dataset.state"
ALIVE = f"['streaming', 'passthrough'].includes({STATE})"
CUT = """((panels, index) => {
    const c = document.createElement("canvas"), width = restored.videoWidth / panels;
    Object.assign(c, { width, height: restored.videoHeight });
    c.getContext("2d").drawImage(restored, index * width, 0, width, c.height, 0, 0, width, c.height);
    return c.toDataURL();
})"""
CHANGED = """(() => {
    const c = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    c.drawImage(picture, 0, 0);
    const now = c.getImageData(0, 0, 100, 100).data.join();
    const changed = globalThis.before !== undefined && globalThis.before !== now;
    globalThis.before = now;
    return changed;
})()"""


@pytest.fixture(scope="module")
def firefox_program():
    """The path of Firefox. Where it is missing the test fails: `make network` brings it."""
    program = shutil.which("firefox-esr") or shutil.which("firefox")
    if program is None:
        pytest.fail("Firefox is not installed: apt-get install firefox-esr")
    return program


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def page(server, firefox_program, tmp_path_factory):
    """The page while it restores a video; each test leaves it so."""
    async with firefox(firefox_program, tmp_path_factory.mktemp("firefox")) as page:
        await page.goto(f"{server}/?source=scene&size={SIZE}")
        await page.until("!!document.querySelector('#operator option')")
        await page.click("#start")
        await page.until(ALIVE)
        await page.until("restored.videoWidth === 3 * 256 && !snapshot.disabled")
        yield page
        assert page.errors == []


def label(name, value):
    """The label of one choice, which is what a person clicks."""
    return f"label:has(input[name={name}][value='{value}'])"


async def test_restored_pictures_move_and_their_figures_are_told(page):
    await page.until(CHANGED)
    await page.until("/^\\d+\\.\\d\\d s$/.test(document.querySelector('[data-figure=latency] b').textContent)")
    await page.until("Number(document.querySelector('[data-figure=fps] b').textContent) > 2")
    await page.until("document.querySelectorAll('#chunks rect').length > 3")


async def test_both_sides_of_the_wipe_are_the_same_frame(page):
    await page.evaluate("restored.pause()")
    for against, panel in (("degraded", 1), ("original", 0)):
        await page.choose("#against", against)
        await page.evaluate("wipe.focus()")
        for key, shown in (("\ue010", panel), ("\ue011", 2)):  # End, Home
            await page.press(key)
            await page.until(f"picture.toDataURL() === {CUT}(3, {shown})")
    await page.evaluate("restored.play()")


async def test_the_pointer_moves_the_wipe(page):
    await page.click("#theatre")
    await page.until("Math.abs(document.querySelector('#wipe').getAttribute('aria-valuenow') - 50) <= 3")


async def test_the_views_the_loupe_and_the_trust_map_show_what_they_name(page):
    await page.click(label("view", "side"))
    await page.until("labels.children.length === 3")
    await page.click(label("view", "single"))
    await page.until("labels.children.length === 1 && picture.width === 256")
    await page.click("#loupe-toggle")
    await page.until("!loupe.hidden")
    await page.click("#loupe-toggle")
    await page.until("loupe.hidden")
    await page.choose("#trust", "over")
    await page.until(f"restored.videoWidth === 4 * 256 && !document.querySelector('#trust-legend').hidden && {ALIVE}")
    await page.until("document.querySelector('[data-share=measured] b').textContent.endsWith('%')")
    await page.choose("#trust", "off")
    await page.click(label("view", "wipe"))
    await page.until(f"restored.videoWidth === 3 * 256 && labels.children.length === 2 && {ALIVE}")


async def test_every_operator_is_used_and_acknowledged(page):
    kinds = await page.evaluate("[...operator.options].map((option) => option.value)")
    assert len(kinds) > 5
    kinds.remove("super_resolution")  # it is the one in force
    for kind in [*kinds, "super_resolution"]:
        await page.evaluate("applies.textContent = ''")
        await page.choose("#operator", kind)
        await page.until("/from chunk \\d+/.test(applies.textContent)")
        assert await page.evaluate("notice.hidden"), (kind, await page.evaluate("notice.textContent"))
        await page.until(ALIVE)


async def test_settings_are_used_in_the_running_session(page):
    await page.click(label("tier", "sharp"))
    await page.until("/from chunk \\d+/.test(applies.textContent)")
    await page.click(label("tier", "faithful"))
    for name, value in (("num_steps", "1"), ("reinject_every", "3"), ("num_steps", "0")):
        await page.choose(f"#{name}", value)
    await page.until(ALIVE)
    assert await page.evaluate("notice.hidden")


async def test_size_mode_latency_and_source_are_changed(page):
    await page.click(label("source", "camera"))
    await page.until(f"local.videoWidth > 0 && {ALIVE}")
    await page.click(label("mode", "incoming"))
    await page.until(f"restored.videoWidth === 2 * 256 && {ALIVE}")
    await page.click("label:has(#low_latency)")
    await page.until(f"{ALIVE} && document.querySelector('#low_latency').checked")
    await page.click(label("size", "320x192"))
    await page.until(f"restored.videoWidth === 2 * 320 && {ALIVE}")
    await page.click(label("source", "film"))
    await page.click(label("mode", "simulate"))
    await page.click("label:has(#low_latency)")
    await page.click(label("size", SIZE))
    await page.until(f"restored.videoWidth === 3 * 256 && {ALIVE}")


async def test_stop_ends_the_session_and_start_opens_another(page):
    await page.click("#stop")
    await page.until("document.querySelector('#stop').hidden && document.querySelector('#start').offsetParent !== null")
    await page.click("#start")
    await page.until(f"{ALIVE} && restored.videoWidth === 3 * 256")
