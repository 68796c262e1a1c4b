import pytest
import torch

from core.models.wan.model import randomise
from core.models.wan.taehv import LEAD, TAEHV, Grow, MemoryBlock, Pool, TAEHVConfig
from tests.core.models.wan.test_vae import stream

SMALL = TAEHVConfig(channels=4, encoder_width=8, decoder_widths=(16, 12, 8, 8))


def make_codec():
    return randomise(TAEHV, SMALL, torch.device("cpu"), torch.float32, seed=1)


def make_clip(frames=21, seed=0):
    return torch.rand(frames, 3, 16, 24, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def one_by_one(layers, x):
    """The plain form: a walk frame by frame, in which a layer that shortens or stretches time waits or repeats."""
    last, waiting, out = {}, {}, []

    def walk(frame, index):
        if index == len(layers):
            out.append(frame)
            return
        layer = layers[index]
        if isinstance(layer, MemoryBlock):
            before = last.get(index, torch.zeros_like(frame))
            last[index] = frame
            both = layer.conv(torch.cat([frame, before], dim=1)) + frame
            walk(both.relu(), index + 1)
        elif isinstance(layer, Pool):
            waiting.setdefault(index, []).append(frame)
            if len(waiting[index]) == layer.stride:
                walk(layer.conv(torch.cat(waiting.pop(index), dim=1)), index + 1)
        elif isinstance(layer, Grow):
            for part in layer.conv(frame).chunk(layer.stride, dim=1):
                walk(part, index + 1)
        else:
            walk(layer(frame), index + 1)

    for frame in x:
        walk(frame[None], 0)
    return torch.cat(out)


def test_taew2_1_has_11315539_parameters_in_its_published_places():
    with torch.device("meta"):
        codec = TAEHV(TAEHVConfig())
    assert sum(p.numel() for p in codec.encoder.parameters()) == 1_470_928
    assert sum(p.numel() for p in codec.decoder.parameters()) == 9_844_611
    shapes = {name: tuple(value.shape) for name, value in codec.state_dict().items()}
    assert shapes["encoder.2.conv.weight"] == (64, 128, 1, 1)
    assert shapes["encoder.12.conv.weight"] == (64, 64, 1, 1)
    assert shapes["encoder.17.bias"] == (16,)
    assert shapes["decoder.3.conv.0.weight"] == (256, 512, 3, 3)
    assert shapes["decoder.13.conv.weight"] == (256, 128, 1, 1)
    assert shapes["decoder.19.conv.weight"] == (128, 64, 1, 1)
    assert shapes["decoder.20.weight"] == (64, 64, 3, 3)
    assert shapes["decoder.22.weight"] == (3, 64, 3, 3)
    assert "decoder.20.bias" not in shapes


def test_a_chunk_at_once_equals_frame_by_frame():
    codec = make_codec()
    x, z = make_clip(), torch.randn(6, 4, 2, 3)
    with torch.inference_mode():
        lead = torch.cat([x[:1].expand(LEAD, -1, -1, -1), x])
        latents = one_by_one(codec.encoder, lead / 2 + 0.5)
        frames = one_by_one(codec.decoder, z)[LEAD:] * 2 - 1
    torch.testing.assert_close(codec.encode(x, None)[0], latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(codec.decode(z, None)[0], frames, atol=1e-5, rtol=1e-5)


def test_chunks_equal_the_whole_clip():
    codec = make_codec()
    x, z = make_clip(), torch.randn(6, 4, 2, 3)
    whole, frames = codec.encode(x, None)[0], codec.decode(z, None)[0]
    assert len(whole) == 6
    assert len(frames) == 21
    for lengths in ([9, 12], [1, 8, 12]):
        torch.testing.assert_close(stream(codec.encode, x, lengths), whole, atol=1e-6, rtol=1e-5)
    for lengths in ([3, 3], [1, 2, 3]):
        torch.testing.assert_close(stream(codec.decode, z, lengths), frames, atol=1e-6, rtol=1e-5)


def test_a_trial_changes_nothing():
    codec = make_codec()
    first, second = make_clip().split([9, 12])
    z, encoder = codec.encode(first, None)
    _, decoder = codec.decode(z, None)
    kept = [each.clone() for each in (*encoder, *decoder)]
    once, _ = codec.encode(second, encoder)
    codec.encode(-second, encoder)
    codec.decode(once, decoder)
    assert all(torch.equal(a, b) for a, b in zip(kept, (*encoder, *decoder), strict=True))
    assert torch.equal(codec.encode(second, encoder)[0], once)


def test_the_past_matters():
    codec = make_codec()
    z = torch.randn(6, 4, 2, 3)
    _, memory = codec.decode(z[:3], None)
    _, other = codec.decode(-z[:3], None)
    assert not torch.allclose(codec.decode(z[3:], memory)[0], codec.decode(z[3:], other)[0], atol=1e-3)


def test_memory_is_one_frame_a_block():
    codec = make_codec()
    _, memory = codec.encode(make_clip(), None)
    assert [len(each) for each in memory] == [1] * 9
    assert all(each.untyped_storage().nbytes() == each.numel() * 4 for each in memory)


@pytest.mark.parametrize("shape, message", [((8, 3, 16, 24), r"1 \+ 4n"), ((9, 3, 12, 24), "multiples of 8")])
def test_frames_of_another_shape_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        make_codec().encode(torch.zeros(shape), None)
