"""The page in a real Chromium, against the real server: what a person sees, clicks and is told."""

import asyncio
import json
import os
import re
import signal
import struct
import time
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

SIZE = "256x144"
ALIVE = "body:is([data-state=streaming], [data-state=passthrough])"
"""pictures come back; a machine that is too slow for this minute may pass some chunks through"""
STREAM_MS = 60_000

CUT_PANEL = """(index) => {
    const video = document.querySelector("#restored"), c = document.createElement("canvas");
    const width = video.videoWidth / 3;
    Object.assign(c, { width, height: video.videoHeight });
    c.getContext("2d").drawImage(video, index * width, 0, width, c.height, 0, 0, width, c.height);
    return c.toDataURL();
}"""
LUMA = """() => {
    const video = document.querySelector("#restored"), c = document.createElement("canvas").getContext("2d");
    Object.assign(c.canvas, { width: 64, height: 36 });
    c.drawImage(video, 0, 0, video.videoWidth / 3, video.videoHeight, 0, 0, 64, 36);
    return [...c.getImageData(0, 0, 64, 36).data].filter((_, i) => i % 4 === 1);
}"""
LISTEN = """() => {
    const context = new AudioContext(), analyser = context.createAnalyser(), wave = new Float32Array(analyser.fftSize);
    context.createMediaStreamSource(document.querySelector("#restored").srcObject).connect(analyser);
    globalThis.loudest = 0;
    setInterval(() => {
        analyser.getFloatTimeDomainData(wave);
        loudest = Math.max(loudest, ...wave);
    }, 20);
}"""
"""Keeps the highest sample of the sound that came back: Chromium's camera beeps once a second."""
NOTE_STATES = """globalThis.states = {};
    new MutationObserver(() => {
        (states[document.body.dataset.state] ??= []).push(document.querySelector("#wait p").textContent);
    }).observe(document.body, { attributes: true })"""
"""Keeps the words of each state that the page is in, however shortly: see `told`."""
DENY = """() => {
    navigator.mediaDevices.getUserMedia = () => { throw new DOMException("", "NotAllowedError"); };
}"""
"""Answers as a person does who says no."""
MASK = "document.querySelector('#mask').toDataURL()"
PICTURE = "document.querySelector('#picture').toDataURL()"
FIGURE = "document.querySelector(`[data-figure='{}'] b`).textContent"


@pytest.fixture(scope="module")
def visit(server, chromium, open_page):
    """`async with visit() as page`: the page at the smallest size; `page.sessions` are the ids it opened."""

    @asynccontextmanager
    async def visit(**options):
        async with open_page(chromium, **options) as page:
            page.sessions = []
            page.on("response", lambda response: note_session(page, response))
            await page.goto(f"{server}/?source=scene&size={SIZE}")
            await page.wait_for_selector("#operator option", state="attached")
            yield page

    return visit


def note_session(page, response):
    if response.status == 201:
        page.sessions.append(response.headers["location"].rpartition("/")[2])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(visit):
    """A page that restores the built-in scene, shared by the tests that keep its session open."""
    async with visit() as page:
        await start(page)
        yield page


def opened(page):
    """The sessions that the page opened. One that it took up again, as it may on a busy machine, counts once."""
    return list(dict.fromkeys(page.sessions))


async def start(page):
    """Starts, and waits until frames of the server are on the screen."""
    await page.click("#start")
    await page.wait_for_selector(ALIVE, timeout=STREAM_MS)
    await page.wait_for_selector("#snapshot:enabled", timeout=STREAM_MS)


async def figure(page, name):
    return await page.inner_text(f"[data-figure='{name}'] b")


async def told(page, state):
    """The words that the page had in that state, once it was in it, since NOTE_STATES."""
    words = await page.wait_for_function(f"states[{state!r}]?.join(' ')", timeout=STREAM_MS, polling=100)
    return await words.json_value()


async def choose(page, name, value):
    await page.check(f"input[name={name}][value='{value}']", force=True)


async def ask(page, server, expected=200):
    """The server's report of the page's last session."""
    async with aiohttp.ClientSession() as http, http.get(f"{server}/sessions/{page.sessions[-1]}") as answer:
        assert answer.status == expected
        return await answer.json()


async def until(page, server, accepts):
    """The server's report of the page's last session, once it is as wanted."""
    async with asyncio.timeout(STREAM_MS / 1000):
        while not accepts(report := await ask(page, server)):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return report


async def until_gone(page, server):
    """Waits until the server has ended the page's last session: sooner than it would by itself."""
    async with aiohttp.ClientSession() as http, asyncio.timeout(5):
        while True:
            async with http.get(f"{server}/sessions/{page.sessions[-1]}") as answer:
                if answer.status == 404:
                    return
            await asyncio.sleep(0.05)


async def refuse_once(page, pattern, status, code, message, headers=None, **more):
    error = {"error": {"code": code, "message": message, "retryable": status == 503}, **more}
    page.excused.append(str(status))

    async def refuse(route):
        await route.fulfill(status=status, json=error, headers=headers or {})

    await page.route(pattern, refuse, times=1)


async def test_the_page_restores_under_its_own_content_security_policy(visit):
    """Whatever the policy blocks would be an error in the console, and no test's page may have one."""
    async with visit(bypass_csp=False) as page:
        await start(page)
        assert await page.text_content("#chunks rect title", timeout=STREAM_MS)


# ---- one session, looked at and changed ---------------------------------------------------------------


async def test_one_click_shows_restored_frames_and_their_figures(running):
    page = running
    restored = await page.text_content("#chunks rect:not(.rung-passthrough) title", timeout=STREAM_MS)
    assert re.fullmatch(r"chunk \d+: .*, residual 0\.\d+, \d+\.?\d* dB", restored), restored
    await page.wait_for_function("document.querySelectorAll('#chunks rect').length > 3", timeout=STREAM_MS)
    assert await page.evaluate("[restored.videoWidth, restored.videoHeight]") == [3 * 256, 144]
    before = await page.evaluate(PICTURE)
    await page.wait_for_function(f"(before) => {PICTURE} !== before", arg=before)
    await page.wait_for_function(f"/^\\d+\\.\\d\\d s$/.test({FIGURE.format('latency')})")
    await page.wait_for_function(f"Number({FIGURE.format('fps')}) > 2")
    await page.wait_for_function(f"Number({FIGURE.format('flicker')}) > 0.3")
    assert await page.query_selector("#chunks rect:not(.rung-passthrough)")


async def test_the_wipe_shows_both_pictures_of_the_same_frame(running):
    page = running
    await choose(page, "view", "wipe")
    await page.evaluate("restored.pause()")
    for against, panel in (("degraded", 1), ("original", 0)):
        await page.select_option("#against", against)
        await page.focus("#wipe")
        for key, shown in (("End", panel), ("Home", 2)):
            await page.keyboard.press(key)
            await page.wait_for_function(f"(panel) => {PICTURE} === ({CUT_PANEL})(panel)", arg=shown)
    await page.evaluate("restored.play()")


async def test_dragging_moves_the_wipe(running):
    page = running
    await choose(page, "view", "wipe")
    box = await page.locator("#picture").bounding_box()
    await page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 40)
    await page.mouse.down()
    await page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 40, steps=4)
    await page.mouse.up()
    await page.wait_for_function("Math.abs(document.querySelector('#wipe').getAttribute('aria-valuenow') - 80) <= 2")


async def test_side_by_side_and_single_show_the_pictures_they_name(running):
    page = running
    await choose(page, "view", "side")
    await page.wait_for_function(f"labels.children.length === 3 && picture.width === {3 * 256 + 2 * 6}")
    await choose(page, "view", "single")
    await page.select_option("#against", "degraded")
    await page.wait_for_function("labels.children.length === 1 && picture.width === 256")
    await page.wait_for_selector("#wipe", state="hidden")


async def test_the_snapshot_holds_every_picture(running):
    async with running.expect_download() as download:
        await running.click("#snapshot")
    assert (await download.value).suggested_filename.startswith("avis-")
    png = await asyncio.to_thread(Path(await (await download.value).path()).read_bytes)
    assert png.startswith(b"\x89PNG") and struct.unpack(">II", png[16:24]) == (3 * 256 + 2 * 6, 144 + 46)


async def test_a_phone_needs_no_sideways_scrolling(running):
    page = running
    await page.set_viewport_size({"width": 360, "height": 780})
    for view in ("wipe", "side", "single"):
        await choose(page, "view", view)
        await page.wait_for_timeout(200)
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360
    await page.set_viewport_size({"width": 1280, "height": 900})


@pytest.mark.parametrize("width", [1280, 900, 360])
async def test_the_words_of_every_button_fit_into_it(running, width):
    """The last size stuck out of its box."""
    await running.set_viewport_size({"width": width, "height": 900})
    beyond = await running.evaluate(
        """[...document.querySelectorAll(".segments, .segments span, .tiles span, .tools button")]
            .filter((box) => box.scrollWidth > box.clientWidth + 1).map((box) => box.textContent.trim())"""
    )
    await running.set_viewport_size({"width": 1280, "height": 900})
    assert beyond == []


async def test_a_new_operator_is_acknowledged_and_used(running, server):
    page = running
    await page.select_option("#operator", "inpainting")
    await page.wait_for_function("/from chunk \\d+/.test(applies.textContent)")
    first = int(re.search(r"\d+", await page.inner_text("#applies"))[0])
    shown = "Number(rung.textContent.match(/\\d+/)?.[0])"
    await page.wait_for_function(f"{shown} > {first}", timeout=STREAM_MS, polling=200)
    report = await ask(page, server)
    assert report["operator"]["kind"] == report["chunk"]["operator"] == "inpainting"
    assert len(page.sessions) == 1


async def test_a_sharper_look_is_asked_for_in_the_same_session(running, server):
    await running.click("label:has(input[value=sharp])")
    await until(running, server, lambda report: report["solver"]["tier"] == "sharp")
    await running.wait_for_function("/from chunk \\d+/.test(applies.textContent)")
    assert len(running.sessions) == 1


async def test_a_drawn_mask_is_sent_and_used(running, server):
    page = running
    await choose(page, "view", "wipe")
    async with page.expect_response(lambda r: r.request.method == "PATCH") as patched:
        await page.select_option("#operator", "mask")
    assert (await patched.value).status == 200
    before = (await ask(page, server))["operator"]["png"]
    box = await page.locator("#mask").bounding_box()
    await page.mouse.move(box["x"] + 60, box["y"] + 60)
    await page.mouse.down()
    await page.mouse.move(box["x"] + 220, box["y"] + 160, steps=5)
    async with page.expect_response(lambda r: r.request.method == "PATCH") as patched:
        await page.mouse.up()
    assert (await patched.value).status == 200
    operator = (await ask(page, server))["operator"]
    assert operator["kind"] == "mask" and operator["png"] != before


async def test_a_setting_the_server_refuses_is_told_and_what_is_in_force_is_shown(running, server):
    page = running
    page.excused.append("422")

    async def spoil(route):
        await route.continue_(post_data=json.dumps({"operator": {"kind": "super_resolution", "scale": 3}}))

    strokes = await page.evaluate(MASK)
    await page.route("**/sessions/*", spoil, times=1)
    await page.select_option("#operator", "gaussian_blur")
    await page.wait_for_selector("#notice:visible")
    assert "The session goes on as it was, with Mask" in await page.inner_text("#notice")
    assert "scale" in await page.inner_text("#notice")
    assert (await ask(page, server))["operator"]["kind"] == await page.input_value("#operator") == "mask"
    await page.wait_for_function(f"(strokes) => {MASK} === strokes", arg=strokes)
    assert await page.is_visible("#mask-tools") and await page.is_visible(ALIVE)


async def test_a_mask_that_leaves_nothing_is_taken_back_stroke_by_stroke(running):
    page = running
    page.excused.append("422")
    strokes = await page.evaluate(MASK)
    await page.fill("#brush", "60")
    await page.evaluate("brush.max = 2000; brush.value = 2000; brush.dispatchEvent(new Event('input'))")
    await page.click("#mask", position={"x": 200, "y": 100})
    await page.wait_for_function("notice.textContent.includes('the mask keeps no pixel')")
    await page.evaluate("brush.max = 60; brush.value = 18; brush.dispatchEvent(new Event('input'))")
    await page.wait_for_function(f"(strokes) => {MASK} === strokes", arg=strokes)
    assert await page.is_visible(ALIVE)


async def test_a_slider_held_down_asks_for_one_change_at_a_time_and_the_last_is_in_force(running, server):
    """Ten steps at once are not ten changes, each of which the server plans and the pictures wait for."""
    page = running
    asked = []
    page.on("request", lambda request: asked.append(request) if request.method == "PATCH" else None)
    await page.select_option("#operator", "inpainting")
    await page.wait_for_selector("[data-parameter=keep]")
    await page.evaluate(
        """() => {
          const slider = document.querySelector("[data-parameter=keep]");
          for (let step = 0; step < 10; step++) {
            slider.stepUp();
            for (const name of ["input", "change"]) slider.dispatchEvent(new Event(name, { bubbles: true }));
          }
        }"""
    )
    await until(page, server, lambda report: report["operator"].get("keep") == 0.6)
    assert len(asked) < 10
    await page.wait_for_selector("#notice", state="hidden")  # an old refusal is no news any more
    assert await page.input_value("[data-parameter=keep]") == "0.6"


async def test_a_change_asked_for_too_soon_is_asked_for_again(running, server):
    page = running
    await refuse_once(page, "**/sessions/*", 429, "too_many_changes", "Too many changes.", {"Retry-After": "1"})
    await page.select_option("#operator", "gaussian_blur")
    await until(page, server, lambda report: report["operator"]["kind"] == "gaussian_blur")
    await page.wait_for_selector("#notice", state="hidden")


async def test_a_file_that_does_not_play_leaves_the_source_there_is(running):
    page = running
    page.excused.append("MEDIA_ERR")
    await page.set_input_files("#file", {"name": "film.mp4", "mimeType": "video/mp4", "buffer": b"no film"})
    await page.wait_for_function("notice.textContent.includes('cannot play film.mp4')")
    assert await page.is_checked("input[name=source][value=scene]")
    await page.wait_for_selector(ALIVE, timeout=STREAM_MS)
    assert len(page.sessions) == 1


async def test_the_camera_takes_the_place_of_the_scene_in_the_same_session(running):
    page = running
    await page.evaluate(f"globalThis.scene = ({LUMA})()")
    await choose(page, "source", "camera")
    change = f"({LUMA})().reduce((sum, y, i) => sum + Math.abs(y - scene[i]), 0) / scene.length"
    await page.wait_for_function(f"{change} > 30", timeout=STREAM_MS, polling=300)
    assert len(page.sessions) == 1 and await page.is_visible(ALIVE)


# ---- how sessions begin and end -----------------------------------------------------------------------


async def test_restore_only_takes_the_source_as_the_measurement(visit):
    async with visit() as page:
        await choose(page, "mode", "incoming")
        assert "degrades" not in await page.inner_text("#about")
        assert "Choose below what really is wrong with it" in await page.inner_text("#mode-text")
        await choose(page, "source", "camera")
        await start(page)
        restored = await page.text_content("#chunks rect:not(.rung-passthrough) title", timeout=STREAM_MS)
        assert re.fullmatch(r"chunk \d+: .*, residual 0\.\d+", restored), restored
        assert await page.evaluate("[restored.videoWidth, restored.videoHeight]") == [2 * 256, 144]
        assert "dB" not in await figure(page, "psnr")


async def test_low_latency_restores_four_frames_at_a_time(visit, server):
    async with visit() as page:
        await page.check("#low_latency")
        await start(page)
        report = await (await page.request.get(f"{server}/sessions/{page.sessions[-1]}")).json()
        assert report["latency"] == "low" and report["chunk"]["frames"] in (4, 5)


async def test_the_cameras_sound_comes_back_with_the_picture_where_it_was_asked_for(visit):
    async with visit() as page:
        await choose(page, "source", "camera")
        await page.check("#sound")
        await start(page)
        await page.wait_for_function("!restored.muted && restored.srcObject.getAudioTracks().length === 1")
        await page.evaluate(LISTEN)
        await page.wait_for_function("loudest > 0.01", timeout=STREAM_MS, polling=300)
        await page.uncheck("#sound")
        await page.wait_for_function("restored.muted && restored.srcObject.getAudioTracks().length === 0")
        await page.wait_for_selector(ALIVE, timeout=STREAM_MS)
        assert len(opened(page)) == 2


async def test_leaving_the_page_ends_the_session(visit, server):
    async with visit() as page:
        await start(page)
        await page.goto("about:blank")
        await until_gone(page, server)


async def test_stop_ends_the_session_and_start_opens_another(visit, server, cut_ways):
    async with visit() as page:
        await start(page)
        await page.click("#stop")
        await page.wait_for_selector("#start:visible")
        await until_gone(page, server)
        await start(page)
        assert len(opened(page)) == 2


async def test_a_session_that_dies_is_opened_anew(visit, server):
    async with visit() as page:
        await start(page)
        await page.evaluate(NOTE_STATES)
        async with aiohttp.ClientSession() as http:
            await http.delete(f"{server}/sessions/{page.sessions[0]}")
        await told(page, "waiting")
        await told(page, "connected")
        await page.wait_for_selector(ALIVE, timeout=STREAM_MS)
        assert len(opened(page)) == 2


async def test_a_connection_that_is_cut_is_made_anew_and_the_same_stream_goes_on(visit, server, cut_ways):
    async with visit() as page, cut_ways(page) as ways:
        await start(page)
        before = await ask(page, server)
        await page.evaluate(NOTE_STATES)
        ways.cut()
        cut = time.monotonic()
        await page.wait_for_function("'waiting' in states", timeout=20_000, polling=100)
        assert time.monotonic() - cut < 5.5, "the browser itself takes six seconds"
        assert "Connected again" in await told(page, "connected")
        waited = "The connection was lost. The server keeps the stream for a few seconds. Trying again in 1 s."
        assert waited in await told(page, "waiting")
        await page.wait_for_selector(ALIVE, timeout=STREAM_MS)
        await page.wait_for_function("restored.srcObject.active && restored.videoWidth > 0")
        after = await ask(page, server)
        assert len(page.sessions) > 1 and len(opened(page)) == 1
        assert after["resumed"] == len(page.sessions) - 1 and after["age"] > before["age"]
        assert after["chunk"]["chunk"] > before["chunk"]["chunk"], "its chunks are counted on"


async def test_a_device_that_dies_or_stands_still_is_not_taken_for_a_cut(visit, server):
    async with visit() as page, aiohttp.ClientSession() as http:
        await start(page)
        await page.evaluate(NOTE_STATES)
        for number, seconds in ((signal.SIGSTOP, 3.5), (signal.SIGKILL, 0)):
            async with http.get(f"{server}/stats") as answer:
                os.kill((await answer.json())["processes"]["device"]["pid"], number)
            await asyncio.sleep(seconds)
            await told(page, "passthrough")
        await page.wait_for_selector("body[data-state=streaming]", timeout=STREAM_MS)  # seconds later
        assert len(page.sessions) == 1 and not {"waiting", "resuming"} & (await page.evaluate("states")).keys()
        assert (await ask(page, server))["resumed"] == 0


async def test_a_hidden_tab_goes_on_and_costs_no_latency(tabs, server):
    """The page's own timers nearly stand still there; a worker's do not, and the video is still taken."""
    async with tabs(f"{server}/?source=scene") as tab, aiohttp.ClientSession() as http:

        async def ask_all():
            async with http.get(f"{server}/stats") as answer:
                session = min((await answer.json())["sessions"], key=lambda session: session["age"])
            shown = await tab.evaluate("restored.getVideoPlaybackQuality().totalVideoFrames")
            return session["frames"]["in"], shown, session["age"], session["latency_ms"]["p50"], session["resumed"]

        await tab.until("!!document.querySelector('#operator option')")
        await tab.evaluate(f"document.querySelector('input[value=\"{SIZE}\"]').click(); start.click()")
        await tab.until(f"!!document.querySelector('{ALIVE}')")
        await asyncio.sleep(1)
        await tab.hide()
        await tab.until("document.hidden")
        before = await ask_all()
        await asyncio.sleep(5)
        assert await tab.evaluate("document.hidden")
        after = await ask_all()
        await tab.show()
        await tab.until("!document.hidden")
        await tab.until(f"restored.getVideoPlaybackQuality().totalVideoFrames > {after[1] + 8}")
        again = await ask_all()
    seconds = after[2] - before[2]
    assert after[0] - before[0] > 0.6 * 16 * seconds, "pictures that were sent: a page's timers send one a second"
    assert after[1] - before[1] > 0.4 * 16 * seconds, "pictures that came back"
    assert again[4] == 0
    assert again[3] < before[3] + 1000, "at one picture a second a chunk fills for twelve seconds"


async def test_frames_that_the_way_loses_are_told_to_the_operator_and_to_the_person(visit, server, cut_ways):
    async with visit() as page, cut_ways(page) as ways:
        await start(page)
        ways.cut()
        await page.wait_for_timeout(700)
        ways.mend()
        await page.wait_for_function("drops.textContent.includes('lost on the way')", timeout=STREAM_MS)
        report = await ask(page, server)
        assert report["resumed"] == 0 and len(page.sessions) == 1
        assert 2 <= report["frames"]["lost"] <= 40


async def test_a_connection_that_is_cut_after_the_session_is_gone_opens_another(visit, server, cut_ways):
    async with visit() as page, cut_ways(page) as ways:
        await start(page)
        await page.evaluate(NOTE_STATES)
        ways.cut()
        page.excused.append("404")
        async with aiohttp.ClientSession() as http:
            await http.delete(f"{server}/sessions/{page.sessions[0]}")
        await told(page, "connected")
        assert "The server has not kept the session. Trying again in" in await told(page, "waiting")
        await page.wait_for_selector(ALIVE, timeout=STREAM_MS)
        assert page.sessions[-1] != page.sessions[0]
        assert (await ask(page, server))["resumed"] == 0


async def test_a_full_server_is_asked_again_when_it_said(visit):
    async with visit() as page:
        await refuse_once(page, "**/sessions", 503, "full", "all places are taken", {"Retry-After": "1"})
        await page.evaluate(NOTE_STATES)
        await page.click("#start")
        assert "All places are taken. Trying again in 1 s." in await told(page, "waiting")
        await told(page, "connected")
        assert len(page.sessions) == 1


async def test_a_place_in_line_is_told_and_kept(visit):
    async with visit() as page:
        queue = {"position": 2, "ticket": "t1cket"}
        await refuse_once(page, "**/sessions", 503, "full", "1 in line come first", {"Retry-After": "1"}, queue=queue)
        asked = []
        page.on("request", lambda request: asked.append(request) if request.url.endswith("/sessions") else None)
        await page.evaluate(NOTE_STATES)
        await page.click("#start")
        assert "The server is full. You are number 2 in line. Trying again" in await told(page, "waiting")
        await told(page, "connected")
        first, second = (request.post_data_json for request in asked)
        assert first["queue"] is True and second["ticket"] == "t1cket"


async def test_stop_gives_up_the_place_in_line(visit):
    async with visit() as page:
        queue = {"position": 1, "ticket": "t1cket"}
        await refuse_once(page, "**/sessions", 503, "full", "the server is full", {"Retry-After": "9"}, queue=queue)
        await page.click("#start")
        await page.wait_for_selector("body[data-state=waiting]")
        async with page.expect_response("**/queue/t1cket") as left:
            await page.click("#stop")
        assert (await left.value).status == 204


async def test_the_keyboard_stays_at_the_button_that_started_and_stopped(visit):
    async with visit() as page:
        await page.focus("#start")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("#stop:focus")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("#start:focus")


async def test_on_a_phone_the_picture_stays_in_sight_of_its_settings_and_of_what_went_wrong(visit):
    async with visit(viewport={"width": 390, "height": 844}) as page:
        await page.evaluate("document.querySelector('#controls details').open = true")
        await page.evaluate("num_steps.scrollIntoView()")
        await page.wait_for_function("scrollY > 300")
        assert (await page.locator("#theatre").bounding_box())["y"] == pytest.approx(0, abs=1)
        await page.evaluate(DENY)
        await choose(page, "source", "camera")
        await page.click("#start")
        await page.wait_for_function("notice.textContent.includes('did not allow the camera')")
        notice, button = [await page.locator(id).bounding_box() for id in ("#notice", "#start")]
        assert button["y"] + button["height"] <= notice["y"] < notice["y"] + notice["height"] <= 844


async def test_a_cold_model_is_waited_for_and_said(visit):
    async with visit() as page:
        await refuse_once(page, "**/readyz", 503, "not_ready", "tiny is loading", {"Retry-After": "1"})
        await page.evaluate(NOTE_STATES)
        await page.click("#start")
        assert "Tiny is loading." in await told(page, "warming")
        await told(page, "connected")


@pytest.mark.parametrize(
    "route, status, code, message, told",
    [
        ("**/sessions", 422, "bad_setting", "size is too large", "Size is too large. Change the settings"),
        (
            "**/ice",
            401,
            "unauthorized",
            "a token is expected",
            "A token is expected. Open this page with the server's token",
        ),
    ],
)
async def test_a_refusal_for_good_is_told_in_the_servers_words(visit, route, status, code, message, told):
    async with visit() as page:
        await refuse_once(page, route, status, code, message)
        await page.click("#start")
        await page.wait_for_selector("body[data-state=failed]")
        assert told in await page.inner_text("#notice")
        assert await page.is_visible("#start")


async def test_every_control_has_a_name_and_can_be_reached_by_keyboard(visit):
    async with visit() as page:
        nameless = await page.evaluate(
            """[...document.querySelectorAll("button, select, input, [role=slider]")].filter((e) => !(
                e.ariaLabel || e.getAttribute("aria-labelledby") || e.textContent.trim()
                || e.labels?.[0]?.textContent.trim())).map((e) => e.outerHTML)"""
        )
        assert nameless == []
        reached = set()
        for _ in range(40):
            await page.keyboard.press("Tab")
            reached.add(await page.evaluate("document.activeElement.id || document.activeElement.name"))
        assert {"theme", "start", "view", "against", "source", "operator", "size", "loupe-toggle"} <= reached


async def test_the_page_shows_the_token_of_its_address_and_takes_it_out_of_sight(server, visit):
    async with visit() as page:
        await page.goto(f"{server}/#token=s3cret")
        await page.reload()
        async with page.expect_request("**/ice") as asked:
            await page.click("#start")
        assert (await (await asked.value).all_headers())["authorization"] == "Bearer s3cret"
        assert await page.evaluate("location.href") == f"{server}/", "an address with a token is soon shared"


async def test_axe_finds_no_barrier_by_day_by_night_or_on_a_phone(visit):
    axe = pytest.importorskip("axe_playwright_python.base", reason="axe-core comes with axe-playwright-python")
    async with visit() as page:
        await page.select_option("#trust", "over")
        await page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
        await page.evaluate(axe.AXE_SCRIPT)
        for scheme, width, height in (("light", 1280, 900), ("dark", 1280, 900), ("light", 390, 844)):
            await page.emulate_media(color_scheme=scheme)
            await page.set_viewport_size({"width": width, "height": height})
            found = await page.evaluate("axe.run()")
            barriers = [rule["id"] for rule in found["violations"] if rule["impact"] in ("serious", "critical")]
            assert barriers == [], (scheme, width)


async def test_an_address_opens_the_page_with_its_settings_and_follows_them(visit, server):
    async with visit() as page:
        await page.goto(f"{server}/?operator=inpainting&inpainting.keep=0.3&size=832x480&view=side&mode=no&x=1#token=t")
        await page.wait_for_selector("[data-parameter=keep]")
        assert await page.input_value("[data-parameter=keep]") == "0.3"
        assert await page.is_checked("input[value='832x480']") and await page.is_checked("input[value=side]")
        assert await page.is_checked("input[value=simulate]"), "there is no such mode"
        await choose(page, "size", "256x144")
        await page.wait_for_function("location.search.includes('size=256x144')")
        address = await page.evaluate("location.href")
        assert "inpainting.keep=0.3" in address and "token" not in address


async def test_the_film_plays_and_the_page_begins_with_a_size_that_the_machine_holds(visit, server):
    async with visit() as page:
        async with page.expect_response("**/models") as told:
            await page.goto(server)
        size = (await (await told.value).json())["models"][0]["start_size"]
        await page.wait_for_selector(f"input[name=size][value='{size}']:checked", state="attached")
        await page.wait_for_function("local.videoWidth === 832 && local.currentTime > 0.2")


async def test_a_run_is_saved_and_a_smaller_size_is_one_click(visit):
    async with visit() as page:
        await choose(page, "size", "320x192")
        await start(page)
        async with page.expect_download() as download:
            await page.evaluate("document.querySelector('#save-csv').click()")
        text = await asyncio.to_thread(Path(await (await download.value).path()).read_text)
        assert text.startswith("at,chunk,") and "ms.total" in text.splitlines()[0]
        await page.evaluate("smaller.hidden = false; smaller.lastElementChild.value = '256x144'")
        await page.click("#smaller button")
        await page.wait_for_function("restored.videoWidth === 3 * 256", timeout=STREAM_MS)


async def test_the_trust_map_lies_over_the_picture_or_beside_it_and_tells_its_shares(visit):
    async with visit() as page:
        await page.select_option("#operator", "inpainting")
        await page.select_option("#trust", "over")
        await start(page)
        await page.wait_for_function(
            f"restored.videoWidth === {4 * 256} && labels.children.length === 2", timeout=STREAM_MS
        )
        measured = "document.querySelector('[data-share=measured] b').textContent"
        await page.wait_for_function(f"/^(49|50|51) %$/.test({measured})", timeout=STREAM_MS)
        await page.select_option("#trust", "beside")
        await choose(page, "view", "side")
        await page.wait_for_function("labels.children.length === 4")
        assert len(page.sessions) == 1, "the pictures are the same"
        await page.select_option("#trust", "off")
        await page.wait_for_function("restored.videoWidth === 3 * 256", timeout=STREAM_MS)
        await page.wait_for_selector("#trust-legend", state="hidden")
