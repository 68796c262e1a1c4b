import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from core.chunks import ChunkSpec
from core.contract import SolverConfig
from core.models.tiny.denoiser import TinyConfig
from core.models.tiny.load import build
from core.operators.averages import SpatioTemporalAverage, TemporalAverage
from core.operators.blur import GaussianBlur
from core.operators.denoise import Denoise
from core.operators.masks import Inpainting
from core.operators.prox import prox_l2
from core.operators.super_resolution import SuperResolution
from core.operators.table import PAPER_OPERATORS
from core.solver import Solver, consistency, guided_pixels
from core.training.data import procedural
from core.video import from_pixels

H, W = 48, 64
FLASH = SolverConfig(num_steps=2, reinject_every=0)
AVIS = SolverConfig(num_steps=2, reinject_every=1)


@pytest.fixture(scope="module")
def solver():
    codec, denoiser = build(TinyConfig(quarter=32, eighth=32, width=32, heads=2))
    torch.nn.init.normal_(denoiser.out.weight, std=0.05)
    return Solver(codec, denoiser)


def scene(frames, seed=0):
    return from_pixels(procedural(frames, H, W, random.Random(seed)))


def measurements(op, chunks=3, seed=0):
    lengths = [ChunkSpec().frames(index) for index in range(chunks)]
    y = op.measure(scene(sum(lengths), seed), None, torch.Generator().manual_seed(seed))
    return list(y.split(lengths))


def run(solver, op, parts, config=FLASH, seed=0, rungs=None):
    state, out = solver.new_state(op, H, W, seed), []
    for index, y in enumerate(parts):
        restored, state = solver.restore(y, state, config, rungs[index] if rungs else "full")
        out.append(restored)
    return out, state


def same(a, b):
    return all(torch.equal(p.x, q.x) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("op", PAPER_OPERATORS, ids=lambda op: op.kind)
def test_every_chunk_comes_back_whole(solver, op):
    out, state = run(solver, op, measurements(op))
    assert [len(r.x) for r in out] == [9, 12, 12]
    assert all(r.x.shape[1:] == (3, H, W) and torch.isfinite(r.x).all() and r.x.abs().max() <= 1 for r in out)
    assert state.index == 3


def test_same_seed_same_pixels(solver):
    config = SolverConfig(num_steps=2, condition=False)
    parts = measurements(SuperResolution())
    assert same(run(solver, SuperResolution(), parts, config)[0], run(solver, SuperResolution(), parts, config)[0])
    other = run(solver, SuperResolution(), parts, config, seed=1)[0]
    assert not same(run(solver, SuperResolution(), parts, config)[0], other)


def test_flash_is_avis_on_the_first_chunk(solver):
    op = Inpainting()
    flash, _ = run(solver, op, measurements(op))
    avis, _ = run(solver, op, measurements(op), AVIS)
    assert torch.equal(flash[0].x, avis[0].x)
    assert [r.guided for r in flash] == [True, False, False]
    assert [r.guided for r in avis] == [True, True, True]
    assert not torch.equal(flash[1].x, avis[1].x)


def test_reinjection_follows_the_calendar(solver):
    op = SuperResolution()
    out, _ = run(solver, op, measurements(op, 5), SolverConfig(num_steps=1, reinject_every=3))
    assert [r.guided for r in out] == [True, False, False, True, False]


def test_the_calendar_can_be_shifted(solver):
    op = SuperResolution()
    config = SolverConfig(num_steps=1, reinject_every=3, reinject_phase=1)
    out, _ = run(solver, op, measurements(op, 6), config)
    assert [r.guided for r in out] == [True, False, True, False, False, True]


def test_reinjection_follows_the_residual(solver):
    op = SuperResolution()
    out, _ = run(solver, op, measurements(op, 4), SolverConfig(reinject_every=0, reinject_residual=1e-6))
    assert [r.guided for r in out] == [True] * 4
    out, _ = run(solver, op, measurements(op, 4), SolverConfig(reinject_every=0, reinject_residual=1000))
    assert [r.guided for r in out] == [True, False, False, False]


@pytest.mark.parametrize("broken", ["decode", "update_cache"])
def test_restore_does_not_touch_state_until_the_end(solver, broken, monkeypatch):
    op = Inpainting()
    parts = measurements(op)
    _, state = run(solver, op, parts[:2])
    expected, _ = solver.restore(parts[2], state, FLASH)
    with monkeypatch.context() as patch:
        owner = solver.codec if broken == "decode" else solver.denoiser
        patch.setattr(owner, broken, lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            solver.restore(parts[2], state, FLASH)
    again, _ = solver.restore(parts[2], state, FLASH)
    assert torch.equal(again.x, expected.x)


@pytest.mark.parametrize("op", PAPER_OPERATORS, ids=lambda op: op.kind)
def test_two_streams_do_not_mix(solver, op):
    ours, theirs = measurements(op), measurements(op, seed=1)
    alone, _ = run(solver, op, ours)
    state, other, out = solver.new_state(op, H, W), solver.new_state(op, H, W, 1), []
    for y, v in zip(ours, theirs, strict=True):
        restored, state = solver.restore(y, state, FLASH)
        _, other = solver.restore(v, other, FLASH)
        out.append(restored)
    assert same(out, alone)


def test_output_consistency_lowers_the_residual(solver):
    op = SuperResolution()
    parts = measurements(op)
    plain, _ = run(solver, op, parts, SolverConfig(output_gamma=0))
    consistent, _ = run(solver, op, parts, SolverConfig(output_gamma=10))
    assert all(a.residual < b.residual for a, b in zip(consistent, plain, strict=True))


def test_without_denoising_and_consistency_the_codec_gives_back_x_init(solver):
    op = SuperResolution()
    out, _ = run(solver, op, measurements(op), SolverConfig(denoise=False, output_gamma=0))
    assert all(torch.allclose(r.x, r.x_init, atol=1e-4) for r in out[1:])


def test_the_rungs_each_drop_something(solver):
    op = SuperResolution()
    config = SolverConfig(num_steps=2, reinject_every=1)
    rungs = ["full", "one_step", "no_reinjection", "x_init", "full"]
    out, state = run(solver, op, measurements(op, 5), config, rungs=rungs)
    assert [r.guided for r in out] == [True, True, False, False, True]
    x_init = out[3].x_init
    assert torch.allclose(
        out[3].x, prox_l2(op, x_init, measurements(op, 5)[3], None, config.output_gamma, 5).clamp(-1, 1), atol=1e-6
    )
    assert state.index == 5


def test_a_stream_may_open_on_x_init_and_the_next_chunk_is_guided(solver):
    """It once left the codec without memory, so that the second chunk failed."""
    op = SuperResolution()
    out, _ = run(solver, op, measurements(op), rungs=["x_init", "full", "full"])
    assert [r.guided for r in out] == [False, True, False]
    assert [len(r.x) for r in out] == [9, 12, 12]


def test_an_operator_change_grounds_the_next_chunk(solver):
    first, second = SuperResolution(), Inpainting()
    _, state = run(solver, first, measurements(first))
    restored, state = solver.restore(measurements(second)[1], state.change_operator(second), FLASH)
    assert restored.guided and restored.x.shape == (12, 3, H, W)
    restored, _ = solver.restore(measurements(second)[2], state, FLASH)
    assert not restored.guided


def test_temporal_operators_remember_across_chunks(solver):
    """The restored stream is consistent as a whole, not chunk by chunk."""
    op = PAPER_OPERATORS[3]
    parts = measurements(op)
    out, _ = run(solver, op, parts, SolverConfig(output_gamma=1000))
    assert op.residual(torch.cat([r.x for r in out]), torch.cat(parts), None) < 0.03


OPERATORS = (SuperResolution, Inpainting, GaussianBlur, TemporalAverage, SpatioTemporalAverage, Denoise)


@pytest.mark.parametrize("kind", OPERATORS, ids=lambda kind: kind.__name__)
@settings(max_examples=30, deadline=None)
@given(
    st.one_of(st.sampled_from([5e-324, 1e-320, 1e-200, 1e-40, 1e-7, 1e-6, 1e6]), st.floats(0, 1e6, exclude_min=True)),
    st.one_of(st.sampled_from([5e-324, 1e-200, 1e-7, 1e-6, 0.01, 1.0]), st.floats(0, 1, exclude_min=True)),
)
def test_every_strength_that_is_accepted_leaves_a_finite_frame(kind, gamma, noise):
    """`output_gamma` 1e-320 and `noise` 1e-200 were accepted: frames of NaN, and an OverflowError on the device."""
    try:
        op, config = kind(noise=noise), SolverConfig(gamma=gamma, output_gamma=gamma)
    except ValidationError:
        assert min(gamma, noise) < 1e-6
        return
    x = torch.linspace(-1, 1, 4 * 3 * 64 * 64).reshape(4, 3, 64, 64)
    y = op.A(x, None)
    for strength in (config.gamma, config.output_gamma):
        assert torch.isfinite(prox_l2(op, x, y, None, consistency(strength, op.noise), 2)).all()


def test_output_consistency_is_off_or_felt():
    assert SolverConfig(output_gamma=0).output_gamma == 0
    with pytest.raises(ValidationError, match="expected 0 or 1e-06 at least"):
        SolverConfig(output_gamma=1e-320)


def test_guided_pixels_are_clamped_only_where_the_official_codes_way_is_asked_for():
    op, config = SuperResolution(), SolverConfig()
    y, x = torch.full((9, 3, 8, 8), 1.2), torch.full((9, 3, 32, 32), 1.3)
    free = guided_pixels(op, x, y, None, config)
    clamped = guided_pixels(op, x, y, None, SolverConfig(clamp_guided=True))
    assert free.max() > 1 and torch.equal(clamped, free.clamp(-1, 1))


def test_the_clamp_changes_a_guided_chunk_and_leaves_an_unguided_one(solver):
    op = SuperResolution()
    parts = [2 * y for y in measurements(op, 1)]  # beyond what pixels can be
    assert not same(run(solver, op, parts)[0], run(solver, op, parts, SolverConfig(num_steps=2, clamp_guided=True))[0])
    rungs = ["x_init"]
    plain, clamped = (run(solver, op, parts, SolverConfig(clamp_guided=c), rungs=rungs)[0] for c in (False, True))
    assert same(plain, clamped)
