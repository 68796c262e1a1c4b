"""How many nodes a cluster wants: the rule alone."""

import pytest

from server.gateway.autoscale import Autoscale, AutoscaleConfig, Steps, steps, to_drain
from tests.server.gateway.test_placement import report


def rule(**values):
    return Autoscale(AutoscaleConfig(**{"places": 4, "spare": 1, "patience": 300, **values}))


def test_an_empty_cluster_keeps_its_least_and_its_spare():
    assert rule(least=2, spare=0).wanted([], now=0) == 2
    assert rule(spare=1).wanted([], now=0) == 1


def test_sessions_clients_in_line_and_refused_offers_are_demand():
    reports = [report("a", open=4, free=0), report("b", open=2)]
    assert rule(spare=0).wanted(reports, 0) == 2
    assert rule(spare=1).wanted(reports, 0) == 3
    assert rule(spare=0).wanted([report("a", open=4, waiting=5)], 0) == 3
    grows = rule(spare=0)
    assert grows.wanted([report("a", open=4, refused=7)], 0) == 1, "what it refused before the first look is past"
    assert grows.wanted([report("a", open=4, refused=12)], 10) == 3
    assert grows.wanted([report("a", open=4, refused=12)], 45) == 3, "it falls after its patience, not before"


def test_an_offer_that_several_nodes_refused_counts_once():
    grows = rule(spare=0)
    grows.wanted([report("a", open=4), report("b", open=4)], 0)
    refused = [report("a", open=4, refused=4), report("b", open=4, refused=4)]
    assert grows.wanted(refused, 1) == 3


def test_it_rises_at_once_and_falls_when_the_demand_was_lower_for_all_its_patience():
    found = rule(spare=0)
    assert found.wanted([report("a", open=4), report("b", open=4)], 0) == 2
    for now in range(2, 300, 2):
        assert found.wanted([report("a", open=1), report("b")], now) == 2
    assert found.wanted([report("a", open=1), report("b")], 301) == 1
    assert found.wanted([report("a", open=1, waiting=4), report("b")], 302) == 2


def test_a_new_watcher_keeps_the_nodes_it_finds_for_all_its_patience():
    found, nodes = rule(spare=0), [report(name) for name in "abc"]
    assert [found.wanted(nodes, now) for now in (0, 299, 301)] == [3, 3, 1]


def test_it_never_wants_fewer_than_hold_sessions_nor_more_than_the_most():
    spread = [report(name, open=1) for name in "abc"]
    assert rule(spare=0, patience=0).wanted(spread, 0) == 3
    assert rule(most=2, spare=0).wanted([report("a", open=4, waiting=400)], 0) == 2


def test_the_emptiest_are_drained_when_the_others_have_room_for_all():
    reports = [report("a", open=3, free=1), report("b"), report("c", open=1, free=3)]
    assert to_drain(reports, 3) == []
    assert to_drain(reports, 2) == ["b"]
    assert to_drain(reports, 0) == ["b"], "the sessions of c have no place left with room to spare"
    assert to_drain([report("a"), report("b", draining=True)], 1) == [], "one that drains is no longer counted"


def test_only_a_drained_empty_node_may_end():
    reports = [report("a", draining=True), report("b", draining=True, open=1), report("c")]
    assert steps(reports, wanted=1).remove == ["a"]


def test_nodes_that_drain_are_taken_back_before_new_ones_are_wanted():
    reports = [report("a", draining=True), report("b", draining=True, open=1), report("c")]
    assert steps(reports, wanted=2) == Steps(take_back=["b"], drain=[], remove=["a"])
    assert steps(reports, wanted=5) == Steps(take_back=["b", "a"], drain=[], remove=[])


@pytest.mark.parametrize("name, value", [("spare", -1), ("most", 0), ("window", 0), ("patience", float("nan"))])
def test_bounds_that_make_no_sense_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        AutoscaleConfig(**{name: value})
