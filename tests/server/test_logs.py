"""The log: both forms, ids, one line for each kind of refusal an interval, and one that sums a session up."""

import json
import logging

import pytest
from aiohttp.test_utils import TestClient, TestServer

from server import logs
from server.api.app import create_app
from server.api.keys import SESSIONS
from server.logs import REQUEST, SESSION, Console, Context, Json, Sparing, one_line, public
from server.sessions.telemetry import SessionFigures
from server.settings import read_settings
from server.simulation.process import SimulatedProcess
from server.simulation.simulation import SimulatedDevice


def record(message="hello", **extra):
    made = logging.getLogger("avis").makeRecord("avis", logging.INFO, "f", 1, message, (), None, extra=extra)
    Context().filter(made)
    return made


def test_both_forms_tell_the_request_and_the_session():
    of_request, of_session = REQUEST.set("aa"), SESSION.set("bb")
    line, told = record(), record(session="cc")
    REQUEST.reset(of_request)
    SESSION.reset(of_session)
    assert Console().format(line).endswith("INFO avis [request aa, session bb]: hello")
    assert json.loads(Json().format(line)).items() >= {"request": "aa", "session": "bb", "level": "info"}.items()
    assert json.loads(Json().format(told))["session"] == "cc", "who names a session himself knows better"
    assert Console().format(record()).endswith("INFO avis: hello")


def test_of_a_sessions_id_eight_letters_are_told_and_the_node_that_it_names():
    assert public("abcdefghijklmnop") == "abcdefgh"
    assert public("a-node-with-a-long-name.abcdefghijklmnop") == "a-node-with-a-long-name.abcdefgh"


def test_a_json_line_is_one_line_whatever_it_tells():
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        made = record("a\nb", fields={"event": "x", "seconds": 1.5, "odd": {1, 2}})
        made.exc_info = (ValueError, error, error.__traceback__)
    text = Json().format(made)
    assert "\n" not in text
    told = json.loads(text)
    assert told["message"] == "a\nb" and told["event"] == "x" and told["seconds"] == 1.5
    assert "ValueError: two" in told["exception"] and told["ts"].endswith("Z")


def test_what_clients_say_cannot_break_a_line_or_move_the_cursor():
    assert one_line("a\r\n\x1b[2Jb\u2028c") == "a???[2Jb?c"
    assert len(one_line("x" * 5000)) == 300


def test_a_kind_of_event_is_told_once_an_interval_with_the_number_of_those_that_were_not():
    sparing = Sparing(10)
    assert [sparing.due("a", now) for now in (0, 1, 9.9)] == [0, None, None]
    assert sparing.due("b", 5) == 0
    assert sparing.due("a", 10) == 2
    assert sparing.due("a", 21) == 0


@pytest.fixture
async def http():
    app = create_app(read_settings(token="secret"))

    async def start_device():
        return SimulatedProcess(SimulatedDevice(seconds=0.01))

    app[SESSIONS].worker.start_device = start_device
    async with TestClient(TestServer(app), headers={"Authorization": "Bearer secret"}) as client:
        await app[SESSIONS].worker.settled()
        yield client


def refusals(caplog):
    return [made for made in caplog.records if getattr(made, "fields", {}).get("event") == "refusal"]


@pytest.mark.parametrize(
    "path, body, code",
    [("/whip/cam", "v=0", "no_video"), ("/whep/cam", "v=0", "not_published"), ("/sessions", "{}", "bad_content_type")],
)
async def test_a_refused_offer_leaves_one_line_with_its_reason(http, caplog, path, body, code):
    """A refused WHIP offer left none."""
    caplog.set_level(logging.INFO)
    for _ in range(3):
        reply = await http.post(path, data=body, headers={"Content-Type": "application/sdp"})
    [line] = refusals(caplog)
    assert line.fields["code"] == code
    assert line.fields["status"] == reply.status
    assert (await reply.json())["error"]["message"][:40] in line.getMessage()


async def test_a_wrong_token_is_logged_a_page_that_is_not_there_is_not(http, caplog):
    caplog.set_level(logging.INFO)
    await http.get("/nothing")
    assert not refusals(caplog)
    await http.get("/stats", headers={"Authorization": "Bearer wrong"})
    [line] = refusals(caplog)
    assert line.fields["code"] == "unauthorized"
    assert "wrong" not in line.getMessage()


async def test_every_answer_has_a_request_id_of_its_own(http):
    ids = {(await http.get("/healthz")).headers["X-Request-Id"] for _ in range(3)}
    assert len(ids) == 3
    assert REQUEST.get() == SESSION.get() == ""


def test_a_session_is_summed_up_in_plain_figures():
    figures = SessionFigures(frames_in=24, shed=1)
    figures.chunks.update(full=2, passthrough=1)
    figures.dropped["late"] += 3
    figures.left(0.9, 0.0)
    told = figures.summary(1.0)
    assert told["frames_in"] == 24 and told["frames_dropped"] == 3 and told["frames_out"] == 1
    assert (told["chunks"], told["chunks_passed"], told["chunks_shed"]) == (3, 1, 1)
    assert told["latency_p95_ms"] == 900
    assert SessionFigures().summary(0.0)["latency_p95_ms"] is None
    json.dumps(told)


def test_the_log_goes_to_standard_error_in_the_form_that_is_asked_for(capsys, monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.WARNING)
    logs.set_up("info", "json")
    logging.getLogger("avis").info("hello")
    assert json.loads(capsys.readouterr().err)["message"] == "hello"
