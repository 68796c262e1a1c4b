"""Recorded passes are the passes themselves; here a recording runs the work again over its own buffers."""

import pytest
import torch

from core.errors import UsageError
from core.model_settings import WanConfig
from core.models.wan.dit import CausalDiT, DiTConfig
from core.models.wan.model import WanDenoiser, load, randomise

CPU = torch.device("cpu")
DIT = DiTConfig(dim=48, ffn_dim=64, layers=2, heads=2, text_dim=8, text_len=4, freq_dim=16)
TIMES = (0.1, 0.05)


class Recorder:
    """Records as a CUDA graph does: what it replays sees and writes the same memory each time."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def __call__(self, work):
        self.recorded += 1
        result = work()

        def replay():
            self.replayed += 1
            again = work()
            if result is not None:
                result.copy_(again)

        return replay, result


def streams(record, sink):
    """The estimates of two streams that take turns, each through a window of three chunks."""
    dit = randomise(CausalDiT, DIT, CPU, torch.float32)
    with torch.inference_mode():
        denoiser = WanDenoiser(dit, dit.context(torch.zeros(1, DIT.text_dim)), 9, sink, record)
    rng = torch.Generator().manual_seed(0)
    caches, found = [denoiser.new_cache(32, 48) for _ in range(2)], []
    for _ in range(6):
        for index in range(2):
            z, seen = torch.randn(3, DIT.channels, 4, 6, generator=rng), caches[index]
            for t in TIMES:
                z, seen = denoiser(z, t, seen)
                found.append(z)
            caches[index] = denoiser.update_cache(z, seen)
    return found


@pytest.mark.parametrize("sink", [0, 3])
def test_replayed_passes_of_two_streams_are_bit_equal_to_computed_ones(sink):
    recorder = Recorder()
    expected, found = streams(None, sink), streams(recorder, sink)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert recorder.recorded == 2 * 3, "each stream: two times, and the clean pass"
    assert recorder.replayed == 2 * 3 * 4, "from the third chunk on, when the window is full"


def test_graphs_without_a_gpu_are_refused_in_a_sentence():
    with pytest.raises(UsageError, match="graphs are CUDA's and need a GPU, not cpu"):
        load("random", CPU, config=WanConfig(graphs=True))
