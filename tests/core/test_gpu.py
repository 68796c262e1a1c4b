"""What only a GPU can show. `make gpu` runs this file without our configuration of pytest."""

import random

import numpy as np
import pytest
import torch

from core.contract import SolverConfig
from core.engine import Engine
from core.model_settings import WanConfig
from core.models.load import Model, load
from core.models.wan.dit import CausalDiT, DiTConfig
from core.models.wan.graphs import record_on_gpu
from core.models.wan.model import WanDenoiser, compile_blocks, randomise
from core.operators.super_resolution import SuperResolution
from core.training.data import procedural

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]

H, W = 96, 128
SHAPE = DiTConfig(dim=256, ffn_dim=512, layers=4, heads=2, text_dim=32, text_len=8)
SR, CONFIG = SuperResolution(), SolverConfig(reinject_every=0)


@pytest.fixture(scope="module")
def frames():
    return procedural(33, H, W, random.Random(0))


def backbone(dtype, record=None, window=9):
    dit = randomise(CausalDiT, SHAPE, torch.device("cuda"), dtype)
    with torch.inference_mode():
        context = dit.context(torch.zeros(1, SHAPE.text_dim, device="cuda"))
    return WanDenoiser(dit, context, window, record=record)


def estimates(denoiser, chunks=6):
    """Of chunks that follow each other, two times a chunk, on the CPU."""
    rng, cache, found = torch.Generator().manual_seed(0), denoiser.new_cache(H, W), []
    for _ in range(chunks):
        z, seen = torch.randn(3, SHAPE.channels, H // 8, W // 8, generator=rng).cuda(), cache
        for t in (0.1, 0.05):
            z, seen = denoiser(z, t, seen)
        found.append(z.cpu())
        cache = denoiser.update_cache(z, seen)
    return found


def test_the_embedded_model_restores_as_well_as_on_a_cpu(frames):
    psnrs = []
    for device in ("cpu", "cuda"):
        engine = Engine(load("tiny", device=device, settings={"backend": "float32"}))
        engine.open("a", SR, "simulate", H, W)
        results = [engine.step("a", part, SR, CONFIG) for part in (frames[:9], frames[9:21], frames[21:])]
        psnrs.append(np.mean([result.psnr for result in results]))
    assert abs(psnrs[0] - psnrs[1]) < 0.1


@pytest.mark.parametrize("name", ["tiny", "wan2.1-1.3b"])
def test_a_stream_beside_another_is_bit_equal_to_it_alone(frames, name):
    settings = {} if name == "tiny" else {"layers": 2}
    engine = Engine(load(name, "random", "cuda", settings=settings))
    parts = (frames[:9], frames[9:21], frames[21:])
    engine.open("alone", SR, "simulate", H, W, seed=1)
    alone = [engine.step("alone", part, SR, CONFIG).panels for part in parts]
    for stream, seed in (("a", 1), ("b", 2)):
        engine.open(stream, SR, "simulate", H, W, seed)
    together = []
    for part in parts:
        engine.step("b", part[::-1], SR, CONFIG)
        together.append(engine.step("a", part, SR, CONFIG).panels)
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_bfloat16_is_near_float32():
    exact, near = estimates(backbone(torch.float32)), estimates(backbone(torch.bfloat16))
    assert all((a - b).norm() < 2e-2 * a.norm() for a, b in zip(exact, near, strict=True))


def test_replayed_graphs_are_bit_equal_to_computed_passes():
    computed, replayed = (estimates(backbone(torch.bfloat16, record)) for record in (None, record_on_gpu))
    assert all(torch.equal(a, b) for a, b in zip(computed, replayed, strict=True))


def test_compiled_blocks_are_near_the_others():
    plain, compiled = backbone(torch.bfloat16), backbone(torch.bfloat16)
    compile_blocks(compiled.dit)
    assert all((a - b).norm() < 2e-2 * a.norm() for a, b in zip(estimates(plain), estimates(compiled), strict=True))


def test_a_graph_leaves_two_streams_of_an_engine_apart(frames):
    """The recordings lie with each stream's own memory, and go with it."""
    settings = WanConfig(layers=2, graphs=True, window=6).model_dump(include={"layers", "graphs", "window"})
    engine = Engine(load("wan2.1-1.3b", "random", "cuda", settings=settings))
    for stream in "ab":
        engine.open(stream, SR, "simulate", H, W)
    for part in (frames[:9], frames[9:21], frames[21:]):
        for stream in "ab":
            engine.step(stream, part, SR, CONFIG)
    engine.check_integrity()
    assert isinstance(engine.model, Model)
