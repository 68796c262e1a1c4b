"""Operations and bytes are counted as one would count them by hand."""

from dataclasses import dataclass

import numpy as np
import torch

from core.evaluation.bench import count_flops, moving_scene, peak_work
from core.memory import tensor_bytes


def test_a_matrix_product_counts_two_operations_a_multiply_and_add():
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert count_flops(lambda: a @ b) == 2 * 3 * 5 * 7


def test_the_arithmetic_that_is_timed_has_the_operations_it_claims():
    for work in peak_work(torch.device("cpu")):
        assert abs(count_flops(work.run) / work.flops - 1) < 0.03  # taps beyond the border count, too


def test_operations_are_counted_in_inference_mode():
    a = torch.ones(4, 4)

    def work():
        with torch.inference_mode():
            return a @ a

    assert count_flops(work) == 2 * 4**3


def test_bytes_of_a_state_count_every_tensor_once():
    @dataclass
    class State:
        cache: object
        again: object
        index: int = 3

    t = torch.zeros(10)
    assert tensor_bytes(State((t, [t[:5]]), {"key": torch.zeros(4, dtype=torch.uint8)})) == 40 + 4
    assert tensor_bytes(State(None, None)) == 0


def test_the_scene_moves_and_repeats():
    a = moving_scene(3, 16, 24)
    assert a.shape == (3, 16, 24, 3) and a.dtype == np.uint8
    assert not np.array_equal(a[0], a[1]) and np.array_equal(a[1:], moving_scene(2, 16, 24, start=1))
