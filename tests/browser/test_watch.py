"""The page plays streams that others publish: WHIP in from one tab, the field of the panel in another."""

import pytest
import pytest_asyncio

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

PUBLISH = """async () => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 128, height: 96 });
    const context = canvas.getContext("2d");
    globalThis.painter = setInterval(() => {
        context.fillStyle = `hsl(${performance.now() / 20} 80% 50%)`;
        context.fillRect(0, 0, 128, 96);
    }, 60);
    globalThis.up = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
    up.addTransceiver(canvas.captureStream(16).getVideoTracks()[0], { direction: "sendonly" });
    await up.setLocalDescription();
    while (up.iceGatheringState !== "complete") await new Promise((resolve) => setTimeout(resolve, 50));
    const headers = { "Content-Type": "application/sdp" }, body = up.localDescription.sdp;
    const answer = await fetch("/whip/show?operator=denoise&size=128x96", { method: "POST", headers, body });
    await up.setRemoteDescription({ type: "answer", sdp: await answer.text() });
    globalThis.place = answer.headers.get("Location");
    return answer.status;
}"""
PLAYS = "document.querySelector('#watched').videoWidth === 128 && document.querySelector('#watched').currentTime > 0.5"
TEXT = "document.querySelector('#watch-text').textContent"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def publisher(server, chromium, open_page):
    """A page that publishes the stream `show`."""
    async with open_page(chromium) as page:
        page.excused.append("404")  # it has no icon
        await page.goto(f"{server}/healthz")
        assert await page.evaluate(PUBLISH) == 201
        yield page


@pytest_asyncio.fixture(loop_scope="module")
async def viewer(server, chromium, open_page):
    async with open_page(chromium) as page:
        await page.goto(server)
        await page.wait_for_selector("#operator option", state="attached")
        await page.click("#watch summary")
        yield page


async def test_a_published_stream_is_played_by_its_name_and_let_go_again(publisher, viewer):
    await viewer.fill("#watch-name", "show")
    async with viewer.expect_response(lambda answer: "/whep/show" in answer.url) as answered:
        await viewer.press("#watch-name", "Enter")
    assert (await answered.value).status == 201
    await viewer.wait_for_function(PLAYS, timeout=60_000)
    assert await viewer.inner_text("#watch-toggle") == "Stop watching"
    async with viewer.expect_request(lambda request: request.method == "DELETE" and "/whep/show/" in request.url):
        await viewer.click("#watch-toggle")
    assert await viewer.is_hidden("#watched") and await viewer.inner_text("#watch-toggle") == "Watch"


async def test_a_stream_that_nobody_publishes_is_said_to_be_none(viewer):
    viewer.excused.append("409")
    await viewer.fill("#watch-name", "nothing")
    await viewer.click("#watch-toggle")
    await viewer.wait_for_function(f"{TEXT}.includes('nothing')")
    await viewer.wait_for_function(f"!{TEXT}.startsWith('Waiting')")
    assert await viewer.inner_text("#watch-toggle") == "Watch"


async def test_a_name_that_is_none_is_not_asked_for(viewer):
    asked = []
    viewer.on("request", lambda request: asked.append(request.url))
    for name in ("", "../sessions", "a b"):
        await viewer.fill("#watch-name", name)
        await viewer.click("#watch-toggle")
    assert not asked and await viewer.inner_text("#watch-toggle") == "Watch"


async def test_the_end_of_a_stream_is_told(publisher, viewer):
    await viewer.fill("#watch-name", "show")
    await viewer.click("#watch-toggle")
    await viewer.wait_for_function(PLAYS, timeout=60_000)
    await publisher.evaluate("fetch(place, { method: 'DELETE' }).then(() => up.close())")
    await viewer.wait_for_function(f"{TEXT} === 'show ended.'", timeout=60_000)
    assert await viewer.is_hidden("#watched")
