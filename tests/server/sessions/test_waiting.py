"""The waiting list: order, bound and expiry, whatever clients do."""

import random
from itertools import count

import pytest

from server.sessions.waiting import WaitingList


def waiting_list(**options):
    numbers = count()
    return WaitingList(lambda: f"t{next(numbers)}", **options)


def test_clients_wait_in_the_order_they_came_and_keep_their_places():
    line = waiting_list()
    tickets = [line.wait(None, 0.0)[1] for _ in range(3)]
    assert [line.wait(ticket, 5.0) for ticket in reversed(tickets)] == [(3, "t2"), (2, "t1"), (1, "t0")]


def test_who_leaves_moves_up_all_behind_and_nobody_before():
    line = waiting_list()
    first, second, third = (line.wait(None, 0.0)[1] for _ in range(3))
    line.leave(second)
    assert line.position(first, 1.0) == 1
    assert line.position(third, 1.0) == 2


def test_a_ticket_that_is_not_shown_in_time_is_forgotten_and_holds_up_nobody():
    line = waiting_list(patience=15)
    gone, here = line.wait(None, 0.0)[1], line.wait(None, 0.0)[1]
    assert line.wait(here, 14.0)[0] == 2
    assert line.position(here, 15.1) == 1
    assert line.wait(gone, 15.1) == (2, "t2"), "it comes back to the end of the line, with another ticket"


def test_a_newcomer_comes_behind_all_that_wait():
    line = waiting_list()
    assert line.position(None, 0.0) == 1
    line.wait(None, 0.0)
    assert line.position(None, 0.0) == 2
    assert line.position("made up", 0.0) == 2


def test_a_full_list_takes_nobody_and_still_knows_its_own():
    line = waiting_list(most=2)
    ticket = line.wait(None, 0.0)[1]
    line.wait(None, 0.0)
    assert line.wait(None, 0.0) is None
    assert line.wait("made up", 0.0) is None
    assert line.wait(ticket, 1.0) == (1, ticket)
    assert waiting_list(most=0).wait(None, 0.0) is None


def test_one_address_takes_its_share_of_the_places_and_no_more():
    """One client asked without its ticket again and again, and had all places in line."""
    line = waiting_list(most=10, each=2, patience=15)
    first = line.wait(None, 0.0, "a")[1]
    line.wait(None, 0.0, "a")
    assert line.wait(None, 0.0, "a") is None
    assert line.wait(None, 0.0, "b") == (3, "t2")
    assert line.wait(first, 5.0, "moved") == (1, first), "whoever has a ticket keeps its place"
    line.leave(first)
    assert line.wait(None, 5.0, "a") == (3, "t3")
    assert line.wait(None, 5.0, "a") is None
    assert line.wait(None, 100.0, "a") is not None, "what is forgotten counts for nobody"


@pytest.mark.parametrize("seed", range(10))
def test_the_list_is_bounded_and_nobody_overtakes_whatever_happens(seed):
    rng = random.Random(seed)
    line = waiting_list(most=5, patience=4)
    known = []
    for step in range(500):
        now = step * 0.5
        choice = rng.random()
        if choice < 0.6:
            shown = rng.choice([None, "forged", *known])
            answer = line.wait(shown, now, rng.choice("abc"))
            if answer is not None and answer[1] not in known:
                known.append(answer[1])
        elif choice < 0.7 and known:
            line.leave(rng.choice(known))
        assert line.waiting(now) <= 5
        held = [ticket for ticket in known if ticket in line._seen]
        positions = [line.position(ticket, now) for ticket in held]
        assert positions == list(range(1, len(held) + 1)), "the order they came in"
        assert set(line._holders) == set(line._seen)
    assert line.waiting(1e9) == 0
