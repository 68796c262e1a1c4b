import pytest
import torch
from torch.nn import functional as F

from core.models.wan import vae as wan_vae
from core.models.wan.compare import diffusers_vae
from core.models.wan.model import randomise
from core.models.wan.vae import MEAN, STD, ChannelNorm, WanVAE, WanVAEConfig, pieces, upsample

SMALL = WanVAEConfig(base=8)
SIZE = (32, 48)


def make_vae(dtype=torch.float32):
    vae = randomise(WanVAE, SMALL, torch.device("cpu"), torch.float32, seed=3)
    rng = torch.Generator().manual_seed(4)
    for name, parameter in vae.named_parameters():
        if name.endswith("gamma"):
            parameter.copy_(1 + 0.3 * torch.randn(parameter.shape, generator=rng))
    return vae.to(dtype)


def make_clip(frames=21, seed=0):
    return torch.rand(frames, 3, *SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def relative(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


def distance(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def stream(step, x, lengths):
    memory, out = None, []
    for part in x.split(lengths):
        y, memory = step(part, memory)
        out.append(y)
    return torch.cat(out)


def test_the_published_model_has_194_tensors_and_126892531_parameters():
    with torch.device("meta"):
        vae = WanVAE(WanVAEConfig())
    assert len(vae.state_dict()) == 194
    assert sum(p.numel() for p in vae.parameters()) == 126_892_531


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_streaming_equals_diffusers_on_the_whole_clip(dtype, tolerance):
    """AutoencoderKLWan, in float32, with the weights ours has after rounding; it clamps, ours does not."""
    pytest.importorskip("diffusers")
    vae = make_vae(dtype)
    twin = diffusers_vae(vae).float()
    vae.pack()
    x = make_clip()
    mean, std = (torch.tensor(each)[:, None, None, None] for each in (MEAN, STD))
    with torch.inference_mode():
        raw = twin.encode(x.transpose(0, 1)[None]).latent_dist.mode()[0]
        z = ((raw - mean) / std).transpose(0, 1)
        decoded = twin.decode(raw[None], return_dict=False)[0][0].transpose(0, 1)
    assert distance(stream(vae.encode, x, [9, 12]), z) < tolerance
    assert distance(stream(vae.decode, z, [3, 3]).clamp(-1, 1), decoded) < tolerance
    assert z.shape == (6, 16, SIZE[0] // 8, SIZE[1] // 8)
    assert decoded.shape == x.shape
    assert decoded.abs().max() > 0.1


def test_encoding_in_pieces_equals_encoding_the_whole_clip():
    vae = make_vae().pack()
    x = make_clip()
    whole, _ = vae.encode(x, None)
    for lengths in ([1, 8, 12], [9, 12], [1, 4, 4, 4, 4, 4]):
        assert relative(stream(vae.encode, x, lengths), whole) < 1e-5


def test_decoding_in_pieces_equals_decoding_the_whole_clip():
    vae = make_vae().pack()
    z = torch.randn(6, 16, 4, 6)
    whole, _ = vae.decode(z, None)
    assert len(whole) == 21
    for lengths in ([1, 2, 3], [3, 3], [1, 1, 1, 1, 1, 1]):
        assert relative(stream(vae.decode, z, lengths), whole) < 1e-5


def test_a_chunk_worked_on_in_slices_is_the_same_chunk(monkeypatch):
    vae = make_vae().pack()
    x = make_clip()
    z, _ = vae.encode(x, None)
    frames, _ = vae.decode(z, None)
    monkeypatch.setitem(wan_vae.PIXELS_AT_ONCE, "cpu", 4 * SIZE[0] * SIZE[1])
    assert relative(vae.encode(x, None)[0], z) < 1e-5
    assert relative(vae.decode(z, None)[0], frames) < 1e-5


def test_a_trial_changes_nothing():
    """Guidance decodes and encodes a chunk several times from one memory and keeps none of it."""
    vae = make_vae().pack()
    first, second = make_clip().split([9, 12])
    z, encoder = vae.encode(first, None)
    _, decoder = vae.decode(z, None)
    kept = [each.clone() for each in (*encoder, *decoder)]
    once, _ = vae.encode(second, encoder)
    vae.encode(second * 0.5, encoder)
    vae.decode(once, decoder)
    assert all(torch.equal(a, b) for a, b in zip(kept, (*encoder, *decoder), strict=True))
    assert torch.equal(vae.encode(second, encoder)[0], once)


def test_later_frames_never_change_earlier_latents():
    vae = make_vae().pack()
    a, b = make_clip(), make_clip(seed=1)
    b[:9] = a[:9]
    assert relative(vae.encode(b, None)[0][:3], vae.encode(a, None)[0][:3]) < 1e-5


def test_memory_keeps_two_frames_a_layer_and_nothing_behind_them():
    vae = make_vae().pack()
    _, memory = vae.encode(make_clip(), None)
    assert {len(each) for each in memory} == {1, 2}
    assert all(each.untyped_storage().nbytes() == each.numel() * 4 for each in memory)


def test_packing_changes_no_weight():
    vae = make_vae()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    after = vae.pack().state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    tap = vae.encoder.conv1.weight.unbind(2)[0]
    assert tap.is_contiguous(memory_format=torch.channels_last)


def test_upsampling_in_one_go_equals_doubling_then_convolving():
    conv = torch.nn.Conv2d(6, 4, 3, padding=1)
    x = torch.randn(2, 6, 5, 7)
    expected = conv(F.interpolate(x, scale_factor=2, mode="nearest"))
    torch.testing.assert_close(upsample(conv, x), expected, atol=1e-5, rtol=1e-5)


def test_the_norm_has_unit_gain_per_channel():
    x = torch.randn(2, 8, 3, 3) * 100
    norm = ChannelNorm(8)
    torch.testing.assert_close(norm(x).square().mean(1), torch.ones(2, 3, 3))
    assert torch.equal(norm(torch.zeros_like(x)), torch.zeros_like(x))


def test_slices_cover_every_frame_once():
    for length, first, step, at_once in [(21, 1, 4, 8), (9, 1, 4, 100), (12, 0, 4, 1), (3, 0, 1, 2), (1, 1, 4, 4)]:
        cut = pieces(length, first, step, at_once)
        assert [i for each in cut for i in range(length)[each]] == list(range(length))
        assert all((each.stop - each.start - (first if each.start == 0 else 0)) % step == 0 for each in cut)


@pytest.mark.parametrize("shape, message", [((8, 3, 32, 48), r"1 \+ 4n"), ((9, 3, 30, 48), "multiples of 8")])
def test_frames_of_another_shape_are_refused(shape, message):
    vae = make_vae()
    with pytest.raises(ValueError, match=message):
        vae.encode(torch.zeros(shape), None)


def test_a_step_never_waits_for_the_device():
    with torch.device("meta"):
        vae = WanVAE(WanVAEConfig())
        memory, back = None, None
        for frames in (9, 12, 12):
            z, memory = vae.encode(torch.zeros(frames, 3, 480, 832), memory)
            x, back = vae.decode(z, back)
            assert (z.shape, x.shape) == ((3, 16, 60, 104), (frames, 3, 480, 832))
    assert sum(each.numel() for each in memory) * 2 < 1.13e9
    assert sum(each.numel() for each in back) * 2 < 1.9e9
