from itertools import count

import pytest
import torch

from core.models.wan.compare import chunk_flops, compare_step, compare_vae
from core.models.wan.dit import DiTConfig
from core.models.wan.taehv import TAEHV, TAEHVConfig
from core.models.wan.vae import WanVAE, WanVAEConfig

SMALL = DiTConfig(dim=48, ffn_dim=64, layers=2, heads=2, text_dim=8, text_len=4, freq_dim=16)


def ticks():
    """A clock that moves on one second each time it is read."""
    return count().__next__


def test_our_step_computes_what_self_forcings_loop_computes():
    result = compare_step(ticks(), height=32, width=48, config=SMALL)
    assert result.difference < 1e-4
    assert (result.ours, result.theirs, result.ratio) == ((1, 1, 1), (1, 1, 1), 1)


@pytest.mark.filterwarnings("ignore")
def test_our_autoencoder_computes_what_that_of_diffusers_computes():
    pytest.importorskip("diffusers")
    result = compare_vae(ticks(), height=16, width=16, config=WanVAEConfig(base=8))
    assert result.difference < 1e-4


def test_a_chunk_of_the_published_model_takes_the_work_that_is_known_of_it():
    """In TFLOP, counted independently: Wan-VAE 24.15 and 40.65, taew2_1 0.726 and 1.632, a pass at window 9 24.3.

    Ours folds the doubling before an upsampling convolution into its kernel, which spares the decoder a tenth, and
    merges the prompt's padding, which spares a pass the 0.44 of attention to 512 rows.
    """
    with torch.device("meta"):
        tiny, full = TAEHV(TAEHVConfig()), WanVAE(WanVAEConfig())
    flops = {name: value / 1e12 for name, value in chunk_flops(480, 832, full, DiTConfig()).items()}
    assert flops["encode"] == pytest.approx(24.15, rel=0.01)
    assert 0.85 * 40.65 < flops["decode"] < 0.97 * 40.65
    assert flops["denoise"] / 2 == pytest.approx(24.3 - 0.44, rel=0.01)
    assert flops["cache"] == pytest.approx(flops["denoise"] / 2 * 29 / 30, rel=0.01)
    small = DiTConfig(layers=2)
    flops = {name: value / 1e12 for name, value in chunk_flops(480, 832, tiny, small).items()}
    assert flops["encode"] == pytest.approx(0.726, rel=0.01)
    assert flops["decode"] == pytest.approx(1.632, rel=0.01)
