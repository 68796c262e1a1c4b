import random
from dataclasses import replace

import pytest
import torch

from core.contract import SolverConfig
from core.evaluation.metrics import psnr
from core.model_settings import TinySettings
from core.models.base import Condition
from core.models.tiny.backend import choose, convert, speed_up
from core.models.tiny.blocks import AttentionLayer, rotate, shifted, windows
from core.models.tiny.codec import TinyCodec
from core.models.tiny.denoiser import TASKS, TinyConfig, TinyDenoiser
from core.models.tiny.load import build, load, save
from core.operators.super_resolution import SuperResolution
from core.operators.table import PAPER_OPERATORS
from core.solver import Solver
from core.training.data import procedural
from core.video import from_pixels

SMALL = TinyConfig(quarter=32, eighth=32, width=32, heads=2, layers=2)
H, W = 48, 80


@pytest.fixture(scope="module")
def model():
    codec, denoiser = build(SMALL)
    torch.nn.init.normal_(denoiser.out.weight, std=0.1)  # a fresh network changes almost nothing
    for layer in denoiser.layers:
        torch.nn.init.normal_(layer.proj.weight, std=0.3)
    return codec, denoiser.requires_grad_(False)


def scene(frames, height=H, width=W, seed=0):
    return from_pixels(procedural(frames, height, width, random.Random(seed)))


def test_the_codec_loses_nothing():
    codec = TinyCodec()
    codec.scale.uniform_(0.1, 3, generator=torch.Generator().manual_seed(0))
    x = scene(9)
    assert torch.allclose(codec.decode(codec.encode(x)[0])[0], x, atol=1e-5)
    x = scene(12)
    assert torch.allclose(codec.decode(codec.encode(x, True)[0], True)[0], x, atol=1e-5)


def test_codec_streaming_equals_offline():
    codec, x = TinyCodec(), scene(33)
    whole, _ = codec.encode(x)
    memory, parts = None, []
    for part in x.split([9, 12, 12]):
        z, memory = codec.encode(part, memory)
        parts.append(z)
    assert [len(part) for part in parts] == [3, 3, 3]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-5)


def test_the_codec_is_orthonormal_before_whitening():
    codec, x = TinyCodec(), scene(12)
    assert codec.encode(x, True)[0].norm() == pytest.approx(x.norm().item(), rel=1e-4)


@pytest.mark.parametrize("frames, memory", [(12, None), (8, None), (9, True), (2, None)])
def test_the_codec_refuses_a_chunk_of_the_wrong_length(frames, memory):
    with pytest.raises(ValueError, match="expected"):
        TinyCodec().encode(torch.zeros(frames, 3, H, W), memory)


def condition_of(codec, operator, x, memory):
    y = operator.A(x)
    x_init = operator.least_squares(y, None)
    return Condition(operator, y, x_init, codec.encode(x_init, memory)[0])


@pytest.mark.parametrize("operator", PAPER_OPERATORS, ids=lambda op: op.kind)
@pytest.mark.parametrize("frames", [9, 12])
def test_every_task_gives_a_clean_estimate_of_its_shape(model, operator, frames):
    codec, denoiser = model
    memory = None if frames == 9 else True
    condition = condition_of(codec, operator, scene(frames), memory)
    cache = denoiser.new_cache(H, W)
    if frames == 12:
        cache = denoiser.update_cache(codec.encode(scene(9, seed=1))[0], cache)
    z = denoiser(condition.z_init, 0.1, cache, condition)[0]
    assert z.shape == condition.z_init.shape
    assert torch.isfinite(z).all()
    assert not torch.allclose(z, condition.z_init)


def test_cached_denoiser_equals_full_attention(model):
    """A chunk after its cached prefix attends as if prefix and chunk stood in one sequence."""
    _, denoiser = model
    layer: AttentionLayer = denoiser.layers[0]
    g = torch.Generator().manual_seed(0)
    context, x = (torch.randn(1, 3, 3, 5, 32, generator=g) for _ in range(2))
    e = torch.zeros(1, 128)
    past = layer.keys_values(context, 0, 8)
    cached = layer(x, e, 3, past, 8)

    scale, shift = (part[:, None, None, None] for part in layer.modulation(e * 0).chunk(2, -1))
    index = windows(3, 5, 8, x.device)
    q, k, v = (layer.split(p, index) for p in layer.qkv(layer.norm(x) * (1 + scale) + shift).chunk(3, -1))
    ck, cv = (layer.split(p, index) for p in layer.context_kv(layer.context_norm(context)).chunk(2, -1))
    keys = rotate(torch.cat([ck, k], 3), 0).flatten(3, 4)
    queries = rotate(torch.cat([ck * 0, q], 3), 0)[:, :, :, 3:].flatten(3, 4)
    values = torch.cat([cv, v], 3).flatten(3, 4)
    weights = (queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5).softmax(-1)
    y = (weights @ values).unflatten(3, (3, -1)).permute(0, 3, 2, 4, 1, 5).flatten(4)[:, :, 0]
    merged = torch.zeros(1, 3, 15, 32).index_copy(2, index[0], y)
    full = x + layer.proj(merged).view_as(x)
    assert torch.allclose(cached, full + layer.mlp(full), atol=1e-5)


def test_attention_depends_on_relative_time_alone():
    """RoPE has no table that runs out: a stream of years attends as one of seconds."""
    _, denoiser = build(SMALL)
    layer = denoiser.layers[0]
    g = torch.Generator().manual_seed(0)
    context, x = (torch.randn(1, 3, 3, 5, 32, generator=g) for _ in range(2))
    e = torch.zeros(1, 128)
    young = layer(x, e, 3, layer.keys_values(context, 0, 8), 8)
    old = layer(x, e, 3 * 10**8 + 3, layer.keys_values(context, 3 * 10**8, 8), 8)
    assert torch.allclose(young, old, atol=1e-4)


def test_the_cache_changes_the_picture_and_keeps_a_window(model):
    codec, denoiser = model
    condition = condition_of(codec, SuperResolution(), scene(12), True)
    empty = denoiser.new_cache(H, W)
    cache = empty
    for seed in range(5):
        before = cache
        cache = denoiser.update_cache(codec.encode(scene(12, seed=seed), True)[0], cache)
        assert before.index == 3 * seed  # the old one is not touched
        assert cache.keys[0].shape[3] == denoiser.config.context
    with_cache = denoiser(condition.z_init, 0.1, cache, condition)[0]
    assert not torch.allclose(with_cache, denoiser(condition.z_init, 0.1, empty, condition)[0], atol=1e-5)
    assert with_cache.shape == condition.z_init.shape


def test_features_go_on_from_chunk_to_chunk(model):
    """The last frame's features, and nothing else of them, reach the next chunk: most of all its first frame."""
    codec, denoiser = build(SMALL)
    torch.nn.init.normal_(denoiser.out.weight, std=0.1)
    torch.nn.init.normal_(denoiser.forward_sweep.carry.weight, std=0.05)
    denoiser.requires_grad_(False)
    first, second = scene(24).split([12, 12])
    condition = condition_of(codec, SuperResolution(), first, True)
    z, seen = denoiser(condition.z_init, 0.1, denoiser.new_cache(H, W), condition)
    cache = denoiser.update_cache(z, seen)
    assert cache.hidden.shape == (1, H // 4, W // 4, 32) and cache.last.shape == (1, 4, H, W)
    condition = condition_of(codec, SuperResolution(), second, True)
    estimates = [denoiser(condition.z_init, 0.1, c, condition)[0] for c in (cache, replace(cache, hidden=None))]
    frames = [codec.decode(estimate, True)[0] for estimate in estimates]
    change = (frames[0] - frames[1]).square().mean((1, 2, 3))
    assert change[0] > 1e-6 and change[0] > 2 * change[-1]


def test_the_noise_level_is_an_input():
    codec, denoiser = build(SMALL)
    torch.nn.init.normal_(denoiser.out.weight, std=0.1)
    torch.nn.init.normal_(denoiser.level.weight, std=1.0)
    denoiser.requires_grad_(False)
    usual, noisy = (condition_of(codec, SuperResolution(noise=n), scene(12), True) for n in (0.01, 0.1))
    cache = denoiser.new_cache(H, W)
    a, b = (denoiser(usual.z_init, 0.1, cache, condition)[0] for condition in (usual, noisy))
    assert not torch.allclose(a, b, atol=1e-4)


def test_the_backend_is_measured_unless_asked_for(monkeypatch):
    cpu = torch.device("cpu")
    for measured, backend in ((3.0, "bfloat16"), (1.0, "float32")):
        monkeypatch.setattr("core.models.tiny.backend.speed_up", lambda threads, measured=measured: measured)
        assert choose("auto", cpu) == backend
        assert choose("float32", cpu) == "float32" and choose("bfloat16", cpu) == "bfloat16"


def test_the_speed_up_is_a_ratio():
    assert 0.01 < speed_up(torch.get_num_threads()) < 100


def test_half_precision_changes_little(model):
    codec, _ = model
    _, denoiser = build(SMALL)
    torch.nn.init.normal_(denoiser.out.weight, std=0.05)
    denoiser.requires_grad_(False)
    condition = condition_of(codec, SuperResolution(), scene(12), True)
    cache = denoiser.new_cache(H, W)
    exact, _ = denoiser(condition.z_init, 0.1, cache, condition)
    rounded, seen = convert(denoiser, "bfloat16")(condition.z_init, 0.1, cache, condition)
    assert rounded.dtype == torch.float32 and seen.hidden.dtype == torch.bfloat16
    assert (rounded - exact).norm() < 0.02 * (exact - condition.z_init).norm()


def test_without_a_condition_only_the_noisy_latents_are_seen(model):
    codec, denoiser = model
    z, cache = codec.encode(scene(12), True)[0], denoiser.new_cache(H, W)
    a = denoiser(z, 0.1, cache, None)[0]
    assert not torch.allclose(a, denoiser(z + 0.1, 0.1, cache, None)[0])


def test_temporal_shift_takes_each_channel_from_its_frame():
    x = torch.arange(12.0).view(1, 12, 1, 1, 1).expand(1, 12, 1, 1, 48).contiguous()
    before = torch.arange(-4.0, 0).view(1, 4, 1, 1, 1).expand(1, 4, 1, 1, 16)
    out = shifted(x, before)[0, :, 0, 0]
    for t in (0, 5, 9):
        assert out[t, :8].eq(t - 1).all() and out[t, 8:12].eq(t - 2).all() and out[t, 12:16].eq(t - 4).all()
        assert out[t, 16:24].eq(t + 1).all() and out[t, 24:28].eq(t + 2).all() and out[t, 28:].eq(t).all()
    assert out[11, 16:28].eq(11).all()


def test_windows_cover_the_grid():
    for height, width in ((15, 26), (9, 16), (30, 52), (3, 5), (8, 8)):
        index = windows(height, width, 8, torch.device("cpu"))
        assert index.unique().numel() == height * width
        assert index.shape[1] == min(8, height) * min(8, width)


def test_weights_survive_the_file(tmp_path, model, monkeypatch):
    codec, denoiser = build()
    codec.scale.uniform_(0.1, 3)
    path = tmp_path / "tiny.npz"
    save(codec, denoiser, path)
    monkeypatch.setattr("core.models.tiny.load.WEIGHTS", path)
    again_codec, again = load("pretrained", torch.device("cpu"), config=TinySettings(backend="float32"))
    assert torch.allclose(again_codec.scale, codec.scale, rtol=1e-3)
    for name, tensor in denoiser.state_dict().items():
        assert torch.allclose(again.state_dict()[name], tensor, rtol=1e-3, atol=1e-4), name


def test_every_operator_is_a_task_the_model_knows():
    assert {op.kind for op in PAPER_OPERATORS} < set(TASKS)
    assert replace(TinyDenoiser(TinyCodec(), SMALL).new_cache(H, W), index=3).index == 3


def town(frames, height, width, fine=4):
    """Lit windows in dark walls that slide past behind the kerbs of a street: thin, hard, and long in sight."""
    lit = torch.rand(40, 60, generator=torch.Generator().manual_seed(0)) < 0.45
    rows, columns = torch.arange(40 * 10 * fine)[:, None] // fine, torch.arange(60 * 8 * fine)[None] // fine
    window = (rows % 10 >= 3) & (columns % 8 >= 4)
    walls = torch.where(window, torch.where(lit[rows // 10, columns // 8], 0.7, -0.8), -0.7)
    pictures = []
    for frame in range(frames):
        shift = frame * fine // 2
        picture = walls[: height * fine, shift : shift + width * fine].clone()
        picture[70 * fine :] = -0.55
        for kerb in (78, 88):
            picture[kerb * fine : kerb * fine + 6] = 0.4
        pictures.append(torch.nn.functional.avg_pool2d(picture[None], fine))
    return torch.stack(pictures).expand(frames, 3, height, width)


@pytest.mark.parametrize("kind", ["super_resolution", "gaussian_blur"])
def test_a_long_stream_of_the_shipped_weights_does_not_drift(kind):
    """What it makes is in its next input: sharpened a little each time, this scene has been 2 dB worse by the sixth."""
    solver = Solver(*load("pretrained", torch.device("cpu")))
    operator = next(op for op in PAPER_OPERATORS if op.kind == kind)
    lengths = [9] + [12] * 7
    x = town(sum(lengths), 96, 128)
    y = operator.measure(x, None, torch.Generator().manual_seed(0))
    state, gains = solver.new_state(operator, 96, 128), []
    for y_chunk, x_chunk in zip(y.split(lengths), x.split(lengths), strict=True):
        restored, state = solver.restore(y_chunk, state, SolverConfig(num_steps=1, reinject_every=0))
        gains.append(psnr(restored.x, x_chunk) - psnr(restored.x_init, x_chunk))
    assert sum(gains[-3:]) / 3 > gains[1] - 0.5, gains


def test_the_sharp_tier_has_its_own_last_layers_and_shares_the_rest():
    """What one tier's own layers say never reaches the other, nor do features survive a change of tier."""
    codec, denoiser = build(SMALL, seed=3)
    with torch.no_grad():
        denoiser.sharp_out.weight.normal_(std=0.05)
    x = scene(9)
    first = condition_of(codec, SuperResolution(), x, None)
    sharp = replace(first, tier="sharp")
    empty = denoiser.new_cache(H, W)
    (a, after), (b, other) = (denoiser(c.z_init, 0.1, empty, c) for c in (first, sharp))
    assert not torch.allclose(a, b, atol=1e-3) and (after.tier, other.tier) == ("faithful", "sharp")
    with torch.no_grad():
        denoiser.sharp_sweep.carry.weight.normal_()
        denoiser.sharp_out.bias.fill_(0.3)
    assert torch.equal(denoiser(first.z_init, 0.1, empty, first)[0], a)
    mixed = denoiser(first.z_init, 0.1, replace(after, hidden=other.hidden, tier="sharp"), first)[0]
    assert torch.equal(mixed, denoiser(first.z_init, 0.1, replace(after, hidden=None), first)[0])
    denoiser.drop_sharp_tier()
    assert torch.equal(denoiser(sharp.z_init, 0.1, empty, sharp)[0], a)
