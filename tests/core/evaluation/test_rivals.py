"""The rivals run on our prior, on every task, and do what their methods say."""

from itertools import count

import numpy as np
import pytest
import torch

from core.contract import SolverConfig
from core.evaluation import rivals
from core.evaluation.as_published import as_published
from core.evaluation.bench import moving_scene
from core.evaluation.clip_solvers import AvisClip, HolisticClip, WholeClip
from core.evaluation.metrics import psnr
from core.evaluation.rivals import RIVALS, FrameByFrame, Key, fitted, low_pass, shown, steadied
from core.evaluation.score import measured, score_clip
from core.models.tiny.denoiser import TinyConfig
from core.models.tiny.load import build
from core.operators.blur import GaussianBlur
from core.operators.prox import least_squares
from core.operators.resizing import upsample
from core.operators.super_resolution import SuperResolution
from core.operators.table import PAPER_OPERATORS
from core.solver import Solver
from core.video import from_pixels

CPU = torch.device("cpu")
SMALL = TinyConfig(quarter=32, eighth=32, width=32, heads=2, layers=1, window=2)
PAPER_FORM = {"condition": False, "output_gamma": 0.0}


@pytest.fixture(scope="module")
def solver():
    return Solver(*build(SMALL))


def restored(method, operator, frames=21, noise=0.01, **changes):
    operator = operator.model_copy(update={"noise": noise})
    operator.prepare(32, 48)
    chunks = list(measured(moving_scene(frames, 32, 48), operator, 0, CPU))
    y = torch.cat([chunk.y for chunk in chunks])
    parts = list(method.restore_clip(y, operator, 0, SolverConfig(**changes)))
    return parts, chunks


@pytest.mark.parametrize("operator", PAPER_OPERATORS, ids=lambda op: op.kind)
@pytest.mark.parametrize("name", RIVALS)
def test_every_rival_restores_every_task(solver, name, operator):
    parts, chunks = restored(RIVALS[name](solver), operator)
    x = torch.cat([part.x for part in parts])
    original = torch.cat([chunk.x for chunk in chunks])
    assert x.shape == original.shape and x.abs().max() <= 1 and psnr(x, original) > 15
    streams = name == "flow_warp_style"  # the others see the whole clip before they yield it
    assert [len(part.x) for part in parts] == ([9, 12] if streams else [21])


@pytest.mark.parametrize("name", RIVALS)
def test_the_same_seed_gives_the_same_pixels_in_the_papers_form(solver, name, monkeypatch):
    monkeypatch.setattr(rivals, "VISION_STEPS", 2)
    runs = [restored(RIVALS[name](solver), SuperResolution(), **PAPER_FORM)[0] for _ in range(2)]
    a, b = (torch.cat([part.x for part in parts]) for parts in runs)
    assert torch.equal(a, b)


def test_of_one_chunk_the_holistic_solver_is_avis(solver):
    """With one chunk there is nothing to be holistic over; it differs by one passage through an exact codec."""
    ours, _ = restored(AvisClip(solver), SuperResolution(), frames=9)
    theirs, _ = restored(HolisticClip(solver), SuperResolution(), frames=9)
    assert torch.allclose(ours[0].x, theirs[0].x, atol=1e-3)


def test_frame_by_frame_neighbours_do_not_matter(solver):
    operator = SuperResolution()
    y = operator.A(from_pixels(moving_scene(9, 32, 48)))
    x = least_squares(operator, y, None, 5)
    other = x.clone()
    other[1:] = -other[1:]
    frames = FrameByFrame(solver, y, operator, SolverConfig(condition=False))
    a, b = (frames(z, 0.1, torch.Generator().manual_seed(0)) for z in (x, other))
    assert torch.equal(a[0], b[0]) and not torch.equal(a[1], b[1])


def test_all_latents_of_a_clip_see_each_other(solver):
    operator = SuperResolution()
    y = operator.A(from_pixels(moving_scene(33, 32, 48)))
    clip = WholeClip(solver, y, operator, SolverConfig(condition=False))
    other = clip.z_init.clone()
    other[-1] += 1
    a, b = clip.estimate(clip.z_init, 0.1), clip.estimate(other, 0.1)
    assert (a[-2] - b[-2]).abs().max() > 1e-6, "an earlier latent sees a later one"


def test_plain_least_squares_moves_towards_the_measurement():
    operator = SuperResolution()
    x = from_pixels(moving_scene(2, 32, 48))
    y = operator.A(x)
    start = torch.zeros_like(x)
    assert operator.residual(fitted(operator, start, y), y, None) < 0.01 * operator.residual(start, y, None)


def test_a_low_pass_of_no_width_changes_nothing_and_a_wide_one_smooths():
    x = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    assert torch.equal(low_pass(x, 0.05), x)
    assert low_pass(x, 2.0).std() < 0.3 * x.std()


def test_a_frame_is_taken_from_the_key_frame_where_that_shows_it():
    texture = from_pixels(np.random.default_rng(0).integers(0, 256, (1, 24, 32, 3), np.uint8))
    scene = upsample(texture, 4)
    look = scene.roll(3, -1)
    found = shown(Key(scene, scene), look, look + 0.3)
    middle = (..., slice(8, -8), slice(8, -8))
    assert psnr(found[middle], look[middle]) > psnr((look + 0.3)[middle], look[middle]) + 6


def test_what_does_not_move_is_steadied_to_one_picture():
    still = from_pixels(moving_scene(1, 32, 48)).expand(9, -1, -1, -1)
    estimates = still + 0.1 * torch.randn(still.shape, generator=torch.Generator().manual_seed(0))
    x, key = steadied(estimates, still, None)
    assert torch.allclose(x, estimates[4:5].expand_as(x), atol=0.02) and torch.equal(key.x, estimates[4:5])


def score_of_start(operator, noise, published):
    operator = operator.model_copy(update={"noise": noise})
    operator.prepare(32, 48)
    chunks = list(measured(moving_scene(9, 32, 48), operator, 0, CPU))
    told = as_published(operator) if published else operator
    x = least_squares(told, chunks[0].y, None, 5)
    return psnr(x, chunks[0].x)


def test_the_published_blur_is_good_without_noise_and_diverges_with_it():
    blur = GaussianBlur()
    blurred = psnr(blur.A(from_pixels(moving_scene(9, 32, 48))), from_pixels(moving_scene(9, 32, 48)))
    assert score_of_start(blur, 5e-4, published=True) > blurred
    assert score_of_start(blur, 0.05, published=True) < score_of_start(blur, 0.05, published=False) - 3


@pytest.mark.parametrize("operator", PAPER_OPERATORS, ids=lambda op: op.kind)
def test_the_published_operators_measure_the_same(operator):
    operator.prepare(32, 48)
    x = from_pixels(moving_scene(9, 32, 48))
    assert torch.equal(as_published(operator).A(x), operator.A(x))


@pytest.mark.parametrize("operator", PAPER_OPERATORS, ids=lambda op: op.kind)
def test_our_solver_runs_on_the_published_operators(solver, operator):
    operator.prepare(32, 48)
    chunks = list(measured(moving_scene(21, 32, 48), operator, 0, CPU))
    y = torch.cat([chunk.y for chunk in chunks])
    parts = AvisClip(solver).restore_clip(y, as_published(operator), 0, SolverConfig(**PAPER_FORM))
    assert score_clip(parts, chunks, operator, lambda x: None, count().__next__).row()["frames"] == 21
