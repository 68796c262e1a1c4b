"""A gateway before real applications: where requests go, and what happens when a node drains, dies or hangs."""

import asyncio
import logging
from collections import Counter
from hashlib import sha256

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from core.errors import UsageError
from server.api.cluster import NODE_SIDE
from server.gateway.settings import read_gateway
from server.scheduling.admission import Refuse
from tests.server.gateway.conftest import TOKEN, site, start_gateway, start_node, until


async def opened(site, offer, gateway=0, **body):
    status, headers, answer = await site.ask("POST", "/sessions", gateway, json={**offer, **body})
    assert status == 201, answer
    assert headers["Location"] == f"/sessions/{answer['id']}"
    return answer["id"]


async def refused(reply, status, code):
    """The error of a reply, which must have the one form that there is."""
    found, headers, body = reply
    assert (found, body["error"]["code"]) == (status, code), body
    assert set(body["error"]) == {"code", "message", "retryable"}
    assert body["error"]["retryable"] is ("Retry-After" in headers)
    return body["error"]["message"]


async def test_a_session_is_opened_asked_changed_and_ended_through_a_gateway(three, offer):
    session = await opened(three, offer)
    name = session.partition(".")[0]
    assert len(three.node(name).sessions) == 1
    url = f"/sessions/{session}"
    status, _, report = await three.ask("GET", url)
    assert (status, report["id"], report["state"]) == (200, session, "connecting")
    change = {"operator": {"kind": "inpainting"}}
    assert (await three.ask("PATCH", url, json=change))[2] == {"applies_from_chunk": 0}
    assert (await three.ask("GET", url))[2]["operator"]["kind"] == "inpainting"
    assert (await three.ask("DELETE", url))[0] == 204
    await refused(await three.ask("GET", url), 404, "no_session")


async def test_offers_one_after_the_other_are_spread_and_the_one_too_many_is_refused(three, offer):
    ids = [await opened(three, offer) for _ in range(6)]
    assert Counter(session[0] for session in ids) == {"a": 2, "b": 2, "c": 2}
    reply = await three.ask("POST", "/sessions", json=offer)
    await refused(reply, 503, "full")
    assert "queue" not in reply[2]


async def test_two_gateways_and_twice_as_many_offers_as_places_open_exactly_the_places(offer):
    async with site(gateways=2, max_sessions=4) as found:
        asked = [found.ask("POST", "/sessions", index % 2, json=offer) for index in range(24)]
        replies = await asyncio.gather(*asked)
        assert Counter(status for status, _, _ in replies) == {201: 12, 503: 12}
        assert [len(node.sessions) for node in found.nodes] == [4, 4, 4]
        for status, headers, body in replies:
            if status == 503:
                await refused((status, headers, body), 503, "full")


async def test_any_gateway_answers_for_a_session_that_another_opened(offer):
    async with site("ab", gateways=2) as found:
        session = await opened(found, offer, 0)
        assert (await found.ask("GET", f"/sessions/{session}", 1))[2]["id"] == session
        assert (await found.ask("DELETE", f"/sessions/{session}", 1))[0] == 204
        assert sum(len(node.sessions) for node in found.nodes) == 0


@pytest.mark.parametrize("session", ["x", "nobody.token", "a.unknown", "a.%2e%2e", "a." + "x" * 3000])
async def test_an_id_that_is_none_is_a_404_in_the_one_form(three, session):
    for method in ("GET", "DELETE", "PATCH"):
        status, _, body = await three.ask(method, f"/sessions/{session}", json={})
        assert status in (404, 405) and set(body) == {"error"}, body


async def test_what_is_wrong_with_an_offer_is_told_in_the_words_of_a_node_and_costs_no_place(three, offer):
    reply = await three.ask("POST", "/sessions", json={**offer, "operator": {"kind": "blurr"}})
    assert "blurr" in await refused(reply, 422, "bad_setting")
    assert "huge" in await refused(
        await three.ask("POST", "/sessions", json={**offer, "model": "huge"}), 422, "unknown_model"
    )
    await refused(await three.ask("POST", "/sessions", json={**offer, "resume": 7}), 422, "bad_setting")
    await refused(
        await three.ask("POST", "/sessions", data=b"{", headers={"Content-Type": "application/json"}), 400, "bad_json"
    )
    await refused(await three.ask("POST", "/sessions", data=b"v=0"), 415, "bad_content_type")
    await refused(await three.ask("POST", "/sessions", json={"sdp": "x" * 300_000}), 413, "too_large")
    assert three.gateways[0].cluster.free() == 6 and all(len(node.sessions) == 0 for node in three.nodes)


async def test_without_the_clients_token_nothing_is_opened_seen_or_changed(three, offer):
    session = await opened(three, offer)
    paths = [
        ("POST", "/sessions"),
        ("GET", f"/sessions/{session}"),
        ("DELETE", f"/sessions/{session}"),
        ("GET", "/stats"),
    ]
    paths += [("GET", "/ice"), ("POST", "/whip/x"), ("POST", "/whep/x"), ("DELETE", "/queue/x")]
    for shown in ("", "Bearer wrong", "Bearer of-the-nodes"):
        for method, path in paths:
            reply = await three.ask(method, path, headers={"Authorization": shown}, json=offer)
            await refused(reply, 401, "unauthorized")
    assert (await three.ask("GET", f"/sessions/{session}"))[0] == 200


async def test_the_routes_between_gateway_and_node_are_no_routes_of_a_gateway(three):
    for method, path in (("GET", "/cluster/node"), ("POST", "/cluster/drain"), ("POST", "/cluster/line")):
        assert (await three.ask(method, path, json={}))[0] == 404


async def test_a_node_tells_and_does_nothing_without_its_token(three):
    url = three.nodes[0].url
    for method, path in (("GET", "/cluster/node"), ("POST", "/cluster/drain"), ("POST", "/cluster/line")):
        async with three.http.request(method, url + path, json={}) as reply:
            assert reply.status == 401
    assert three.nodes[0].sessions.draining is False


async def test_a_foreign_name_and_a_foreign_page_reach_nothing_through_a_gateway(three, offer):
    bearer = {"Authorization": ""}
    for method, path in (("GET", "/stats"), ("GET", "/healthz"), ("POST", "/sessions"), ("GET", "/")):
        reply = await three.ask(method, path, headers={**bearer, "Host": "evil.example"}, json=offer)
        await refused(reply, 421, "wrong_host")
    for path in ("/sessions", "/whip/x"):
        reply = await three.ask(
            "POST", path, headers={"Host": "127.0.0.1", "Origin": "http://evil.example"}, json=offer
        )
        assert reply[0] == (403 if path == "/sessions" else 415), reply
    _, headers, _ = await three.ask("GET", "/")
    assert headers["X-Content-Type-Options"] == "nosniff" and "Server" not in headers
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


async def test_named_tokens_open_a_gateway_and_their_limits_hold_on_its_nodes(offer, tmp_path):
    tokens = tmp_path / "tokens.toml"
    digests = {name: sha256(name.encode()).hexdigest() for name in ("one", "small", "slow")}
    tokens.write_text(
        f'[a]\nsha256 = "{digests["one"]}"\nsessions = 1\n[b]\nsha256 = "{digests["small"]}"\npixels = 4096\n'
        f'[c]\nsha256 = "{digests["slow"]}"\nrate = 0.01\n'
    )
    async with site("a", max_sessions=8) as found:
        entry = await start_gateway(found.stack, [found.nodes[0].url], token=None, tokens=tokens)
        found.gateways.append(entry)
        await until(lambda: entry.cluster.live())

        async def post(token, **headers):
            headers = {"Authorization": f"Bearer {token}", **headers}
            status, _, body = await found.ask("POST", "/sessions", 1, json=offer, headers=headers)
            return status if status == 201 else (status, body["error"]["code"])

        assert [await post("one"), await post("one")] == [201, (429, "too_many_sessions")]
        assert await post("small") == (422, "bad_size")
        assert await post("small", **{"X-Avis-Caller": '{"name": "one"}'}) == (422, "bad_size"), "who asks is not asked"
        assert [await post("slow") for _ in range(3)] == [201, 201, (429, "too_many_offers")]
        assert await post("of-clients") == await post(TOKEN) == (401, "unauthorized")


async def test_one_address_sends_so_many_offers_to_a_gateway_and_no_more(offer):
    async with site("a", max_sessions=8) as found:
        found.gateways.append(await start_gateway(found.stack, [found.nodes[0].url], offers_each=0.01))
        await until(lambda: found.gateways[1].cluster.live())
        assert [(await found.ask("POST", "/sessions", 1, json=offer))[0] for _ in range(3)] == [201, 201, 429]
        assert (await found.ask("POST", "/whep/x", 1, data="v=0"))[0] == 429


async def test_a_node_is_drained_by_its_own_token_and_by_no_clients(offer, tmp_path):
    """A client's named token drained the node under everybody."""
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f'[a]\nsha256 = "{sha256(b"of-a-client").hexdigest()}"\n')
    async with site("a", tokens=tokens) as found:
        node = found.nodes[0]
        for token, status in (("of-a-client", 403), ("wrong", 401), (TOKEN, 202)):
            headers = {"Authorization": f"Bearer {token}"}
            async with found.http.post(f"{node.url}/cluster/drain", json={"seconds": 60}, headers=headers) as reply:
                assert reply.status == status
        assert node.sessions.draining


async def test_stats_of_all_nodes_are_summed_and_name_no_session(three, offer):
    ids = [await opened(three, offer) for _ in range(3)]
    _, _, stats = await three.ask("GET", "/stats")
    assert (stats["opened"], len(stats["sessions"]), stats["device"]["state"]) == (3, 3, "ready")
    assert {node["name"] for node in stats["nodes"]} == {"a", "b", "c"}
    assert not any(session in str(stats) for session in ids)


async def test_readiness_models_and_the_page_are_there_while_one_node_is(three):
    for path in ("/healthz", "/readyz", "/models", "/operators", "/ice", "/", "/app.js"):
        assert (await three.ask("GET", path))[0] == 200, path
    for node in three.nodes:
        node.sessions.draining = True
    await three.seen("draining", "a")
    await three.seen("draining", "b")
    await three.seen("draining", "c")
    assert "draining" in await refused(await three.ask("GET", "/readyz"), 503, "no_node")
    assert (await three.ask("GET", "/healthz"))[0] == 200


async def test_a_node_that_dies_is_lost_within_two_seconds_and_its_session_opened_elsewhere(three, offer):
    session = await opened(three, offer)
    name = session[0]
    await three.node(name).server.close()
    began = asyncio.get_running_loop().time()
    await three.seen("lost", name, seconds=2)
    assert asyncio.get_running_loop().time() - began < 2
    await refused(await three.ask("GET", f"/sessions/{session}"), 404, "no_session")
    status, _, answer = await three.ask("POST", "/sessions", json={**offer, "resume": session})
    assert (status, answer["resumed"]) == (201, False)
    assert answer["id"][0] != name


async def test_a_session_of_a_live_node_is_resumed_there(three, offer):
    session = await opened(three, offer)
    status, _, answer = await three.ask("POST", "/sessions", json={**offer, "resume": session})
    assert (status, answer["id"]) == (201, session)
    assert "resumed" not in answer
    await refused(await three.ask("POST", "/sessions", json={**offer, "resume": f"{session}x"}), 404, "no_session")


async def test_a_node_that_hangs_is_lost_within_two_seconds_and_offers_to_it_are_not_waited_for(offer):
    async with site("ab") as found:
        node, port = found.node("a"), found.node("a").server.port
        await found.node("b").server.close()
        await found.seen("lost", "b")
        held = asyncio.Event()

        async def never(request):
            await held.wait()

        await node.server.close()
        silent = web.Application()
        silent.router.add_route("*", "/{path:.*}", never)
        hung = TestServer(silent, port=port)
        await hung.start_server()
        began = asyncio.get_running_loop().time()
        reply = await found.ask("POST", "/sessions", json=offer)
        assert asyncio.get_running_loop().time() - began < 2.5
        await refused(reply, 503, "node_lost")
        held.set()
        await hung.close()


async def test_a_drained_node_gets_no_session_and_a_resume_moves_to_another(three, offer):
    session = await opened(three, offer)
    node = three.node(session[0])
    async with ClientSession(headers={"Authorization": "Bearer of-the-nodes"}) as http:
        async with http.post(f"{node.url}/cluster/drain", json={"seconds": 60}) as reply:
            assert (reply.status, await reply.json()) == (202, {"sessions": 1})
        assert (await three.ask("GET", f"/sessions/{session}"))[0] == 200, "its sessions go on"
        status, _, answer = await three.ask("POST", "/sessions", json={**offer, "resume": session})
        assert (status, answer["resumed"]) == (201, False)
        assert answer["id"][0] != session[0], "the client was faster than the next probe"
        others = [await opened(three, offer) for _ in range(3)]
        assert session[0] not in {other[0] for other in others}
        await refused(await three.ask("POST", "/sessions", json=offer), 503, "full")
        _, _, answer = await three.ask("POST", "/sessions", json={**offer, "resume": session})
        assert answer["id"] == session, "with no place elsewhere it stays where it is"
        async with http.delete(f"{node.url}/cluster/drain") as reply:
            assert reply.status == 204
        await three.seen("live", session[0])
        assert (await opened(three, offer))[0] == session[0]


async def test_what_is_left_when_the_time_to_move_is_over_is_closed(three, offer):
    session = await opened(three, offer)
    node = three.node(session[0])
    async with ClientSession(headers={"Authorization": "Bearer of-the-nodes"}) as http:
        async with http.post(f"{node.url}/cluster/drain", json={"seconds": 0}) as reply:
            assert reply.status == 202
        async with http.post(f"{node.url}/cluster/drain", json={"seconds": -1}) as reply:
            assert reply.status == 422
    await until(lambda: len(node.sessions) == 0)


async def test_clients_in_line_get_the_places_in_the_order_they_came_whichever_gateway_they_ask(offer):
    async with site("ab", gateways=2, max_sessions=1) as found:
        ids = [await opened(found, offer) for _ in range(2)]

        async def ask(gateway, **body):
            status, _, answer = await found.ask("POST", "/sessions", gateway, json={**offer, **body})
            return (status, answer.get("queue"), answer.get("id"))

        _, first, _ = await ask(0, queue=True)
        _, second, _ = await ask(1, queue=True)
        assert (first["position"], second["position"]) == (1, 2)
        await until(lambda: all(entry.cluster.waiting() == 2 for entry in found.gateways))
        assert (await found.ask("DELETE", f"/sessions/{ids[0]}", 1))[0] == 204
        await until(lambda: all(entry.cluster.free() == 1 for entry in found.gateways))
        assert (await ask(0))[0] == 503, "a newcomer overtook those that wait"
        assert (await ask(1, ticket=second["ticket"]))[:2] == (503, second), "the second overtook the first"
        assert (await ask(1, ticket=first["ticket"]))[0] == 201
        assert (await ask(0, ticket=second["ticket"]))[1] == {**second, "position": 1}
        await found.ask("DELETE", f"/queue/{second['ticket']}")
        assert (await ask(1, queue=True))[1]["position"] == 1


async def test_a_large_head_of_the_line_lets_those_pass_who_fit_and_is_then_kept_its_place(offer):
    """The first in line asked for more than any node had, and all others were refused beside a free place."""
    async with site("a", max_sessions=1) as found:
        node, cluster, large = found.nodes[0], found.gateways[0].cluster, {"size": "832x480"}
        refuse = node.sessions.devices.refuse
        node.sessions.devices.refuse = lambda config, now: (
            Refuse("no room for so large a one", 1.0) if config.size == (832, 480) else refuse(config, now)
        )
        node.app[NODE_SIDE].line.overtakers = 1

        async def ask(**body):
            status, _, answer = await found.ask("POST", "/sessions", json={**offer, **body})
            return status, answer

        _, answer = await ask(**large, queue=True)
        ticket = answer["queue"]["ticket"]
        await until(lambda: cluster.waiting() == 1 and cluster.free() == 1)
        status, passed = await ask()
        assert status == 201, "it stood behind one that did not fit"
        await found.ask("DELETE", f"/sessions/{passed['id']}")
        await until(lambda: cluster.free() == 1)
        assert (await ask())[0] == 503, "the large one was overtaken without end"
        node.sessions.devices.refuse = refuse
        assert (await ask(**large, ticket=ticket))[0] == 201


async def test_a_line_that_was_lost_with_its_node_keeps_nobody_out(offer):
    async with site("ab", max_sessions=1) as found:
        ids = [await opened(found, offer) for _ in range(2)]
        _, _, body = await found.ask("POST", "/sessions", json={**offer, "queue": True})
        keeper = found.gateways[0].cluster.line_keeper().name
        await found.node(keeper).server.close()
        await found.seen("lost", keeper)
        left = next(session for session in ids if session[0] != keeper)
        assert (await found.ask("DELETE", f"/sessions/{left}"))[0] == 204
        await until(lambda: found.gateways[0].cluster.free() == 1)
        body = {**offer, "ticket": body["queue"]["ticket"]}
        assert (await found.ask("POST", "/sessions", json=body))[0] == 201


async def test_nodes_that_are_none_are_named_with_what_is_wrong(offer):
    async with site("a") as found:
        nameless = await start_node(found.stack, "")
        twin = await start_node(found.stack, "a")
        urls = [found.nodes[0].url, nameless.url, twin.url, "http://127.0.0.1:1"]
        gateway = await start_gateway(found.stack, urls)
        found.gateways.append(gateway)
        await until(lambda: len(gateway.cluster.nodes) == 4)
        await until(lambda: all(node.state != "unknown" for node in gateway.cluster.nodes))
        _, _, stats = await found.ask("GET", "/stats", 1)
        states = [(node["state"], node["reason"]) for node in stats["nodes"]]
        twins = [("live", ""), ("unusable", "another node has the name a already")]
        assert sorted([states[0], states[2]]) == twins
        assert states[1] == ("lost", "it answers GET /cluster/node with 404: it is no node of a cluster")
        assert states[3][0] == "lost" and "refused" in states[3][1].lower()
        assert (await found.ask("POST", "/sessions", 1, json=offer))[0] == 201


async def test_a_gateway_with_the_wrong_node_token_says_so_and_opens_nothing(offer):
    async with site("a") as found:
        found.gateways.append(await start_gateway(found.stack, [found.nodes[0].url], node_token="wrong"))
        await until(lambda: [node.state for node in found.gateways[1].cluster.nodes] == ["lost"])
        reply = await found.ask("POST", "/sessions", 1, json=offer)
        assert "refuses the node token" in await refused(reply, 503, "no_node")


async def test_what_the_gateway_itself_refuses_is_logged_with_its_reason(three, caplog):
    caplog.set_level(logging.INFO)
    for _ in range(3):
        await refused(await three.ask("GET", "/stats", headers={"Authorization": "Bearer wrong"}), 401, "unauthorized")
    lines = [made.fields for made in caplog.records if getattr(made, "fields", {}).get("event") == "refusal"]
    assert [(line["status"], line["code"]) for line in lines] == [(401, "unauthorized")]


def test_a_gateway_that_other_machines_reach_asks_for_a_token_or_is_told_to_let_everybody_in(monkeypatch):
    with pytest.raises(UsageError, match="set AVIS_CLUSTER_TOKEN"):
        read_gateway(host="0.0.0.0").check_exposure()
    read_gateway(host="0.0.0.0", open_to_all=True).check_exposure()
    monkeypatch.setenv("AVIS_CLUSTER_TOKEN", "of-clients")
    monkeypatch.setenv("AVIS_TOKEN", "of a server")
    monkeypatch.setenv("HOST", "of nobody")
    settings = read_gateway(host="0.0.0.0")
    settings.check_exposure()
    assert (settings.token, read_gateway().host) == ("of-clients", "127.0.0.1")
