"""The gateways' decisions on many simulated nodes: what holds at a scale that fits in no test machine."""

import pytest

from server.gateway.autoscale import Autoscale, AutoscaleConfig
from server.gateway.comparison import at_random, autoscaled, least_loaded, ours, policies
from server.gateway.simulated import Plan, Simulation


def run(policy=ours, **plan):
    return Simulation(Plan(**plan), policy).run()


@pytest.mark.parametrize("nodes", [8, 64])
def test_no_offer_is_refused_while_a_place_is_free(nodes):
    outcome = run(nodes=nodes, offered=0.9)
    assert outcome.offers > 10 * nodes / 2 and outcome.needless == 0


def test_other_policies_refuse_offers_for_which_there_is_a_place():
    found = {name: run(policy, nodes=64, offered=0.95).summary() for name, policy in policies().items()}
    best = found.pop("gateway")
    for name, summary in found.items():
        assert best["needless"] < summary["needless"], name
        assert best["tries"] < summary["tries"], name
        assert best["unevenness"] < summary["unevenness"], name


def test_sessions_of_dead_nodes_are_restored_where_places_are_free():
    outcome = run(nodes=64, offered=0.8, dies=20.0)
    assert outcome.cut > 30
    assert len(outcome.restored) == outcome.cut
    assert outcome.summary()["restored_p95"] < 5


def test_a_rolling_deploy_cuts_no_session():
    outcome = run(nodes=8, offered=0.7, stay=3600, deploys=10.0, seconds=200.0)
    assert outcome.deployed == 8 and outcome.moved > 30
    assert outcome.cut == 0


def test_a_rolling_deploy_with_no_place_elsewhere_cuts_what_is_left_and_no_more():
    outcome = run(nodes=8, offered=2.0, stay=36_000, deploys=10.0, seconds=60.0)
    assert outcome.cut > 0


@pytest.mark.parametrize("policy", [ours, least_loaded, at_random])
def test_no_policy_puts_more_on_a_node_than_it_has_places_for(policy):
    run(policy, nodes=8, offered=3.0)


def test_a_run_can_be_repeated():
    assert run(nodes=8, dies=20.0) == run(nodes=8, dies=20.0)


def test_autoscaling_follows_the_demand_with_few_refusals_and_a_spare_node_lowers_them():
    days = [autoscaled(Autoscale(AutoscaleConfig(places=8, spare=n, most=100)), 3600.0, 100) for n in (0, 2)]
    refused = [day.refused / day.offers for day in days]
    assert refused[1] < refused[0] < 0.2
    assert days[1].node_seconds < 2.5 * days[1].least_node_seconds
