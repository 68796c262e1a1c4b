"""Which node a request goes to: the decisions of a gateway, without sockets and clocks."""

from collections import Counter

import pytest

from server.gateway.placement import Cluster, may_try, owner
from server.gateway.report import PROTOCOL, Report, read_report


def report(name, **values):
    base = {"protocol": PROTOCOL, "node": name, "version": "1", "model": "tiny", "state": "ready", "draining": False}
    figures = {"places": 4, "open": 0, "free": 4, "load": 0.0, "waiting": 0, "refused": 0, "streams": ()}
    return Report(**{**base, **figures, **values})


def cluster_of(*reports):
    cluster = Cluster()
    cluster.list_urls(f"http://{r.node}" for r in reports)
    for r in reports:
        cluster.heard(f"http://{r.node}", r, asked=0.0)
    return cluster


def place(cluster, now=1.0):
    node = cluster.next(set())
    cluster.sent(node.url, now)
    return node.name


def test_a_session_goes_where_the_greatest_share_is_free():
    cluster = cluster_of(report("a", free=1), report("b", free=3), report("c", free=2, places=2))
    assert place(cluster) == "c"


def test_offers_between_two_reports_are_spread_over_the_nodes():
    cluster = cluster_of(*(report(name) for name in "abc"))
    assert Counter(place(cluster) for _ in range(12)) == {"a": 4, "b": 4, "c": 4}
    assert cluster.free() == 0


def test_a_report_counts_what_was_sent_before_it_was_asked_for_and_no_more():
    cluster = cluster_of(report("a"))
    cluster.sent("http://a", 1.0)
    cluster.sent("http://a", 3.0)
    cluster.heard("http://a", report("a", open=1, free=3), asked=2.0)
    assert cluster.free() == 2


def test_a_node_that_refused_is_full_until_its_next_report():
    cluster = cluster_of(report("a"), report("b", free=1))
    cluster.sent("http://a", 1.0)
    cluster.refused("http://a", 1.0, "full")
    assert place(cluster) == "b"
    cluster.heard("http://a", report("a"), asked=2.0)
    assert place(cluster) == "a"


def test_an_offer_that_the_node_found_wrong_costs_it_no_place():
    cluster = cluster_of(report("a", free=1))
    cluster.sent("http://a", 1.0)
    cluster.refused("http://a", 1.0, "bad_setting")
    assert cluster.free() == 1


def test_every_node_with_a_free_place_is_asked_and_two_full_ones_at_most():
    free = [report(f"n{index}", free=1) for index in range(6)]
    cluster = cluster_of(*free, *(report(f"f{index}", free=0) for index in range(5)))
    tried = set()
    while (node := cluster.next(tried)) is not None:
        tried.add(node.url)
    assert sum("//n" in url for url in tried) == 6
    assert sum("//f" in url for url in tried) == 2


def test_a_node_is_lost_after_two_misses_and_back_with_one_answer():
    cluster = cluster_of(report("a"))
    assert cluster.missed("http://a", "refused") is False
    assert cluster.named("a") is not None
    assert cluster.missed("http://a", "refused") is True
    assert cluster.named("a") is None and cluster.live() == []
    assert "refused" in cluster.reason()
    assert cluster.missed("http://a", "refused") is False, "it is lost once"
    cluster.heard("http://a", report("a"), asked=5.0)
    assert cluster.named("a") is not None


def test_a_draining_node_keeps_its_sessions_and_gets_no_new_one():
    cluster = cluster_of(report("a", draining=True), report("b", free=0))
    assert cluster.named("a").state == "draining"
    assert [node.name for node in cluster.live()] == ["b"]
    assert place(cluster) == "b"


@pytest.mark.parametrize(
    "values, words",
    [({"protocol": 2}, "version 2"), ({"node": ""}, "--node NAME"), ({"state": "warming"}, "its device is warming")],
)
def test_a_node_that_cannot_take_sessions_says_why(values, words):
    cluster = Cluster()
    cluster.list_urls(["http://x"])
    cluster.heard("http://x", report("x").model_copy(update=values), asked=0.0)
    assert cluster.live() == [] and cluster.next(set()) is None
    assert words in cluster.reason()


def test_of_two_nodes_with_one_name_the_second_is_not_used_until_the_first_is_lost():
    cluster = Cluster()
    cluster.list_urls(["http://1", "http://2"])
    for url in ("http://1", "http://2", "http://1"):
        cluster.heard(url, report("a"), asked=0.0)
    assert cluster.named("a").url == "http://1"
    assert "the name a already" in cluster.at("http://2").why
    cluster.missed("http://1", "gone")
    cluster.missed("http://1", "gone")
    cluster.heard("http://2", report("a"), asked=1.0)
    assert cluster.named("a").url == "http://2"


def test_a_node_that_is_listed_no_more_is_forgotten_and_others_keep_what_is_known():
    cluster = cluster_of(report("a"), report("b"))
    cluster.sent("http://b", 1.0)
    cluster.list_urls(["http://b", "http://c"])
    assert [node.url for node in cluster.nodes] == ["http://b", "http://c"]
    assert cluster.free() == 3
    cluster.heard("http://a", report("a"), asked=2.0)  # an answer that was under way
    assert cluster.named("a") is None


def test_every_gateway_asks_the_same_nodes_for_a_name_in_the_same_order():
    nodes = [report(name) for name in "abcdefgh"]
    one, other = cluster_of(*nodes), cluster_of(*reversed(nodes))
    other.sent("http://a", 1.0)
    names = [f"stream-{number}" for number in range(400)]
    assert [[n.name for n in one.by_name(name)] for name in names] == [
        [n.name for n in other.by_name(name)] for name in names
    ]
    first = Counter(one.by_name(name)[0].name for name in names)
    assert len(first) == 8 and min(first.values()) > 20, "names are spread over the nodes"


def test_the_loss_of_a_node_moves_only_the_names_that_it_had():
    cluster = cluster_of(*(report(name) for name in "abcdefgh"))
    names = [f"stream-{number}" for number in range(200)]
    before = {name: cluster.by_name(name)[0].name for name in names}
    for _ in range(2):
        cluster.missed("http://c", "gone")
    after = {name: cluster.by_name(name)[0].name for name in names}
    assert all(after[name] == before[name] for name in names if before[name] != "c")
    assert all(after[name] != "c" for name in names)


def test_players_go_where_the_stream_is_rather_where_it_stays():
    cluster = cluster_of(report("a", streams=("x",), draining=True), report("b", streams=("x", "y")), report("c"))
    assert cluster.publishing("x").name == "b"
    assert cluster.publishing("y").name == "b"
    assert cluster.publishing("z") is None


def test_an_offer_that_names_a_model_goes_to_a_node_that_has_it():
    cluster = cluster_of(report("a", model="tiny"), report("b", model="wan", free=1))
    assert cluster.next(set(), "wan").name == "b"
    assert cluster.next(set(), "huge").name == "a", "a node refuses an unknown model in its own words"


def test_the_owner_of_an_id_is_its_first_part():
    assert (owner("a.x_y-z"), owner("xyz"), owner(""), owner(".x")) == ("a", "", "", "")
    assert cluster_of(report("a")).named("") is None


def test_as_many_in_line_may_try_as_places_are_free_and_the_first_always():
    assert [may_try(before, 0) for before in (0, 1)] == [True, False]
    assert [may_try(before, 3) for before in (0, 2, 3)] == [True, True, False]


@pytest.mark.parametrize("body", [None, [], {}, {"protocol": "1"}, {"protocol": PROTOCOL}, {"protocol": True}])
def test_a_report_that_is_none_is_a_sentence(body):
    with pytest.raises(ValueError):
        read_report(body)


def test_the_report_of_another_protocol_is_read_as_far_as_it_goes():
    read = read_report({"protocol": 7, "node": "a", "version": "9.9", "shape": "unknown"})
    assert (read.protocol, read.node, read.version) == (7, "a", "9.9")
