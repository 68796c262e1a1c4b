"""A restored stream is pushed to another server by WHIP, and a WHEP server is a source."""

import asyncio
import json
import sys

import pytest

from core.errors import UsageError
from server.api.keys import PUSHES, SESSIONS, SOURCES
from server.device.backoff import Backoff
from server.pushes.config import pushes_of
from server.settings import read_settings
from tests.server.conftest import serve
from tests.server.sources.conftest import Watcher
from tests.server.sources.test_source import faked, transport_stream, until

SECRET = "hunter2"


@pytest.fixture
def clip(tmp_path):
    transport_stream(tmp_path / "clip.ts")
    return tmp_path / "clip.ts"


async def test_a_source_goes_to_another_server_and_from_there_to_a_third_which_is_watched(clip):
    """File > first server > WHIP > second server, which asks for a token > WHEP > third server > WHEP player."""
    async with serve(token="of-the-second") as (second, _, there):
        first = {"source": [f"cam={clip},operator=denoise"], "push": [f"cam={there}/whip/far?operator=denoise"]}
        third = {
            "source": {"near": {"url": f"whep{there[4:]}/whep/far", "token": "of-the-second", "operator": "denoise"}}
        }
        async with serve(**first, push_token="of-the-second") as (app, _, _), serve(**third) as (_, http, url):
            await until(lambda: app[PUSHES]["cam"].state == "live", seconds=40)
            await until(lambda: any(s.figures.frames_left for s in second[SESSIONS]), seconds=40)
            player = await Watcher(http, f"{url}/whep/near").open()
            assert player.status == 201, player.error
            seen = await player.sees(3, seconds=40)
            assert (seen[-1].width, seen[-1].height) == (128, 96)
            await player.close()


async def test_a_server_that_takes_nothing_is_tried_again_and_named_without_its_address(clip, caplog, unused_tcp_port):
    to = f"http://user:{SECRET}@127.0.0.1:{unused_tcp_port}/{SECRET}"
    async with serve(source=[f"cam={clip},operator=denoise"], push=[f"cam={to}"]) as (app, http, url):
        push = app[PUSHES]["cam"]
        push.backoff = Backoff(sys.maxsize, first=0.05, factor=1.0, most=0.05)
        await until(lambda: push.faults > 2, seconds=40)
        async with http.get(f"{url}/stats") as reply:
            told = await reply.text()
        assert json.loads(told)["pushes"]["cam"]["fault"].startswith("the other server cannot be reached")
        assert app[SOURCES].all["cam"].state == "live"
    lines = [r.getMessage() for r in caplog.records if "the push of 'cam'" in r.getMessage()]
    assert len(lines) == 1 and SECRET not in told + caplog.text


async def test_a_push_waits_for_a_publisher_and_says_nothing_meanwhile(caplog):
    async with serve(push=["door=http://127.0.0.1:9/whip"]) as (app, _, _):
        await asyncio.sleep(0.2)
        assert (app[PUSHES]["door"].state, app[PUSHES]["door"].faults) == ("waiting", 0)


async def test_a_push_whose_source_fails_says_so(unused_tcp_port):
    source = [f"cam=rtsp://127.0.0.1:{unused_tcp_port}/x"]
    async with serve(source=source, push=["cam=http://127.0.0.1:9/whip"]) as (app, _, _):
        faked(app, ["connection refused"] * 100)
        await until(lambda: app[PUSHES]["cam"].fault is not None)
        assert "connection refused" in app[PUSHES]["cam"].fault


@pytest.mark.parametrize(
    "push, words",
    [
        ({"cam": f"rtsp://u:{SECRET}@h/x"}, "push cam: expected the address of a WHIP server"),
        ({"cam": f"http:///{SECRET}"}, "push cam: expected the address of a WHIP server"),
        ({"cam": f"http://h/{SECRET},codec=av1"}, "push cam: codec: expected 'vp8' or 'h264'"),
        ({"c m": f"http://h/{SECRET}"}, "push: expected a name"),
        ([f"http://h/{SECRET}"], "setting push: expected NAME=ADDRESS"),
    ],
)
def test_a_wrong_push_is_named_in_one_sentence_without_its_address(push, words):
    with pytest.raises(UsageError, match=words) as refused:
        pushes_of(read_settings(push=push))
    assert SECRET not in str(refused.value)


def test_the_token_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("AVIS_PUSH_TOKEN", SECRET)
    found = pushes_of(read_settings(push=["cam=whips://h/x,codec=h264"]))["cam"]
    assert (found.token.get_secret_value(), found.address, found.codec) == (SECRET, "https://h/x", "h264")
    assert SECRET not in repr(found)
