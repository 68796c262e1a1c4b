"""The sign test is that of the textbooks."""

import pytest

from core.evaluation.significance import Paired, sign_test


@pytest.mark.parametrize("wins, losses, p", [(8, 0, 2 / 256), (7, 1, 18 / 256), (4, 4, 1.0), (0, 0, 1.0), (1, 0, 1.0)])
def test_the_sign_test_counts_the_tails_of_a_fair_coin(wins, losses, p):
    assert sign_test(wins, losses) == pytest.approx(p) == sign_test(losses, wins)


def test_pairs_are_of_the_clips_that_both_have():
    pair = Paired.of({"a": 30.0, "b": 31.0, "c": 20.0}, {"b": 30.5, "c": 20.0, "d": 1.0})
    assert pair.differences == (0.5, 0.0) and pair.mean == 0.25
    assert (pair.wins, pair.losses, pair.p) == (1, 0, 1.0), "a tie counts for neither"
