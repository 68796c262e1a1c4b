import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from core.chunks import ChunkSpec
from core.contract import SolverConfig
from core.engine import Engine
from core.errors import UsageError
from core.models.load import Model, choose_device, load
from core.models.table import check_latency
from core.models.tiny.denoiser import TinyConfig
from core.models.tiny.load import build
from core.operators.averages import TemporalAverage
from core.operators.denoise import Denoise
from core.operators.masks import Inpainting
from core.operators.super_resolution import SuperResolution
from core.training.data import procedural

H, W = 48, 64
CONFIG = SolverConfig()


@pytest.fixture
def engine():
    codec, denoiser = build(TinyConfig(quarter=32, eighth=32, width=32, heads=2))
    return Engine(Model("small", codec, denoiser, torch.device("cpu"), 1))


@pytest.fixture(scope="module")
def frames():
    return procedural(33, H, W, random.Random(0))


def test_simulated_frames_come_back_with_their_panels(engine, frames):
    engine.open("a", SuperResolution(), "simulate", H, W)
    result = engine.step("a", frames[:9], SuperResolution(), CONFIG, panels=("original", "degraded", "restored"))
    assert result.panels.shape == (9, H, 3 * W, 3) and result.panels.dtype == np.uint8
    original, degraded, restored = np.split(result.panels, 3, axis=2)
    assert np.array_equal(original, frames[:9])
    assert len(np.unique(degraded[0, :4, :4, 0])) == 1  # one block, one value
    assert not np.array_equal(restored, degraded)
    assert result.guided and result.psnr > 10 and result.psnr_x_init > 10 and result.residual < 0.1
    changes = [np.abs(np.diff(video[:, ::4].astype(float), axis=0)).mean() for video in (restored, original)]
    assert result.flicker == pytest.approx(changes[0] / changes[1], rel=0.02)


def test_incoming_frames_are_the_measurement(engine, frames):
    engine.open("a", SuperResolution(), "incoming", H, W)
    small = np.ascontiguousarray(frames[:9, ::4, ::4])
    result = engine.step("a", small, SuperResolution(), CONFIG)
    assert result.panels.shape == (9, H, W, 3) and result.psnr is None
    assert 0.5 < result.flicker < 1.5, "over the start"


def test_a_picture_that_stands_still_has_no_flicker_to_tell(engine, frames):
    engine.open("a", Denoise(), "simulate", H, W)
    still = np.repeat(frames[:1], 9, axis=0)
    assert engine.step("a", still, Denoise(), CONFIG).flicker is None


def test_nobody_knows_the_original_of_incoming_frames(engine, frames):
    """Beside a restored picture it was no ValueError, which is the stream's fault, but ended the device process."""
    engine.open("a", SuperResolution(), "incoming", H, W)
    small = np.ascontiguousarray(frames[:9, ::4, ::4])
    with pytest.raises(ValueError, match="original of incoming frames"):
        engine.step("a", small, SuperResolution(), CONFIG, panels=("original", "restored"))


def test_what_a_mask_loses_is_no_measurement(engine, frames):
    """Whatever comes in where the mask is black, picture and residual are the same."""
    op = Inpainting()
    lost = op.mask(H, W)[0, 0].numpy() == 0
    spoilt = frames[:9].copy()
    spoilt[:, lost] = 255 - spoilt[:, lost]
    for name in ("a", "b"):
        engine.open(name, op, "incoming", H, W)
    a, b = engine.step("a", frames[:9], op, CONFIG), engine.step("b", spoilt, op, CONFIG)
    assert np.array_equal(a.panels, b.panels)
    assert a.residual == b.residual < 0.1


def test_two_sessions_are_bit_equal_to_each_alone(engine, frames):
    op = TemporalAverage()

    def chunks(offset):
        moved = np.roll(frames, offset, axis=2)
        return [moved[:9], moved[9:21], moved[21:33]]

    engine.open("alone", op, "simulate", H, W, seed=4)
    alone = [engine.step("alone", part, op, CONFIG).panels for part in chunks(0)]
    engine.open("a", op, "simulate", H, W, seed=4)
    engine.open("b", Inpainting(), "simulate", H, W, seed=5)
    together = []
    for part, other in zip(chunks(0), chunks(7), strict=True):
        engine.step("b", other, Inpainting(), CONFIG)
        together.append(engine.step("a", part, op, CONFIG).panels)
    assert all(np.array_equal(p, q) for p, q in zip(alone, together, strict=True))


def test_a_failed_step_leaves_the_stream_as_it_was(engine, frames, monkeypatch):
    op = Inpainting()
    for name in ("a", "b"):
        engine.open(name, op, "simulate", H, W)
        engine.step(name, frames[:9], op, CONFIG)
    with monkeypatch.context() as patch:
        patch.setattr(engine.solver.denoiser, "update_cache", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.step("a", frames[9:21], op, CONFIG)
    a, b = (engine.step(name, frames[9:21], op, CONFIG).panels for name in ("a", "b"))
    assert np.array_equal(a, b)


def test_a_picture_that_is_not_finite_is_an_error_and_not_a_frame(engine, frames, monkeypatch):
    engine.open("a", Inpainting(), "simulate", H, W)
    monkeypatch.setattr(engine.solver.codec, "decode", lambda z, memory: (torch.full((9, 3, H, W), torch.nan), True))
    with pytest.raises(FloatingPointError, match="not finite"):
        engine.step("a", frames[:9], Inpainting(), CONFIG)


def test_wrong_input_says_what_was_expected(engine, frames):
    with pytest.raises(ValueError, match="multiple of 16"):
        engine.open("a", SuperResolution(), "simulate", 50, 64)
    engine.open("a", SuperResolution(), "simulate", H, W)
    with pytest.raises(ValueError, match="open already"):
        engine.open("a", SuperResolution(), "simulate", H, W)
    with pytest.raises(ValueError, match=r"expected frames of shape \(9, 48, 64, 3\), found \(12, 48, 64, 3\)"):
        engine.step("a", frames[:12], SuperResolution(), CONFIG)
    with pytest.raises(KeyError):
        engine.step("never opened", frames[:9], SuperResolution(), CONFIG)


def test_an_operator_change_applies_from_its_chunk(engine, frames):
    engine.open("a", SuperResolution(), "simulate", H, W)
    engine.step("a", frames[:9], SuperResolution(), CONFIG)
    result = engine.step("a", frames[9:21], TemporalAverage(), CONFIG)
    assert result.guided
    engine.close("a")
    engine.close("a")


def test_a_model_or_device_that_is_not_there_is_named():
    with pytest.raises(UsageError, match="there is no model 'huge'; there are tiny"):
        load("huge")
    with pytest.raises(UsageError, match="no codec 'jpeg'"):
        load("tiny", codec="jpeg")
    with pytest.raises(UsageError, match="is no device"):
        choose_device("toaster")
    with pytest.raises(UsageError, match="models run on cpu and cuda, not on 'meta'"):
        choose_device("meta")
    with pytest.raises(UsageError, match="device cuda:99 was asked for"):
        choose_device("cuda:99")


@pytest.mark.parametrize("operator", [SuperResolution(), Inpainting(), TemporalAverage()], ids=lambda op: op.kind)
def test_a_lost_frame_is_restored_from_the_others(engine, frames, operator):
    """Whatever lies in its place, now or in the next chunk's past, the pictures are the same."""
    height, width = operator.measurement_size(H, W)
    y = np.ascontiguousarray(frames[:, :: H // height, :: W // width])
    spoilt = y.copy()
    spoilt[[4, 20]] = 0  # the second one is the last of its chunk: all that the next one remembers
    for name, given in (("a", y), ("b", spoilt)):
        engine.open(name, operator, "incoming", H, W)
        pictures = []
        for lost, part in ((4,), given[:9]), ((11,), given[9:21]), ((), given[21:]):
            pictures.append(engine.step(name, part, operator, CONFIG, lost=lost).panels)
        if name == "a":
            expected = pictures
    assert all(np.array_equal(a, b) for a, b in zip(expected, pictures, strict=True))


def test_a_lost_frame_is_no_part_of_a_simulated_score(engine, frames):
    for name in ("a", "b"):
        engine.open(name, SuperResolution(), "simulate", H, W)
    spoilt = frames[:9].copy()
    spoilt[4] = 255 - spoilt[4]
    a = engine.step("a", frames[:9], SuperResolution(), CONFIG, lost=(4,))
    b = engine.step("b", spoilt, SuperResolution(), CONFIG, lost=(4,))
    assert a.psnr == b.psnr


def test_an_opening_chunk_of_lost_frames_is_refused_and_the_stream_lives(engine, frames):
    engine.open("a", SuperResolution(), "simulate", H, W)
    with pytest.raises(ValueError, match="every frame of the opening chunk is lost"):
        engine.step("a", frames[:9], SuperResolution(), CONFIG, lost=tuple(range(9)))
    assert engine.step("a", frames[:9], SuperResolution(), CONFIG).guided


def test_streams_are_sound_whatever_they_went_through(engine, frames):
    operator = SuperResolution()
    for stream in "ab":
        engine.open(stream, operator, "simulate", H, W)
        for start, end in ((0, 9), (9, 21)):
            engine.step(stream, frames[start:end], operator, CONFIG)
    engine.check_integrity()
    engine.close("a")
    engine.check_integrity()


def test_a_stream_that_reaches_anothers_memory_is_found(engine, frames):
    operator = SuperResolution()
    for stream in "ab":
        engine.open(stream, operator, "simulate", H, W)
        engine.step(stream, frames[:9], operator, CONFIG)
    engine._streams["b"].state = engine._streams["a"].state
    with pytest.raises(AssertionError, match="streams a and b share memory"):
        engine.check_integrity()


@pytest.mark.parametrize("operator", [SuperResolution(), TemporalAverage()], ids=lambda op: op.kind)
def test_a_stream_of_short_chunks_beside_one_of_long_ones_is_bit_equal_to_it_alone(engine, frames, operator):
    short = ChunkSpec(latents=1)

    def step(name, start, length):
        return engine.step(name, frames[start : start + length], operator, CONFIG).panels

    engine.open("alone", operator, "simulate", H, W, seed=4, spec=short)
    starts = [(0, 5), (5, 4), (9, 4), (13, 4)]
    alone = [step("alone", *part) for part in starts]
    engine.open("a", operator, "simulate", H, W, seed=4, spec=short)
    engine.open("b", operator, "simulate", H, W, seed=5)
    together = [step("a", *starts[0]), step("b", 0, 9), *(step("a", *part) for part in starts[1:]), step("b", 9, 12)]
    assert [len(panels) for panels in alone] == [5, 4, 4, 4]
    assert all(np.array_equal(p, q) for p, q in zip(alone, [together[0], *together[2:5]], strict=True))
    assert (engine.frames("a"), engine.frames("b")) == (4, 12)


def test_a_model_refuses_chunks_that_it_was_not_trained_on(engine):
    engine.model = replace(engine.model, latents=(3,))
    with pytest.raises(ValueError, match="model small takes chunks of 3 latents, not 1"):
        engine.open("a", SuperResolution(), "simulate", H, W, spec=ChunkSpec(latents=1))
    with pytest.raises(UsageError, match=r"model wan2.1-1.3b was trained on chunks of 12 frames, and takes none of 4"):
        check_latency("wan2.1-1.3b", "low")
    check_latency("tiny", "low")
