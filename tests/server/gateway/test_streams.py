"""WHIP and WHEP through gateways: one publisher a name, and players find it."""

import asyncio
from collections import Counter

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, VideoStreamTrack

from tests.server.gateway.conftest import site

SDP = {"Content-Type": "application/sdp"}


@pytest.fixture
async def offer():
    """The SDP of a publisher."""
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTransceiver(VideoStreamTrack(), direction="sendonly")
    await pc.setLocalDescription(await pc.createOffer())
    yield pc.localDescription.sdp
    await pc.close()


@pytest.fixture
async def watching():
    """The SDP of a player."""
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTransceiver("video", direction="recvonly")
    await pc.setLocalDescription(await pc.createOffer())
    yield pc.localDescription.sdp
    await pc.close()


async def test_a_stream_is_published_watched_and_ended_through_different_gateways(offer, watching):
    async with site("abc", gateways=2) as found:
        status, headers, answer = await found.ask("POST", "/whip/show", 0, data=offer, headers=SDP)
        assert status == 201 and answer.startswith("v=0")
        assert headers["Content-Type"].startswith("application/sdp")
        location = headers["Location"]
        assert location.startswith("/whip/show/") and "." in location
        status, headers, _ = await found.ask("POST", "/whep/show", 1, data=watching, headers=SDP)
        assert status == 201, "a player that came before the next report found no stream"
        player = headers["Location"]
        assert (await found.ask("GET", location, 1))[0] == 204
        assert (await found.ask("GET", player, 0))[0] == 204
        fragment = {"Content-Type": "application/trickle-ice-sdpfrag"}
        assert (await found.ask("PATCH", location, 1, data="", headers=fragment))[0] in (204, 400)
        assert (await found.ask("DELETE", player, 0))[0] == 200
        assert (await found.ask("DELETE", location, 1))[0] == 200
        assert (await found.ask("GET", location, 1))[0] == 404
        status, _, body = await found.ask("POST", "/whep/show", 0, data=watching, headers=SDP)
        assert (status, body["error"]["code"]) == (409, "not_published")


async def test_of_publishers_of_one_name_at_two_gateways_at_once_one_gets_it(offer):
    async with site("abc", gateways=2, max_sessions=8) as found:
        asked = [found.ask("POST", "/whip/one", index % 2, data=offer, headers=SDP) for index in range(8)]
        replies = await asyncio.gather(*asked)
        assert Counter(status for status, _, _ in replies) == {201: 1, 409: 7}
        assert sum(len(node.sessions) for node in found.nodes) == 1


async def test_names_are_published_on_other_nodes_when_their_own_is_full(offer):
    async with site("abc", max_sessions=1) as found:
        for number in range(3):
            assert (await found.ask("POST", f"/whip/s{number}", data=offer, headers=SDP))[0] == 201
        status, _, body = await found.ask("POST", "/whip/s3", data=offer, headers=SDP)
        assert (status, body["error"]["code"]) == (503, "full")


async def test_a_publisher_whose_node_died_publishes_the_name_again_elsewhere(offer, watching):
    async with site("abc") as found:
        _, headers, _ = await found.ask("POST", "/whip/show", data=offer, headers=SDP)
        name = headers["Location"].split("/")[-1].partition(".")[0]
        await found.node(name).server.close()
        await found.seen("lost", name)
        assert (await found.ask("POST", "/whep/show", data=watching, headers=SDP))[0] == 409
        status, headers, _ = await found.ask("POST", "/whip/show", data=offer, headers=SDP)
        assert status == 201
        assert headers["Location"].split("/")[-1].partition(".")[0] != name
        assert (await found.ask("POST", "/whep/show", data=watching, headers=SDP))[0] == 201


async def test_preflights_and_wrong_names_are_answered_as_a_node_answers_them(offer):
    async with site("a") as found:
        status, headers, _ = await found.ask("OPTIONS", "/whip/show")
        assert status == 200 and headers["Access-Control-Allow-Origin"] == "*"
        status, headers, body = await found.ask("POST", "/whip/bad!name", data=offer, headers=SDP)
        assert (status, body["error"]["code"]) == (404, "bad_name")
        assert headers.getall("Access-Control-Allow-Origin") == ["*"]
        status, headers, body = await found.ask("POST", "/whip/show", data=b"{}")
        assert (status, headers["Accept-Post"]) == (415, "application/sdp")
