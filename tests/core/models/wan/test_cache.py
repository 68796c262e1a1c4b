from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from core.models.wan.cache import LATENTS, CacheSpec, KVCache, angles, axis_pairs, rotate
from core.models.wan.dit import CausalDiT, DiTConfig
from core.models.wan.model import WanDenoiser, randomise
from core.models.wan.plain import attention, plain_rotate, plain_velocity

SMALL = DiTConfig(dim=48, ffn_dim=64, layers=2, heads=2, channels=4, text_dim=8, text_len=4, freq_dim=16)
SIZE = (32, 48)  # pixels
TOKENS = (2, 3)
SHAPES = [(3, 0), (6, 0), (9, 0), (21, 0), (9, 3), (12, 3), (21, 6)]


def make_denoiser(window=9, sink=0):
    dit = randomise(CausalDiT, SMALL, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        return WanDenoiser(dit, dit.context(torch.zeros(0, SMALL.text_dim)), window, sink)


def chunks(count, seed=1):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(LATENTS, SMALL.channels, 4, 6, generator=rng) for _ in range(count)]


def fill(denoiser, clean):
    cache = denoiser.new_cache(*SIZE)
    for z in clean:
        cache = denoiser.update_cache(z, cache)
    return cache


def spec(window, sink=0):
    return CacheSpec(SMALL.layers, SMALL.heads, SMALL.head_dim, window, sink)


def test_a_chunk_never_overwrites_what_it_attends_to():
    for window, sink in SHAPES:
        ring = spec(window, sink)
        for chunk in range(40):
            recent = range(max(ring.sink_slots, chunk - (ring.slots - ring.sink_slots - 1)), chunk)
            past = [*range(min(chunk, ring.sink_slots)), *recent]
            slots = [ring.slot(each) for each in past]
            assert len(set(slots)) == len(slots)
            assert ring.slot(chunk) not in slots
            assert {*slots, ring.slot(chunk)} == set(range(ring.filled(chunk)))


@pytest.mark.parametrize(
    "window, sink, message",
    [(7, 0, "multiples of 3"), (0, 0, "multiples of 3"), (9, 2, "multiples of 3"), (6, 3, "at least 9")],
)
def test_a_window_that_cannot_be_is_refused(window, sink, message):
    with pytest.raises(ValueError, match=message):
        spec(window, sink)


def test_heads_of_128_turn_with_22_pairs_in_time_and_21_each_way_in_space():
    assert axis_pairs(128) == (22, 21, 21)


def test_rotation_equals_complex_multiplication():
    cache = KVCache.empty(spec(9), *TOKENS, "cpu", torch.float32)
    keys = replace(cache, chunks=7).begin()
    x = torch.randn(LATENTS * 6, SMALL.heads, SMALL.head_dim)
    expected = plain_rotate(x, torch.arange(21, 24), *TOKENS)
    torch.testing.assert_close(rotate(x, keys.cos, keys.sin), expected, atol=1e-5, rtol=1e-5)


class CountsKernels(TorchDispatchMode):
    """Counts operations that make a tensor of their own, each a pass over memory."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not any(value.alias_info for value in func._schema.returns)
        return func(*args, **(kwargs or {}))


def test_a_rotation_in_bfloat16_is_summed_in_float32_in_six_passes_over_memory():
    """It took nine, and a float32 copy of all queries and keys with them."""
    x, angle = torch.randn(6, 2, 24).bfloat16(), torch.randn(6, 1, 12)
    cos, sin = angle.cos(), angle.sin()
    expected = rotate(x.float(), cos, sin)
    with CountsKernels() as kernels:
        found = rotate(x, cos, sin)
    assert kernels.count == 6
    assert torch.equal(found, expected.bfloat16())


@pytest.mark.parametrize("offset", [1, 341, 10**7])
def test_scores_depend_on_the_distance_in_time_only(offset):
    """The published table ends at latent 1024; here positions are computed, and 10^7 chunks are years."""
    q, k = torch.randn(2, LATENTS * 6, SMALL.heads, SMALL.head_dim)

    def scores(chunk):
        cache = KVCache.empty(spec(9), *TOKENS, "cpu", torch.float32)
        before = replace(cache, chunks=chunk).begin()
        keys = rotate(k, before.cos, before.sin)
        after = replace(cache, chunks=chunk + 1).begin()
        return torch.einsum("nhd,mhd->hnm", rotate(q, after.cos, after.sin), keys)

    torch.testing.assert_close(scores(offset), scores(0), atol=2e-5, rtol=1e-5)


def test_a_stream_far_on_gives_what_it_gave_at_the_start():
    """RoPE shift invariance of the whole denoiser: all positions moved by N chunks, the same output."""
    denoiser = make_denoiser(window=9)
    clean = chunks(4)
    cache = fill(denoiser, clean[:3])
    shift = 3 * 10**6  # a multiple of the slots, so that every chunk keeps its slot
    far = replace(cache, chunks=cache.chunks + shift, ring=replace(cache.ring, kv=cache.ring.kv.clone()))
    time = axis_pairs(SMALL.head_dim)[0]
    turn = angles(torch.tensor([LATENTS * shift]), time)[0]
    keys = far.ring.kv[:, 0, ..., : 2 * time]
    keys.copy_(rotate(keys, turn.cos().float(), turn.sin().float()))
    far.ring.cos, far.ring.sin = cache.ring.cos.clone(), cache.ring.sin.clone()
    torch.testing.assert_close(denoiser(clean[3], 0.1, far)[0], denoiser(clean[3], 0.1, cache)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window, sink", [(9, 3), (12, 3), (15, 6)])
def test_a_sink_stays_at_the_edge_of_the_window(window, sink):
    """The plain form: keys are kept unrotated, and every pass rotates them to where they stand in the window."""
    denoiser = make_denoiser(window, sink)
    clean = chunks(9)
    history = [[] for _ in range(SMALL.layers)]
    cache = denoiser.new_cache(*SIZE)
    for index, z in enumerate(clean):
        kept = [n for n in range(index) if n < sink // 3 or n > index - (window - sink) // 3] + [index]
        first = index + 1 - len(kept)  # the sink's place: right before the oldest recent chunk
        places = torch.cat([torch.arange(3) + 3 * (first + i) for i in range(len(kept))])

        def attend(layer, q, k, v, kept=kept, places=places):
            history[layer].append((k, v))
            ks, vs = (torch.cat([history[layer][n][part] for n in kept]) for part in (0, 1))
            q = plain_rotate(q, places[-3:], *TOKENS)
            return attention(q, plain_rotate(ks, places, *TOKENS), vs)

        with torch.inference_mode():
            expected = plain_velocity(denoiser.dit, z, 0.0, torch.zeros(4, SMALL.text_dim), attend)
            found = denoiser.dit(z, 0.0, cache.begin(), denoiser.context)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        cache = denoiser.update_cache(z, cache)


def test_a_chunk_can_be_tried_again_and_the_old_cache_stays_valid_until_the_new_one_is_used():
    denoiser = make_denoiser()
    clean = chunks(6)
    cache = fill(denoiser, clean[:4])
    first = denoiser(clean[4], 0.1, cache)[0]
    denoiser(clean[5], 0.1, cache)[0]  # another try at the same chunk
    after = denoiser.update_cache(clean[5], cache)
    assert torch.equal(denoiser(clean[4], 0.1, cache)[0], first)
    after = denoiser.update_cache(clean[4], cache)
    denoiser(clean[5], 0.1, after)[0]
    with pytest.raises(RuntimeError, match="gone on to chunk 5"):
        denoiser(clean[4], 0.1, cache)[0]


def test_two_streams_do_not_mix():
    denoiser = make_denoiser()
    clean, other = chunks(5), chunks(5, seed=2)
    alone = denoiser(clean[4], 0.1, fill(denoiser, clean[:4]))[0]
    a, b = denoiser.new_cache(*SIZE), denoiser.new_cache(*SIZE)
    for z, noise in zip(clean[:4], other, strict=False):
        a = denoiser.update_cache(z, a)
        b = denoiser.update_cache(noise, b)
    assert torch.equal(denoiser(clean[4], 0.1, a)[0], alone)


def test_memory_and_shapes_do_not_grow_with_the_stream():
    denoiser = make_denoiser(window=9)
    cache = denoiser.new_cache(*SIZE)
    place, size = cache.ring.kv.data_ptr(), cache.bytes
    shapes = []
    for z in chunks(12):
        shapes.append(cache.begin().kv.shape[2])
        cache = denoiser.update_cache(z, cache)
    assert shapes == [1, 2, *[3] * 10]
    assert (cache.ring.kv.data_ptr(), cache.bytes) == (place, size)


def test_the_live_window_of_the_published_model_takes_2_4_gib():
    with torch.device("meta"):
        cache = KVCache.empty(CacheSpec(30, 12, 128, window=9), 30, 52, "meta", torch.bfloat16)
    assert cache.bytes == 9 * 287_539_200
