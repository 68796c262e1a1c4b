"""The page's pure functions, in the browser that runs them."""

from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from core.operators.blur import GaussianBlur
from core.operators.masks import Inpainting
from core.operators.super_resolution import SuperResolution

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

WEB = Path(__file__).parents[2] / "web"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def files():
    async def blank(request):
        return web.Response(text="<link rel=icon href=data:,>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", blank)
    app.router.add_static("/", WEB)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ask(chromium, open_page, files):
    """Evaluates an expression of one of the page's modules: `ask("keeper", "m.backoff(0, 0)")`."""
    async with open_page(chromium) as page:
        await page.goto(files)

        async def ask(module, expression):
            return await page.evaluate(f"import('/{module}.js').then((m) => {expression})")

        yield ask


async def test_the_wait_before_a_new_try_doubles_up_to_a_bound_and_is_never_the_same_for_all(ask):
    assert await ask("keeper", "[0, 1, 2, 3, 4, 9].map((n) => m.backoff(n, 0))") == [1, 2, 4, 8, 15, 15]
    assert await ask("keeper", "m.backoff(2, 0.999)") == pytest.approx(5, abs=0.01)


async def test_history_forgets_what_is_older_than_its_span(ask):
    run = "(h => { for (let t = 0; t < 100; t++) h.push(t, {a: t}); return [h.points.length, h.last('a')]; })"
    assert await ask("history", f"{run}(new m.History(60))") == [60, 99]


async def test_a_series_runs_from_old_to_new_and_skips_what_is_no_number(ask):
    run = "(h => { h.push(0, {a: 1}); h.push(5, {a: null}); h.push(10, {a: 3}); return h.series('a', 10); })"
    assert await ask("history", f"{run}(new m.History(20))") == [[0.5, 1], [1, 3]]


async def test_rates_come_from_the_difference_of_two_readings(ask):
    reading = (
        "(t, sent, shown, held) => new Map([['i', {type: 'inbound-rtp', kind: 'video', timestamp: t,"
        " framesDecoded: shown, bytesReceived: 1000 * shown, jitterBufferDelay: held,"
        " jitterBufferEmittedCount: shown, freezeCount: 1}],"
        " ['o', {type: 'outbound-rtp', kind: 'video', timestamp: t, framesEncoded: sent}],"
        " ['p', {type: 'candidate-pair', nominated: true, state: 'succeeded', currentRoundTripTime: 0.02}]])"
    )
    run = "(read => m.readStats(read(2000, 32, 30, 1.1), m.readStats(read(1000, 16, 20, 1.0))))"
    stats = await ask("history", f"{run}({reading})")
    assert stats["sentFps"] == 16 and stats["shownFps"] == 10 and stats["kbit"] == 80
    assert (stats["jitter"], stats["rtt"], stats["freezes"]) == (pytest.approx(10), pytest.approx(20), 1)


async def test_choices_go_into_an_address_and_come_back(ask):
    chosen = "{...m.newPage().chosen, operator: 'inpainting', trust: 'over', x_init: true, num_steps: 2, camera: 'id', "
    chosen += "parameters: {inpainting: {keep: 0.3}, mask: {noise: 1}}}"
    touched = "new Set(['operator', 'trust', 'x_init', 'num_steps', 'camera'])"
    query = await ask("state", f"m.queryOf({chosen}, {touched})")
    assert query == "operator=inpainting&num_steps=2&x_init=true&trust=over&inpainting.keep=0.3"
    assert await ask("state", f"m.choicesOf('{query}&nonsense=1&camera=id')") == {
        "values": {"operator": "inpainting", "num_steps": 2, "x_init": True, "trust": "over"},
        "parameters": {"inpainting": {"keep": 0.3}},
    }


async def test_a_run_as_csv_has_a_column_for_each_figure_of_any_chunk(ask):
    text = await ask("save", """m.csv([{a: 1, ms: {x: 2}}, {a: 'say "no", twice', b: null}])""")
    assert text == 'a,ms.x,b\r\n1,2,\r\n"say ""no"", twice",,\r\n'


async def test_a_connection_that_fails_says_at_which_step(ask):
    states = ["{iceGatheringState: 'new'}", "{iceConnectionState: 'checking'}", "{iceConnectionState: 'connected'}"]
    words = [await ask("session", f"m.stuckAt({state})") for state in states]
    assert "no address" in words[0] and "firewall" in words[1] and "DTLS" in words[2]


async def test_a_cut_keeps_the_shape_and_stays_inside(ask):
    cut = await ask("sources", "m.crop(640, 480, {width: 416, height: 240})")
    assert cut["width"] / cut["height"] == pytest.approx(416 / 240)
    assert cut["x"] == 0 and cut["y"] > 0 and cut["y"] + cut["height"] <= 480


async def test_sent_pictures_have_even_sides_and_a_bound(ask):
    assert await ask("sources", "m.even({width: 105, height: 59})") == {"width": 106, "height": 60}
    assert await ask("sources", "m.even({width: 3840, height: 2160})") == {"width": 1280, "height": 720}


async def test_panels_lie_side_by_side_in_a_frame(ask):
    cuts = await ask("view", "[0, 1, 2].map((i) => m.cut(i, 3, 1248, 240))")
    assert [c["x"] for c in cuts] == [0, 416, 832] and all(c["width"] == 416 for c in cuts)


async def test_a_narrow_screen_stacks_the_pictures(ask):
    assert await ask("view", "m.grid(3, 360)") == {"columns": 1, "rows": 3}
    assert await ask("view", "m.grid(3, 1000)") == {"columns": 3, "rows": 1}
    assert await ask("view", "m.grid(4, 1000)") == {"columns": 2, "rows": 2}, "four in a row would be small"


@pytest.mark.parametrize("size", ["256x144", "416x240", "832x480"])
async def test_the_bitrate_grows_with_the_picture_within_bounds(ask, size):
    assert 800_000 <= await ask("session", f"m.bitrate('{size}')") <= 4_000_000


async def test_silence_is_several_looks_in_a_row_that_find_nothing_new(ask):
    looks = "((s, found) => found.map((bytes) => s.look(bytes)))(new m.Silence(), {})"
    assert await ask("session", looks.format([7, 7, 7, 7, 7, 7, 7, 8, 8])) == [False] * 5 + [True, True, False, False]
    assert not any(await ask("session", looks.format("[null, null, null, null, null, null, null, null]")))
    assert not any(await ask("session", looks.format([1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3]))), "reports are rare, not none"


async def test_a_session_is_deleted_before_its_connection_closes_however_often_it_is_closed(ask):
    """The second time the connection closed at once: the server ended the session, and the DELETE was a 404."""
    close_twice = """((session, asked) => {
        const { fetch } = globalThis;
        globalThis.fetch = (path, { method }) => new Promise(() => asked.push(method));
        session.id = "x";
        session.close();
        session.close();
        globalThis.fetch = fetch;
        return [...asked, session.pc.signalingState];
    })(new m.Session({}), [])"""
    assert await ask("session", close_twice) == ["DELETE", "stable"]


async def test_a_resumed_session_that_may_not_change_yet_is_told_later_and_kept(ask):
    """The refusal ended the session, and the stream that had just been saved."""
    run = """(async (answers, asked) => {{
        const signal = new AbortController().signal;
        const change = async (what) => {{ asked.push(what); const status = answers.shift(); if (status) throw {{ status, retryAfter: 0.01 }}; }};
        try {{ await m.tell({{ change }}, "x", signal); }} catch (error) {{ return [error.status, ...asked]; }}
        return asked;
    }})({answers}, [])"""  # noqa: E501
    assert await ask("keeper", run.format(answers=[429, 429, 0])) == ["x", "x", "x"]
    assert await ask("keeper", run.format(answers=[429, 404])) == [404, "x", "x"]


async def test_what_came_is_counted_over_every_pair_of_addresses(ask):
    stats = "new Map([['a', {type: 'candidate-pair', bytesReceived: 5}], ['b', {type: 'candidate-pair', bytesReceived: 2}], ['c', {type: 'inbound-rtp', bytesReceived: 9}]])"  # noqa: E501
    assert await ask("session", f"[m.received({stats}), m.received(new Map())]") == [7, None]


async def test_sliders_reach_their_default_and_stay_within_what_the_server_accepts(ask):

    for operator in (SuperResolution, Inpainting, GaussianBlur):
        for name, rule in operator.model_json_schema()["properties"].items():
            if rule["type"] not in ("number", "integer") or "enum" in rule or name == "seed":
                continue
            slider = await ask("operators", f"m.range({rule})".replace("'", '"'))
            assert slider["min"] <= rule["default"] <= slider["max"], name
            steps = (rule["default"] - slider["min"]) / slider["step"]
            assert steps == pytest.approx(round(steps)), name
            for value in (slider["min"], slider["max"]):
                operator.model_validate({name: value})


async def test_every_state_of_the_keeper_has_words(ask):
    states = [
        "idle",
        "opening",
        "warming",
        "connecting",
        "resuming",
        "connected",
        "streaming",
        "passthrough",
        "waiting",
        "failed",
    ]
    words = await ask(
        "status", f"{states}.map((s) => m.describeState(s, {{problem: {{message: 'x'}}, seconds: 3}}).pill)"
    )
    assert len(set(words)) == len(states) and "undefined" not in " ".join(words)


async def test_a_simpler_rung_is_told_with_its_reason(ask):
    assert await ask("status", "m.describeState('streaming', {rung: 'full'})") == {"pill": "Restoring"}
    simpler = await ask("status", "m.describeState('streaming', {rung: 'x_init'})")
    assert simpler["pill"] == "Restoring, simplified" and "too slow" in simpler["why"]


async def test_a_server_that_does_not_answer_is_not_said_to_keep_the_stream(ask):
    words = "m.describeState('waiting', {{problem: {{message: 'x', code: '{}'}}, seconds: 3, lost: true}}).wait"
    assert "keeps the stream" in await ask("status", words.format("lost"))
    assert "keeps the stream" not in await ask("status", words.format("unreachable"))


async def test_a_sentence_starts_large_and_ends_with_a_stop(ask):
    assert await ask("status", "m.sentence({message: 'all places are taken'})") == "All places are taken."
    assert await ask("status", "m.sentence({message: 'Wait!'})") == "Wait!"


async def test_a_flat_line_is_not_blown_up(ask):
    low, high = await ask("charts", "m.bounds([30, 30.01], 1)")
    assert high - low == pytest.approx(1) and low < 30 < high
