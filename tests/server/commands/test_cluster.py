"""`avis gateway` and `avis cluster`: bad input is one sentence and exit code 2; status and drain work on real nodes."""

import asyncio
import json

import pytest

from server.cli import main
from tests.server.gateway.conftest import TOKEN, site

ONE = "http://127.0.0.1:9"

BAD = [
    (["gateway"], "in exactly one way"),
    (["gateway", "--nodes", ""], "in exactly one way"),
    (["gateway", "--nodes", ONE, "--nodes-dns", "nodes:8080"], "in exactly one way"),
    (["gateway", "--nodes", "10.0.0.1:8080"], "a node is an address as in http://"),
    (["gateway", "--nodes", "ftp://10.0.0.1"], "a node is an address as in http://"),
    (["gateway", "--nodes", f"{ONE}/sessions"], "a node is an address as in http://"),
    (["gateway", "--nodes", f"{ONE},{ONE}/"], "is listed twice"),
    (["gateway", "--nodes", f"{ONE}:99999"], "a node is an address as in http://"),
    (["gateway", "--nodes-dns", "nodes"], "HOST:PORT"),
    (["gateway", "--nodes-dns", "nodes:http"], "HOST:PORT"),
    (["gateway", "--nodes-file", "/nowhere/nodes"], "there is no file /nowhere/nodes"),
    (["gateway", "--nodes", ONE, "--node-token", "x"], "token is not"),
    (["gateway", "--nodes", ONE, "--node-token", ""], "node_token"),
    (["gateway", "--nodes", ONE, "--port", "70000"], "port"),
    (["gateway", "--nodes", ONE, "--trusted-proxies", "everybody"], "expected an address or a network"),
    (["gateway", "--node", ONE], "ambiguous option"),
    (["serve", "--node", "Node.1"], "node"),
    (["cluster"], "up | watch | status | drain"),
    (["cluster", "sing"], "invalid choice"),
    (["cluster", "status"], "in exactly one way"),
    (["cluster", "status", "--nodes", ONE], "no node answers"),
    (["cluster", "status", "--nodes-dns", "no-such-name.invalid:80"], "has no address"),
    (["cluster", "drain"], "NODE"),
    (["cluster", "drain", "a", "--nodes", ONE], "no node has the name 'a'"),
    (["cluster", "drain", "a", "--seconds", "-1", "--nodes", ONE], "seconds from 0 to 86400"),
    (["cluster", "drain", "a", "--seconds", "nan", "--nodes", ONE], "seconds from 0 to 86400"),
]


@pytest.mark.parametrize("words, expected", BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input_is_one_sentence_and_exit_code_2(words, expected, capsys):
    assert main(words) == 2
    told = capsys.readouterr().err.strip()
    assert expected in told and told.startswith("avis: ") and "\n" not in told


async def run(*words):
    return await asyncio.to_thread(main, [*words, "--node-token", TOKEN])


async def test_status_lists_every_node_and_tells_by_its_exit_code_whether_all_answer(capsys):
    async with site("ab") as found:
        urls = ",".join(node.url for node in found.nodes)
        assert await run("cluster", "status", "--nodes", urls, "--json", "-") == 0
        nodes = json.loads(capsys.readouterr().out)["nodes"]
        assert [(node["name"], node["state"], node["open"], node["places"]) for node in nodes] == [
            ("a", "live", 0, 2),
            ("b", "live", 0, 2),
        ]
        assert await run("cluster", "status", "--nodes", f"{urls},{ONE}") == 1


async def test_a_node_is_drained_by_name_and_taken_back(capsys):
    async with site("ab") as found:
        urls = ",".join(node.url for node in found.nodes)
        assert await run("cluster", "drain", "a", "--nodes", urls) == 0
        assert found.node("a").sessions.draining and not found.node("b").sessions.draining
        assert await run("cluster", "drain", "a", "--nodes", urls) == 2
        assert "drained already" in capsys.readouterr().err
        assert await run("cluster", "drain", "a", "--cancel", "--nodes", urls) == 0
        assert not found.node("a").sessions.draining
        assert await run("cluster", "drain", "c", "--nodes", urls) == 2
        assert "those that answer: a, b" in capsys.readouterr().err


async def test_a_wrong_node_token_is_told(capsys):
    async with site("a") as found:
        words = ["cluster", "status", "--nodes", found.nodes[0].url, "--node-token", "wrong"]
        assert await asyncio.to_thread(main, words) == 2
        assert "refuses the node token" in capsys.readouterr().err
