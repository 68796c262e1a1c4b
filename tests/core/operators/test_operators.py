import base64
import io
from typing import get_args

import av
import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch.nn import functional as F

from core.constants import KEPT
from core.operators import infill
from core.operators.base import LinearOperator
from core.operators.blur import GaussianBlur
from core.operators.compose import Compose
from core.operators.config import (
    GaussianBlurConfig,
    InpaintingConfig,
    MaskConfig,
    OperatorConfig,
    SuperResolutionConfig,
    known_pixels,
    read_mask,
)
from core.operators.convolution import Kernel, MotionBlur
from core.operators.deinterlace import Deinterlace
from core.operators.denoise import Denoise
from core.operators.masks import Inpainting, Mask
from core.operators.super_resolution import SuperResolution
from core.operators.table import PAPER_OPERATORS, Operator, operator_of
from core.training.streams import MIX

H, W = 48, 64


def png(picture):
    """A grey picture as a base64 PNG."""
    data = io.BytesIO()
    with av.open(data, "w", format="image2pipe") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = picture.shape[1], picture.shape[0], "gray"
        frame = av.VideoFrame.from_ndarray(picture, format="gray")
        for packet in (*stream.encode(frame), *stream.encode()):
            container.mux(packet)
    return base64.b64encode(data.getvalue()).decode()


def hole():
    picture = np.full((H, W), 255, np.uint8)
    picture[10:30, 20:50] = 0
    return Mask(png=png(picture))


OPERATORS = [
    *PAPER_OPERATORS,
    SuperResolution(scale=2),
    GaussianBlur(sigma=1.5),
    hole(),
    Denoise(),
    Deinterlace(),
    MotionBlur(length=7),
    Compose(),
]
WITH_BORDERS_OR_MASKS = [
    MotionBlur(length=9.5, angle=30),
    Kernel(),
    Kernel(taps=((1, 0, 0), (0, 2, 0), (0, 3, 4))),
    Deinterlace(field="bottom", alternate=False),
    Compose(operators=(GaussianBlurConfig(sigma=1), SuperResolutionConfig(scale=2), InpaintingConfig())),
]
"""whose norm is somewhat above or below the stated one"""
CASES = [(op, past) for op in (*OPERATORS, *WITH_BORDERS_OR_MASKS) for past in {0, op.reach}]


def name(value):
    return getattr(value, "kind", str(value))


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def randn(rng, *shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("op, past", CASES, ids=name)
@pytest.mark.parametrize("frames", [9, 12])
def test_adjoint(op, past, frames, rng):
    x = randn(rng, frames, 3, H, W)
    v = randn(rng, frames, 3, *op.measurement_size(H, W))
    left = (op.A_linear(x, past) * v).sum()
    right = (x * op.A_adjoint(v, past)).sum()
    assert abs(left - right) < 1e-9 * x.norm() * v.norm()


@pytest.mark.parametrize("op", OPERATORS, ids=name)
def test_the_stated_norm_bounds_A(op, rng):
    x = randn(rng, 12, 3, H, W)
    for _ in range(30):  # power iteration
        x = op.A_adjoint(op.A_linear(x / x.norm(), op.reach), op.reach)
    assert x.norm().sqrt() <= op.norm * 1.01
    assert x.norm().sqrt() >= op.norm * 0.85


@pytest.mark.parametrize("op", [*OPERATORS, *WITH_BORDERS_OR_MASKS], ids=name)
def test_streamed_in_chunks_A_gives_what_it_gives_at_once(op, rng):
    x = randn(rng, 33, 3, H, W)
    whole, start, past, parts = op.A(x), 0, None, []
    for length in (9, 12, 12):
        parts.append(op.A(x[start : start + length], past))
        start += length
        past = x[max(0, start - op.reach) : start] if op.reach else None
    assert torch.allclose(torch.cat(parts), whole, atol=1e-12)


def test_super_resolution_is_the_area_average(rng):
    x = randn(rng, 1, 3, H, W)
    assert torch.allclose(SuperResolution().A(x)[0, 0, 2, 3], x[0, 0, 8:12, 12:16].mean())


def test_blur_is_a_reflected_convolution_with_a_normalised_gaussian(rng):
    x = randn(rng, 1, 1, H, W)
    taps = torch.exp(-(torch.arange(-12, 13).double() ** 2) / 18)
    taps /= taps.sum()
    padded = F.pad(x, (12, 12, 12, 12), mode="reflect")
    expected = F.conv2d(F.conv2d(padded, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1))
    assert torch.allclose(GaussianBlur().A(x), expected, atol=1e-6)


def test_temporal_average_runs_over_the_frames_there_are():
    op = PAPER_OPERATORS[3]
    x = torch.arange(12.0).view(12, 1, 1, 1).expand(12, 3, 16, 16)
    y = op.A(x)[:, 0, 0, 0]
    assert y[:3].tolist() == pytest.approx([0, 0.5, 1])
    assert y[11].item() == pytest.approx(sum(range(5, 12)) / 7)


def test_inpainting_keeps_its_share_and_the_same_pixels_in_every_frame():
    mask = Inpainting(keep=0.5, seed=3).mask(240, 416)
    assert mask.mean().item() == pytest.approx(0.5, abs=0.01)
    y = Inpainting(seed=3).measure(torch.ones(9, 3, 240, 416), None, torch.Generator().manual_seed(0))
    assert torch.equal((y != 0).any(1, keepdim=True).float(), mask.expand(9, 1, 240, 416))


def test_noise_has_the_stated_deviation():
    y = SuperResolution(noise=0.05).measure(torch.zeros(9, 3, 240, 416), None, torch.Generator().manual_seed(0))
    assert y.std().item() == pytest.approx(0.05, rel=0.02)


def test_an_operator_is_read_from_json_and_refuses_typos():
    adapter = TypeAdapter(Operator)
    assert adapter.validate_json('{"kind": "inpainting", "keep": 0.4}') == Inpainting(keep=0.4)
    with pytest.raises(ValidationError, match="Extra inputs"):
        adapter.validate_json('{"kind": "inpainting", "kep": 0.4}')
    with pytest.raises(ValidationError, match="kind"):
        adapter.validate_json('{"kind": "sharpen"}')


@pytest.mark.parametrize("broken", ["no base64!", base64.b64encode(b"no picture").decode(), ""])
def test_a_mask_that_is_no_picture_is_refused_in_a_sentence(broken):
    with pytest.raises(ValidationError, match=r"PNG|at least 1"):
        Mask(png=broken)


def test_a_mask_that_is_too_large_is_refused_undecoded(monkeypatch):
    header = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + (40_000).to_bytes(4, "big") + (30_000).to_bytes(4, "big")
    monkeypatch.setattr("core.operators.config.av.open", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(ValidationError, match="4096 pixels each way at most, not 40000x30000"):
        Mask(png=base64.b64encode(header).decode())


def test_a_mask_is_scaled_to_the_stream_and_must_keep_something():
    assert hole().mask(96, 128)[0, 0, 40, 60] == 0
    assert hole().mask(96, 128).mean() == hole().mask(H, W).mean()
    with pytest.raises(ValueError, match="keeps no pixel"):
        Mask(png=png(np.zeros((H, W), np.uint8))).prepare(H, W)


def test_a_size_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="multiple of 4"):
        SuperResolution().prepare(50, 64)
    with pytest.raises(ValueError, match="more than 30"):
        GaussianBlur().prepare(16, 64)


@pytest.mark.parametrize("op", OPERATORS, ids=name)
def test_residual_is_the_relative_distance_to_y(op, rng):
    x, z = randn(rng, 12, 3, H, W), randn(rng, 12, 3, H, W)
    past = randn(rng, op.reach, 3, H, W) if op.reach else None
    y = op.A(z, past)
    expected = (y - op.A(x, past)).norm() / y.norm()
    assert op.residual(x, y, past) == pytest.approx(expected.item(), rel=1e-3)


def test_a_mask_is_planned_piece_by_piece_with_the_same_result(monkeypatch):
    """All pixels at once took gigabytes for a large picture."""
    known = torch.rand(48, 64, generator=torch.Generator().manual_seed(0)) < 0.3
    known[8:30, 8:30] = False
    y = torch.rand(2, 3, 48, 64)
    whole = infill.plan_infill(known)
    monkeypatch.setattr(infill, "AT_ONCE", 100)
    parts = infill.plan_infill(known)
    assert torch.equal(parts(y), whole(y))
    assert torch.equal(parts.along_rows(y), whole.along_rows(y))
    assert not whole.complete


# --- what the server knows of an operator: its settings and its sizes ---------------------------------


@pytest.mark.parametrize("op", OPERATORS, ids=name)
def test_a_configuration_is_validated_without_its_operator_and_becomes_it(op):
    config = TypeAdapter(OperatorConfig).validate_python(op.model_dump())
    assert not isinstance(config, LinearOperator)
    assert operator_of(config) == op
    assert operator_of(op) == op
    assert config.model_dump() == op.model_dump()
    assert config.measurement_size(H, W) == op.measurement_size(H, W)


@pytest.mark.parametrize("op", OPERATORS, ids=name)
def test_what_an_operator_takes_from_its_configuration_is_not_overridden(op):
    """A base class that comes first would make `scale` a required setting, and `kind` an empty one."""
    config = next(base for base in type(op).mro() if base.__name__ == f"{type(op).__name__}Config")
    assert type(op).model_json_schema()["properties"] == config.model_json_schema()["properties"]
    assert type(op).measurement_size is config.measurement_size


@pytest.mark.parametrize("size", [(48, 64), (50, 64), (16, 64), (30, 31), (31, 31), (240, 416)], ids=str)
@pytest.mark.parametrize("op", OPERATORS, ids=name)
def test_the_cheap_check_of_a_size_refuses_what_preparing_would(op, size):
    def refusal(check):
        try:
            check(*size)
        except ValueError as error:
            return str(error)

    assert refusal(op.check_size) == refusal(op.prepare)


def test_checking_the_size_of_a_blur_computes_nothing():
    """The server decomposed two matrices for each `sigma` that a client sent."""
    before = KEPT.misses
    for step in range(50):
        GaussianBlurConfig(sigma=1 + step / 50).check_size(480, 832)
        GaussianBlur(sigma=1 + step / 50).check_size(480, 832)
    assert KEPT.misses == before


@pytest.mark.parametrize("size", [(48, 64), (96, 128), (240, 416), (33, 47), (7, 5)], ids=str)
def test_a_mask_without_torch_is_the_one_that_torch_scales(size):
    rng = np.random.default_rng(0)
    drawn = png((rng.random((61, 83)) * 255).astype(np.uint8))
    picture = torch.from_numpy(read_mask(drawn).reformat(format="gray").to_ndarray() >= 128).float()
    scaled = F.interpolate(picture[None, None], size=size, mode="nearest")[0, 0].bool()
    assert np.array_equal(known_pixels(drawn, *size), scaled.numpy())


def test_a_mask_that_keeps_nothing_is_refused_without_torch():
    black = MaskConfig(png=png(np.zeros((H, W), np.uint8)))
    with pytest.raises(ValueError, match="keeps no pixel"):
        black.check_size(H, W)


def test_every_operator_names_a_task_that_the_network_was_trained_on():
    """A drawn mask told the network a task whose embedding was still random."""
    assert {op.task for op in (*OPERATORS, *WITH_BORDERS_OR_MASKS)} <= set(MIX)


def test_the_server_and_the_device_offer_the_same_kinds():
    """The server took sessions of a kind that its device then refused."""
    offered = [get_args(get_args(union)[0]) for union in (OperatorConfig, Operator)]
    kinds = [[kind.model_fields["kind"].default for kind in kinds] for kinds in offered]
    assert sorted(kinds[0]) == sorted(kinds[1])
    assert {"denoise", "deinterlace", "motion_blur", "kernel", "compose"} <= set(kinds[1])
