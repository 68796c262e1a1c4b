"""How much JSON of a stranger is looked at: the pure checks, and what the edge of a request makes of them."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.contract import SolverConfig
from core.operators.kernels import KERNEL_SIDE
from server.api.bodies import merged_solver, validate
from server.api.endpoints import Change, OfferBody
from server.json_bounds import DEEPEST, MOST_NAMES, MOST_VALUES, check_bounds
from server.refusals import Refusal
from server.sessions.config import SessionConfig

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=50,
)


@given(JSON)
def test_what_is_small_passes(value):
    check_bounds(value)


def nested(depth):
    return json.loads("[" * depth + "]" * depth)


@pytest.mark.parametrize(
    ("most", "too_much"),
    [
        ([0] * MOST_VALUES, [0] * (MOST_VALUES + 1)),
        ([[0] * 99] * (MOST_VALUES // 100), [[[]] * 100] * (MOST_VALUES // 100)),
        (dict.fromkeys(map(str, range(MOST_NAMES)), 0), dict.fromkeys(map(str, range(MOST_NAMES + 1)), 0)),
        (nested(DEEPEST), nested(DEEPEST + 2)),
        ([["é\U0001f600"]], [["\ud800"]]),
        ({"é": {"é": 0}}, {"a": {"\udc00": 0}}),
    ],
)
def test_each_bound_has_both_its_sides(most, too_much):
    check_bounds(most)
    with pytest.raises(ValueError):
        check_bounds(too_much)


LARGEST = [
    ({"solver": {f"x{i}": 0 for i in range(MOST_NAMES)}}, SessionConfig),
    ({f"x{i}": 0 for i in range(MOST_NAMES)}, OfferBody),
    ({"operator": {"kind": "kernel", "taps": [["x"] * KERNEL_SIDE] * KERNEL_SIDE}}, Change),
    ({"operator": {"kind": "kernel", "taps": [[]] * (MOST_VALUES - 8)}}, Change),
    ({"operator": {"kind": "compose", "operators": [{"kind": "mask"}] * (MOST_VALUES // 2 - 8)}}, Change),
    ({"size": [1] * (MOST_VALUES - 1)}, SessionConfig),
]


@pytest.mark.parametrize(("body", "config"), LARGEST)
def test_the_worst_body_within_the_bounds_holds_the_loop_for_a_moment(body, config):
    """80,000 wrong values in 240 kB took half a second, and made as many errors of which one was told."""
    check_bounds(body)
    took = []
    for _ in range(5):
        start = time.thread_time()
        with pytest.raises(Refusal):
            validate(config, body)
        took.append(time.thread_time() - start)
    assert min(took) < 0.05


def test_the_largest_kernel_is_within_the_bounds():
    body = {"operator": {"kind": "kernel", "taps": [[1.0] * KERNEL_SIDE] * KERNEL_SIDE}, "solver": {"num_steps": 1}}
    check_bounds(body)
    validate(Change, body)
    assert merged_solver(SolverConfig(), body["solver"], "tiny").num_steps == 1
