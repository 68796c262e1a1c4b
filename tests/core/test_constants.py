"""Constants are kept within a budget of bytes, whoever chooses what they depend on."""

from dataclasses import dataclass

import pytest
import torch

from core import constants
from core.constants import Kept, constant, like, nbytes
from core.operators.blur import GaussianBlur
from core.operators.masks import Inpainting

MIB = 2**20


@pytest.fixture
def kept(monkeypatch):
    kept = Kept(10 * MIB)
    monkeypatch.setattr(constants, "KEPT", kept)
    return kept


def test_a_result_is_computed_once_and_shared(kept):
    calls = []

    @constant(4)
    def ones(size):
        calls.append(size)
        return torch.ones(size)

    assert ones(3) is ones(3)
    assert ones(size=3) is ones(size=3)
    assert calls == [3, 3], "by place and by name are two ways to ask"


def test_the_last_results_of_a_function_are_kept_and_no_more(kept):
    @constant(3)
    def ones(size):
        return torch.ones(size)

    first = [ones(size) for size in range(1, 6)]
    assert len(kept) == 3
    assert ones(5) is first[4] and ones(3) is first[2]
    assert ones(1) is not first[0]


def test_all_constants_together_stay_within_the_budget(kept):
    @constant(1000)
    def megabyte(number):
        return torch.full((MIB // 4,), float(number))

    newest = [megabyte(number) for number in range(50)]
    assert kept.bytes <= kept.budget
    assert megabyte(49) is newest[49]


def test_what_is_used_is_not_the_first_to_go(kept):
    @constant(1000)
    def megabyte(number):
        return torch.full((MIB // 4,), float(number))

    used = megabyte(-1)
    for number in range(50):
        megabyte(number)
        assert megabyte(-1) is used


def test_a_result_beyond_the_budget_is_returned_and_not_kept(kept):
    @constant(2)
    def huge():
        return torch.ones(3 * MIB)

    assert len(huge()) == 3 * MIB
    assert (len(kept), kept.bytes) == (0, 0)


def test_a_tensor_moved_to_another_dtype_holds_its_source_and_counts_both(kept):
    source = torch.ones(MIB // 4)
    like(source, torch.ones(1, dtype=torch.float64))
    assert kept.bytes == 3 * MIB


def test_views_of_one_storage_count_once():
    @dataclass
    class Both:
        matrix: torch.Tensor
        transposed: torch.Tensor

    matrix = torch.ones(10, 20)
    assert nbytes(Both(matrix, matrix.T)) == 800
    assert nbytes((matrix, Both(matrix, torch.ones(3)), "text", 5)) == 812


def test_no_client_fills_memory_by_varying_an_operator(kept):
    """At 832x480 each new sigma left 8 MB, each new seed of a mask twice that."""
    x = torch.zeros(1, 3, 96, 128)
    for number in range(40):
        GaussianBlur(sigma=1 + number / 100).A_linear(x)
        Inpainting(seed=number).A_linear(x)
    assert 0 < kept.bytes <= kept.budget
