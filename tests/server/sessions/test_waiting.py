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
        held = [ticket for ticket in known if ticket in line.tickets]
        positions = [line.position(ticket, now) for ticket in held]
        assert positions == list(range(1, len(held) + 1)), "the order they came in"
        assert set(line.tickets) <= set(known)
    assert line.waiting(1e9) == 0


def small(wants):
    return wants == "small"


def test_one_who_does_not_fit_lets_those_pass_who_do():
    line = waiting_list()
    large = line.wait(None, 0.0, "a", "large")[1]
    fits = line.wait(None, 0.0, "b", "small")[1]
    assert line.before(fits, 1.0, small) == 0, "the device stood idle, since the first in line asked for too much"
    assert line.before(None, 1.0, small) == 1, "a newcomer does not overtake one whose place there is"
    assert line.before(large, 1.0, small) == 0


def test_a_large_one_is_overtaken_so_often_and_no_more():
    line = waiting_list(overtakers=3, turn=30)
    large = line.wait(None, 0.0, "a", "large")[1]
    for _ in range(3):
        assert line.before(None, 1.0, small) == 0
        line.serve(None, 1.0)
    assert line.before(None, 1.0, small) == 1
    assert line.before(large, 1.0, small) == 0
    line.serve(large, 2.0)
    assert line.before(None, 2.0, small) == 0


def test_the_turn_of_a_large_one_ends_and_it_goes_to_the_end_of_the_line():
    line = waiting_list(overtakers=1, turn=30, patience=15)
    large = line.wait(None, 0.0, "a", "large")[1]
    line.serve(None, 0.0)
    for now in (10.0, 20.0, 30.0):
        assert line.wait(large, now, "a", "large") == (1, large)
        assert line.before(None, now, small) == 1
    behind = line.wait(None, 30.0, "b", "large")[1]
    assert line.wait(large, 31.0, "a", "large") == (2, large)
    assert line.position(behind, 31.0) == 1
    assert line.before(None, 31.0, small) == 0, "the others were held up without end"


@pytest.mark.parametrize("seed", range(10))
def test_nobody_starves_in_line(seed):
    """Sessions of one or four places of four, that last ten seconds: each that waits gets in, the large ones too."""
    rng, line, now, running, waits, served = random.Random(seed), waiting_list(each=99), 0.0, [], {}, []
    while now < 2000:
        now += 1.0
        running = [(end, size) for end, size in running if end > now]
        if rng.random() < 0.5 and len(waits) < 8:
            ticket = line.wait(None, now, "a", size := rng.choice([1, 1, 1, 4]))[1]
            waits[ticket] = now, size
        for ticket, (since, size) in list(waits.items()):
            taken = sum(size for _, size in running)

            def fits(wants, taken=taken):
                return taken + wants <= 4

            if fits(size) and line.before(ticket, now, fits) == 0:
                line.serve(ticket, now)
                running.append((now + 10, size))
                served.append((now - since, size))
                del waits[ticket]
            else:
                line.wait(ticket, now, "a", size)
    assert {size for _, size in served} == {1, 4}
    assert max(wait for wait, _ in served) < 300
    assert all(now - since < 300 for since, _ in waits.values())
