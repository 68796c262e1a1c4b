"""Evaluation measures what it says, on the real classes with random weights."""

from itertools import count

import numpy as np
import pytest
import torch

from core.contract import SolverConfig
from core.evaluation.bench import moving_scene
from core.evaluation.clip_solvers import Part
from core.evaluation.evaluate import clip_solver, gains, means, variant_config
from core.evaluation.loss import freeze, lost_frames, score_loss
from core.evaluation.metrics import psnr
from core.evaluation.score import Score, measured, score_clip
from core.models.tiny.denoiser import TinyConfig
from core.models.tiny.load import build
from core.operators.averages import TemporalAverage
from core.operators.masks import Inpainting
from core.operators.super_resolution import SuperResolution
from core.operators.table import PAPER_OPERATORS
from core.solver import Solver
from core.video import from_pixels

CPU = torch.device("cpu")
SMALL = TinyConfig(quarter=32, eighth=32, width=32, heads=2, layers=1, window=2)


@pytest.fixture(scope="module")
def solver():
    return Solver(*build(SMALL))


def clip(frames=21, height=32, width=48):
    rng = np.random.default_rng(0)
    noise = rng.integers(-20, 20, (1, height, width, 3))
    return np.clip(moving_scene(frames, height, width).astype(int) + noise, 0, 255).astype(np.uint8)


def scored(solver, variant, operator, config=None, frames=21, show=lambda x: None, coding=None, consistent=False):
    config = variant_config(variant, config or SolverConfig(), output_consistency=consistent)
    operator.prepare(32, 48)
    chunks = list(measured(clip(frames), operator, 0, CPU, coding))
    y = torch.cat([chunk.y for chunk in chunks])
    parts = clip_solver(variant, solver).restore_clip(y, operator, 0, config)
    return score_clip(parts, chunks, operator, show, count().__next__)


@pytest.mark.parametrize(
    "operator", [op for op in PAPER_OPERATORS if op.kind != "gaussian_blur"], ids=lambda op: op.kind
)
def test_the_measurement_in_chunks_is_the_measurement_of_the_whole(operator):
    operator = type(operator)(noise=1e-6)
    operator.prepare(32, 48)
    x = from_pixels(clip(33))
    parts = torch.cat([chunk.y for chunk in measured(clip(33), operator, 0, CPU)])
    assert torch.allclose(parts, operator.A(x), atol=1e-5)


def test_a_short_last_chunk_is_filled_up_and_only_its_own_frames_count(solver):
    seen = []
    score = scored(solver, "x_init", SuperResolution(), frames=14, show=seen.append)
    assert [len(x) for x in seen] == [9, 5]
    assert score.row()["frames"] == 14 and len(score.residuals) == 2
    assert score.row()["psnr"] == pytest.approx(psnr(torch.cat(seen), from_pixels(clip(14))), abs=1e-4)


def test_the_variants_guide_the_chunks_they_should(solver):
    for variant, guided in {"flash": 1, "avis": 4, "reinject": 1, "x_init": 0, "decoder_only": 1}.items():
        assert scored(solver, variant, SuperResolution(), frames=45).guided == guided, variant


def test_decoder_only_is_x_init_through_the_codec(solver):
    row, start = (scored(solver, v, SuperResolution()).row()["psnr"] for v in ("decoder_only", "x_init"))
    assert row == pytest.approx(start, abs=0.05)  # the tiny codec loses nothing


def test_without_output_consistency_the_setting_is_off_and_with_it_is_kept():
    config = SolverConfig(output_gamma=3.0)
    assert variant_config("flash", config, output_consistency=False).output_gamma == 0
    assert variant_config("flash", config, output_consistency=True).output_gamma == 3
    assert variant_config("blind", config, output_consistency=True).condition is False


def test_output_consistency_lowers_the_residual_of_a_plain_method(solver):
    rows = [scored(solver, "baseline", SuperResolution(), consistent=on).row() for on in (False, True)]
    assert rows[1]["residual"] < rows[0]["residual"] / 2


def test_the_degraded_row_is_what_one_sees(solver):
    operator, seen = Inpainting(), []
    scored(solver, "degraded", operator, frames=9, show=seen.append)
    assert (seen[0][:, :, operator.mask(32, 48)[0, 0] == 0] == 0).all()


def test_the_same_seed_gives_the_same_score_and_another_another(solver):
    a, b = (scored(solver, "flash", TemporalAverage()).row() for _ in range(2))
    assert a == b


@pytest.mark.parametrize("operator", [SuperResolution(), Inpainting()], ids=lambda op: op.kind)
def test_a_coded_measurement_is_what_the_decoder_shows_of_the_same_measurement(operator):
    operator.prepare(64, 96)
    pixels = clip(21, 64, 96)
    bare, fine, coarse = (
        torch.cat([chunk.y for chunk in measured(pixels, operator, 0, CPU, coding)])
        for coding in (None, "vp8:q4", "vp8:q60")
    )
    assert fine.shape == bare.shape and not torch.equal(fine, bare)
    assert (fine - bare).abs().mean() < (coarse - bare).abs().mean()
    if operator.kind == "inpainting":
        assert (coarse[:, :, operator.mask(64, 96)[0, 0] == 0] == 0).all(), "what is lost is not measured"


def test_the_seam_tells_a_first_frame_that_is_worse_than_its_chunk():
    score, x = Score(seconds=[1.0]), from_pixels(clip(21))
    score.add(x[:9] + 0.1, x[:9], 0.0)
    assert score.row()["seam"] is None, "the first chunk has no chunk before it"
    error = torch.full((12, 1, 1, 1), 0.02)
    error[0] = 0.2
    score.add(x[9:] + error, x[9:], 0.0)
    assert score.row()["seam"] == pytest.approx(20 - (20 + 11 * 40) / 12, abs=0.05)


def test_latency_is_the_time_to_the_first_part_and_seconds_the_time_of_all(solver):
    row = scored(solver, "flash", SuperResolution(), frames=33).row()
    assert (row["latency"], row["seconds"]) == (1, 3)
    row = scored(solver, "holistic", SuperResolution(), frames=33).row()
    assert (row["latency"], row["seconds"]) == (1, 1), "a holistic method has nothing until it has all"


def test_parts_that_cut_through_a_chunk_are_refused():
    chunks = list(measured(clip(21), SuperResolution(), 0, CPU))
    with pytest.raises(ValueError, match="expected whole chunks of 9 frames, found 4"):
        score_clip(iter([Part(chunks[0].x[:4])]), chunks, SuperResolution(), lambda x: None, count().__next__)


@pytest.mark.parametrize("share, burst", [(0.01, 1), (0.1, 1), (0.1, 4), (0.9, 3)])
def test_about_the_share_is_lost_in_runs_and_never_the_first_frame(share, burst):
    lost = lost_frames(120, share, burst, seed=3)
    assert 0 not in lost and max(lost) < 120
    assert len(lost) == pytest.approx(share * 120, abs=burst)
    assert {n for n in lost if n - 1 not in lost} <= {n for n in range(1, 120) if (n - 1) % burst == 0}
    assert lost == lost_frames(120, share, burst, seed=3)


def test_a_frozen_frame_holds_the_measurement_before_it_also_across_chunks():
    y = torch.arange(4.0)[:, None, None, None]
    assert freeze(y, y[3], (0, 1, 3)).flatten().tolist() == [3, 3, 2, 2]
    assert y.flatten().tolist() == [0, 1, 2, 3]


def lossy(solver, variant, lost, operator=SuperResolution()):  # noqa: B008 - frozen
    chunks = measured(clip(33), operator, 0, CPU)
    return score_loss(solver, chunks, operator, SolverConfig(), variant, frozenset(lost), 0)


def test_without_a_loss_in_it_a_chunk_is_the_same_in_every_variant(solver):
    scores = [lossy(solver, variant, {25}) for variant in ("intact", "freeze", "mask")]
    assert scores[0].psnrs[:21] == scores[1].psnrs[:21] == scores[2].psnrs[:21]
    assert len({score.psnrs[25] for score in scores}) == 3


def test_the_affected_frames_are_the_lost_ones_and_those_that_shared_their_measurement(solver):
    assert lossy(solver, "freeze", {5, 31}).affected == [5, 31]
    row = lossy(solver, "freeze", {5, 31}, TemporalAverage()).row()
    assert (row["lost"], row["affected"], row["frames"]) == (2, 7 + 2, 33)


def row(clip, variant, value, oc=True):
    return {
        "clip": clip,
        "operator": "sr",
        "variant": variant,
        "output_consistency": oc,
        "psnr": value,
        "ssim": 0.5,
    }


def test_gains_compare_like_with_like_and_name_the_worst_clip():
    rows = [
        row("a", "x_init", 30.0),
        row("a", "flash", 31.0),
        row("b", "x_init", 20.0),
        row("b", "flash", 19.5),
    ]
    rows += [row("a", "flash", 99.0, oc=False), row("c", "flash", 99.0)]
    (found,) = gains(rows)
    assert found["clips"] == 2
    assert found["psnr"] == {"mean": pytest.approx(0.25), "min": pytest.approx(-0.5)}
    assert "vmaf" not in found


def test_means_are_over_clips_and_leave_out_what_some_clips_lack():
    rows = [row("a", "flash", 30.0) | {"vmaf": 50.0}, row("b", "flash", 20.0), row("b", "x_init", 10.0)]
    flash, x_init = means(rows)
    assert flash["psnr"] == 25 and flash["clips"] == 2 and "vmaf" not in flash
    assert x_init["psnr"] == 10
