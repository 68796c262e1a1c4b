"""The paper's studies: every line can run, claims are judged clip by clip, and the document says what it compares."""

import pytest

from core.contract import SolverConfig
from core.evaluation.evaluate import METHODS, means
from core.evaluation.markdown import report, verdict
from core.evaluation.plots import draw_chunks, draw_gains, mean_chunks
from core.evaluation.presets import FORMS, PRESETS, START, TABLE_KEYS, differences, orderings

AR = PRESETS["ablation-ar"]
SETTINGS = {"model": "tiny", "weights": "pretrained", "size": "128x96", "frames": 81, "seed": 0, "clips": ["a", "b"]}


@pytest.mark.parametrize("gain, word", [(0.2, "yes"), (-0.2, "no"), (0.001, "even"), (-0.001, "even")])
def test_two_methods_that_do_the_same_are_even(gain, word):
    assert verdict({"holds": gain > 0, "figures": {"difference": gain}}) == word


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
@pytest.mark.parametrize("form", FORMS)
def test_every_line_names_a_method_and_settings_that_exist(preset, form):
    for line in preset.lines:
        config = line.config(SolverConfig(), form)
        assert line.method in METHODS
        assert (config.condition, config.output_gamma) == ((False, 0.0) if form == "zero_shot" else (True, 3.0))
    labels = [line.label for line in preset.lines]
    assert labels[0] == START.label and len(set(labels)) == len(labels)
    assert all({claim.better, claim.worse} <= set(labels) for claim in preset.claims)


def test_the_ablations_change_one_thing():
    cache, no_cache = (line.config(SolverConfig(), "default") for line in AR.lines[1:])
    changed = {key for key, value in cache.model_dump().items() if value != no_cache.model_dump()[key]}
    assert changed == {"use_cache"}
    assert [line.config(SolverConfig(), "default").t0 for line in PRESETS["ablation-t0"].lines[1:]] == [0.1, 0.2, 0.5]
    assert [line.config(SolverConfig(), "default").num_steps for line in PRESETS["ablation-steps"].lines[1:]] == [
        1,
        2,
        4,
    ]


def row(clip, variant, psnr, noise=5e-4, form="default"):
    keys = {"clip": clip, "operator": "inpainting", "variant": variant, "noise": noise, "form": form}
    return {**keys, "psnr": psnr, "ssim": 0.9, "seconds": 1.0, "psnr_of_chunks": [psnr, psnr + 1]}


ROWS = [
    *(row("a", name, value) for name, value in (("x_init", 30.0), ("cache", 31.0), ("no cache", 30.5))),
    *(row("b", name, value) for name, value in (("x_init", 20.0), ("cache", 20.5), ("no cache", 20.75))),
]


def test_a_claim_is_judged_by_the_mean_of_paired_differences():
    (found,) = orderings(AR, ROWS)
    assert found["holds"] and found["claim"] == "cache > no cache (PSNR)"
    assert found["figures"]["difference"] == pytest.approx((0.5 - 0.25) / 2)
    assert (found["figures"]["wins"], found["figures"]["losses"], found["figures"]["sign_test_p"]) == (1, 1, 1.0)
    worse = [*ROWS[:-1], row("b", "no cache", 22.0)]
    assert not orderings(AR, worse)[0]["holds"]


def test_every_line_is_compared_with_the_start_on_the_same_clips():
    found = {row["variant"]: row for row in differences(ROWS)}
    assert found["cache"]["mean"] == pytest.approx(0.75) and found["cache"]["wins"] == 2
    assert START.label not in found


def test_the_document_has_our_figures_beside_the_papers():
    text = report(AR, means(ROWS, TABLE_KEYS), orderings(AR, ROWS), differences(ROWS), SETTINGS)
    line = next(line for line in text.splitlines() if line.startswith("| inpainting | no cache"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2] == "25.62" and cells[-5:] == ["29.75", "0.83", "0.103", "108.3", "17.67"]
    assert "another model" in text and "LPIPS |" not in text.split("paper:")[0], "no column without figures"


def test_plots_are_drawn(tmp_path):
    draw_gains(tmp_path / "gains.png", "title", differences(ROWS))
    draw_chunks(tmp_path / "chunks.png", "title", ROWS)
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("gains.png", "chunks.png"))
    assert mean_chunks([[1.0, 2.0, 3.0], [3.0, 4.0]]) == [2.0, 3.0]
