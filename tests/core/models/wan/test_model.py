"""The paper's backbone as a model of the engine, in a small configuration."""

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from core.contract import SolverConfig
from core.engine import Engine
from core.errors import UsageError
from core.evaluation import rivals
from core.evaluation.bench import moving_scene
from core.evaluation.rivals import RIVALS
from core.evaluation.score import measured
from core.model_settings import WanConfig
from core.models.load import Model, load
from core.models.wan import model as wan
from core.models.wan.dit import CausalDiT, DiTConfig
from core.models.wan.model import WanDenoiser, build_codec, randomise
from core.models.wan.taehv import TAEHV, TAEHVConfig
from core.models.wan.vae import WanVAE, WanVAEConfig
from core.operators.averages import TemporalAverage
from core.operators.super_resolution import SuperResolution

CPU = torch.device("cpu")
DIT = DiTConfig(dim=48, ffn_dim=64, layers=2, heads=2, text_dim=8, text_len=4, freq_dim=16)
H, W = 32, 48
FRAMES = moving_scene(57, H, W)
CHUNKS = [FRAMES[:9], *(FRAMES[start : start + 12] for start in (9, 21, 33, 45))]
SR = SuperResolution()


@pytest.fixture(params=["taehv", "wan-vae"])
def engine(request, monkeypatch):
    monkeypatch.setattr(wan, "TAEHVConfig", lambda: TAEHVConfig(encoder_width=8, decoder_widths=(8, 8, 8, 8)))
    monkeypatch.setattr(wan, "WanVAEConfig", lambda: WanVAEConfig(base=8))
    codec = build_codec(request.param, "random", CPU, torch.float32, WanConfig())
    dit = randomise(CausalDiT, DIT, CPU, torch.float32)
    with torch.inference_mode():
        denoiser = WanDenoiser(dit, dit.context(torch.zeros(1, DIT.text_dim)), window=6)
    return Engine(Model("wan2.1-1.3b", codec, denoiser, CPU))


def run(engine, stream, config=None, rungs=("full",) * 5, operator=SR):
    engine.open(stream, operator, "simulate", H, W, seed=3)
    config = config or SolverConfig()
    results = [engine.step(stream, frames, operator, config, rung) for frames, rung in zip(CHUNKS, rungs, strict=False)]
    engine.close(stream)
    return results


def test_a_stream_is_restored_chunk_by_chunk_and_drawn_to_the_measurement(engine):
    """The random codec spoils the picture; output consistency takes most of what the measurement knows of that back."""
    spoilt = run(engine, "a", SolverConfig(reinject_every=3, output_gamma=0))
    results = run(engine, "a", SolverConfig(reinject_every=3))
    assert [len(result.panels) for result in results] == [9, 12, 12, 12, 12]
    assert [result.guided for result in results] == [True, False, False, True, False]
    assert all(a.residual < 0.5 * b.residual for a, b in zip(results, spoilt, strict=True))


def test_a_stream_beside_another_is_bit_equal_to_the_same_stream_alone(engine):
    alone = run(engine, "alone", operator=TemporalAverage())
    operator = TemporalAverage()
    engine.open("a", operator, "simulate", H, W, seed=3)
    engine.open("b", SR, "simulate", H, W, seed=4)
    for frames, expected in zip(CHUNKS, alone, strict=True):
        engine.step("b", frames[::-1], SR, SolverConfig(num_steps=1))
        found = engine.step("a", frames, operator, SolverConfig())
        assert np.array_equal(found.panels, expected.panels)


def test_every_rung_may_follow_every_other_from_the_first_chunk_on(engine):
    """A slow device opens on x_init: codec memories exist, the cache is empty, and the next chunk is guided."""
    results = run(engine, "a", rungs=("x_init", "one_step", "x_init", "no_reinjection", "full"))
    assert [result.guided for result in results] == [False, True, False, True, False]
    assert all(np.ptp(result.panels) > 0 for result in results)


def test_a_stream_that_opens_on_x_init_works_on_one_frame_only(engine, monkeypatch):
    """A device too slow for the model was kept for seconds by the codec, on nine frames that nobody would see."""
    seen = []
    encode = engine.solver.codec.encode
    monkeypatch.setattr(engine.solver.codec, "encode", lambda x, memory: seen.append(len(x)) or encode(x, memory))
    run(engine, "a", rungs=("x_init", "x_init", "full"))
    assert seen == [1, 12, 12, 12]


def test_a_stream_costs_the_same_memory_however_long_it_lives(engine):
    engine.open("a", SR, "simulate", H, W)
    engine.step("a", CHUNKS[0], SR, SolverConfig())
    engine.step("a", CHUNKS[1], SR, SolverConfig())
    assert engine.model.denoiser.chunks_to_settle == 2
    held = engine.session_bytes("a")
    for frames in CHUNKS[2:]:
        engine.step("a", frames, SR, SolverConfig())
        assert engine.session_bytes("a") == held


class FromHost(TorchFunctionMode):
    """Counts tensors made of Python numbers: on a GPU each is a copy that the host waits for."""

    count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.tensor, torch.as_tensor)
        return func(*args, **(kwargs or {}))


def test_a_tensor_made_of_numbers_is_seen():
    with FromHost() as mode:
        torch.tensor([1.0], device="meta") + torch.full((1,), 2.0, device="meta")
    assert mode.count == 1


@pytest.mark.parametrize("module, config", [(TAEHV, TAEHVConfig()), (WanVAE, WanVAEConfig())])
def test_a_steady_step_brings_no_numbers_from_the_host(module, config):
    """With a sink, whose keys turn with every chunk."""
    with torch.device("meta"), torch.inference_mode():
        codec, dit = module(config), CausalDiT(DIT)
        denoiser = WanDenoiser(dit, dit.context(torch.zeros(1, DIT.text_dim)), window=9, sink=3)
        cache, encoder, decoder = denoiser.new_cache(H, W), None, None
        for index in range(5):
            with FromHost() as mode:
                z, encoder = codec.encode(torch.zeros(12 if index else 9, 3, H, W), encoder)
                z = denoiser(z, 0.1, cache)[0]
                cache = denoiser.update_cache(z, cache)
                _, decoder = codec.decode(z, decoder)
    assert mode.count == 0


def test_a_random_model_may_have_fewer_layers_and_the_published_one_not(tmp_path):
    model = load("wan2.1-1.3b", "random", "cpu", settings={"layers": "1", "window": "6"})
    assert len(model.denoiser.dit.blocks) == 1
    assert model.denoiser.spec.window == 6
    with pytest.raises(UsageError, match="the published weights have 30 layers: 1 need random weights"):
        load("wan2.1-1.3b", "pretrained", "cpu", settings={"layers": "1", "folder": str(tmp_path)})


def test_a_pass_over_a_whole_clip_sees_later_latents_and_a_streams_passes_do_not(engine):
    denoiser = engine.solver.denoiser
    z = torch.randn(6, 16, 4, 6, generator=torch.Generator().manual_seed(0))
    other = z.clone()
    other[-1] += 1
    whole, changed = (denoiser(part, 0.1, denoiser.cache_of(6, H, W))[0] for part in (z, other))
    assert whole.shape == z.shape and (whole[0] - changed[0]).abs().max() > 1e-6
    first = denoiser(z[:3], 0.1, denoiser.new_cache(H, W))[0]
    assert torch.equal(first, denoiser(other[:3], 0.1, denoiser.new_cache(H, W))[0])
    three = denoiser(z[:3], 0.1, denoiser.cache_of(3, H, W))[0]
    assert torch.allclose(three, first, atol=1e-5), "a clip of one chunk is a stream's first chunk"


@pytest.mark.parametrize("name", RIVALS)
def test_the_rivals_run_on_the_papers_backbone(engine, name, monkeypatch):
    monkeypatch.setattr(rivals, "VISION_STEPS", 2)
    monkeypatch.setattr(rivals, "VIDEO_TIMES", rivals.VIDEO_TIMES[:3])
    monkeypatch.setattr(rivals, "IMAGE_TIMES", rivals.IMAGE_TIMES[:3])
    operator = SuperResolution()
    y = torch.cat([chunk.y for chunk in measured(FRAMES[:21], operator, 0, CPU)])
    solver, residuals = RIVALS[name](engine.solver), []
    for output_gamma in (0.0, 3.0):
        config = SolverConfig(num_steps=1, output_gamma=output_gamma)
        x = torch.cat([part.x for part in solver.restore_clip(y, operator, 0, config)])
        assert x.shape == (21, 3, H, W) and x.isfinite().all()
        residuals.append(operator.residual(x, y, None))
    assert residuals[1] < 0.6 * residuals[0], "the measurement holds, whatever random weights say"
