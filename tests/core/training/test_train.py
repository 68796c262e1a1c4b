"""What one step of the recipe sees must be what the solver sees."""

import argparse
import random

import av
import numpy as np
import pytest
import torch

from core.models.tiny.denoiser import TinyConfig
from core.models.tiny.load import build
from core.training import data
from core.training.data import Library, cached, halve, load_library, procedural, read_clip
from core.training.losses import SHIFT, blockiness, lattice, shifted
from core.training.sources import Footage, Wander
from core.training.streams import MIX, draw_lost, draw_stream
from core.training.train import add_arguments, run, scheduled
from core.training.trainer import Sharp, Trainer

SMALL = TinyConfig(quarter=32, eighth=32, width=32, heads=2)


@pytest.fixture(scope="module")
def library():
    rng = random.Random(0)
    scenes = [procedural(32, 128, 160, rng) for _ in range(2)]
    return Library([(0.5, scenes), (0.5, [scenes[0][0]])])


@pytest.fixture
def trainer(library):
    (codec, net), (_, ema) = build(SMALL), build(SMALL)
    return Trainer(codec, net, ema, library, batch=2, seed=0)


def test_clips_that_lie_in_files_are_read_without_a_warning(tmp_path):
    """A mapped clip cannot be written to, which torch warns of where it shares its memory."""
    clip = procedural(40, 64, 96, random.Random(0))
    mapped = cached(tmp_path / "clip.npy", lambda: clip)
    assert not mapped.flags.writeable
    assert np.array_equal(halve(mapped), halve(clip))
    drawn = [Footage(source, 64, random.Random(1)).read(9) for source in (mapped, clip)]
    assert torch.equal(*drawn)
    assert Wander(mapped[0], 32, random.Random(1)).read(2).shape == (2, 3, 32, 32)


def written(path, frames=30):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=16, options={"preset": "ultrafast", "g": "10"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for picture in procedural(frames, 64, 96, random.Random(0)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def test_what_cannot_be_read_is_left_out_and_told_and_the_rest_is_used(tmp_path, monkeypatch):
    """One damaged clip ended the whole run."""
    videos, photos = tmp_path / "videos", tmp_path / "photos"
    videos.mkdir()
    photos.mkdir()
    written(videos / "good.mp4")
    whole = (videos / "good.mp4").read_bytes()
    (videos / "cut.mkv").write_bytes(b"")
    (videos / "noise.mp4").write_bytes(whole[: len(whole) // 2])  # its index stood at the end
    (photos / "bad.png").write_bytes(b"no picture")
    monkeypatch.setattr(data, "SCENES", 5)
    said = []
    library = load_library([videos], [photos], tmp_path / "cache", say=said.append)
    assert [line.partition(":")[0] for line in said] == ["left out"] * 3
    assert [name for name in ("cut.mkv", "noise.mp4", "bad.png") if any(name in line for line in said)] == [
        "cut.mkv",
        "noise.mp4",
        "bad.png",
    ]
    assert [len(items) for _, items in library.groups] == [1, 1, 1]


def test_the_damaged_part_of_a_clip_is_left_out(tmp_path):
    written(tmp_path / "clip.ts", frames=40)
    whole = bytearray((tmp_path / "clip.ts").read_bytes())
    whole[len(whole) // 3 : len(whole) // 2] = bytes(len(whole) // 2 - len(whole) // 3)
    (tmp_path / "clip.ts").write_bytes(whole)
    clip = read_clip(tmp_path / "clip.ts")
    assert clip.shape[1:] == (64, 96, 3) and 10 < len(clip) < 40


def test_footage_goes_to_and_fro_without_a_jump():
    clip = np.arange(30, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    for seed in range(20):
        source = Footage(clip, 16, random.Random(seed))
        read = ((torch.cat([source.read(7) for _ in range(20)])[:, 0, 0, 0] + 1) * 127.5).round().diff().abs()
        assert read.max() <= source.stride and (source.still or read.min() >= 0)


def test_a_wandering_camera_moves_smoothly_and_stays_in_the_photograph():
    photo = procedural(1, 200, 300, random.Random(0))[0]
    for seed in range(10):
        source = Wander(photo, 64, random.Random(seed))
        x = torch.cat([source.read(5), source.read(5)])
        assert x.shape == (10, 3, 64, 64) and x.abs().max() <= 1.001
        steps = x.diff(dim=0).square().mean((1, 2, 3))
        assert steps[4] < 3 * steps.median() + 1e-4  # between two reads as inside one


def test_every_kind_of_stream_can_be_measured(library):
    rng, seen = random.Random(0), set()
    for _ in range(40):
        stream = draw_stream(library, 48, rng)
        seen.add((stream.operator.kind, stream.coder is not None))
        for frames, lost in ((9, ()), (12, (3,))):
            sample = stream.read(frames, lost)
            assert sample.x.shape == sample.x_init.shape == sample.hint.shape == (frames, 3, 48, 48)
            assert (sample.past is not None) == (sample.operator.reach > 0 and frames == 12)
            assert torch.isfinite(sample.consistent(sample.x_init)).all()
            stream.remember_restored(sample.x)
    assert {kind for kind, _ in seen} == set(MIX)
    assert sum(coded for _, coded in seen) >= 3


def test_a_coded_stream_is_told_how_noisy_its_codec_is(library):
    rng = random.Random(0)
    while True:
        stream = draw_stream(library, 64, rng)
        if stream.coder is not None and stream.told == 1.0:
            break
    sample = stream.read(9, ())
    assert stream.error is not None and sample.operator.noise == pytest.approx(stream.error, rel=0.06)


def test_a_step_moves_every_weight_and_goes_on_with_its_streams(trainer, monkeypatch):
    """Two chunks a step: what writes the cache learns from the chunk that reads it."""
    monkeypatch.setattr("core.training.trainer.LENGTHS", ((1, 2, 1.0),))
    before = {name: value.clone() for name, value in trainer.net.state_dict().items()}
    indices = []
    for _ in range(4):
        assert np.isfinite(trainer.step(1e-3, 48))
        indices.append(trainer.cache.index)
        assert not any(part.requires_grad for part in (trainer.cache.hidden, trainer.cache.last, *trainer.cache.keys))
    still = [name for name, value in trainer.net.state_dict().items() if torch.equal(value, before[name])]
    assert still and all(name.startswith("sharp_") for name in still)  # those of the other tier
    assert max(indices) > 2  # older than one step
    assert trainer.gains


def test_the_sharp_tier_trains_its_own_layers_alone_and_by_the_distance_it_is_given(library):
    (codec, net), (_, ema) = build(SMALL), build(SMALL)
    asked = []

    def distance(a, b):
        asked.append((a.shape, b.requires_grad))
        return (a - b).square().mean()

    trainer = Trainer(codec, net, ema, library, batch=2, seed=0, sharp=Sharp(distance, weight=1.0, share=1.0))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for _ in range(3):  # the carry is zero at first, and what follows it
        trainer.step(1e-3, 48)
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.startswith("sharp_")}
    (frames, channels, height, width), wants_gradient = asked[0]
    assert trainer.cache.tier == "sharp" and not wants_gradient
    assert (frames, channels) == (len(trainer.streams), 3) and 48 - SHIFT < min(height, width) <= max(
        height, width
    ) <= 48


def test_a_perceptual_distance_sees_both_pictures_from_the_same_corner_and_every_corner():
    picture, rng = torch.arange(32 * 32.0).view(1, 1, 32, 32).expand(1, 3, 32, 32), random.Random(0)
    corners = set()
    for _ in range(500):
        a, b = shifted(picture, picture + 1, rng)
        assert torch.equal(a + 1, b)
        corners.add(a[0, 0, 0, 0].item())
    assert len(corners) == SHIFT**2


@pytest.mark.parametrize("axis", [-1, -2])
def test_edges_between_blocks_are_told_from_edges_anywhere(axis):
    true = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).cumsum(-1).cumsum(-2) / 50
    assert blockiness(true, true) == 0
    blocks = true.unfold(axis, 4, 4).mean(-1).repeat_interleave(4, axis)
    shifted_blocks = blocks.roll(1, axis)  # edges as strong, elsewhere
    smooth = (true + true.roll(1, axis)) / 2
    assert blockiness(smooth, true) < 0.1 < 0.5 < blockiness(blocks, true)
    assert blockiness(shifted_blocks, true) > 0.5
    assert blockiness(true + 0.1 * torch.randn(true.shape), true) < 0.1
    assert blockiness(2 * true, true) < 1e-5, "contrast is another matter"


def test_a_lattice_is_told_from_errors_at_random():
    g = torch.Generator().manual_seed(0)
    true, noise = torch.rand(2, 3, 96, 96, generator=g), 0.1 * torch.randn(2, 3, 96, 96, generator=g)
    mesh = 0.1 * torch.randn(1, 3, 4, 4, generator=g).repeat(2, 1, 24, 24)
    assert lattice(true, true) == 0
    assert lattice(true + noise, true) == pytest.approx(1 / 36, rel=0.1)
    assert lattice(true + mesh, true) > 0.99
    assert 0.4 < lattice(true + mesh + noise, true) < 0.6
    assert lattice(true + 0.1, true) == pytest.approx(0, abs=1e-3), "a constant repeats nothing"


def test_a_run_resumes_where_it_was(trainer, library):
    trainer.step(1e-3, 64)
    (codec, net), (_, ema) = build(SMALL, seed=5), build(SMALL, seed=6)
    other = Trainer(codec, net, ema, library, batch=2, seed=1)
    other.resume(trainer.state())
    assert other.step_count == 1
    for ours, theirs in zip(other.ema.parameters(), trainer.ema.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_rate_holds_and_then_falls():
    assert scheduled(0.2, 0.3, 1e-3) == 1e-3
    rates = [scheduled(p, 0.3, 1e-3) for p in (0.3, 0.5, 0.8, 1.0)]
    assert rates == sorted(rates, reverse=True) and rates[-1] == pytest.approx(2e-5)


def test_two_runs_meet_half_way(tmp_path, monkeypatch):
    monkeypatch.setattr("core.training.data.SCENES", 1)
    monkeypatch.setattr("core.training.train.MEET", 1)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    common = ["--minutes", "0.0001", "--size", "32", "--batch", "1", "--cache", str(tmp_path / "cache"), "--json", "-"]
    for name, peer in (("a", "b"), ("b", "a")):
        arguments = [*common, "--run", str(tmp_path / name), "--peer", str(tmp_path / peer)]
        assert run(parser.parse_args(arguments)) == 0
        assert (tmp_path / name / "tiny.npz").exists() and (tmp_path / name / "last.pt").exists()


def test_a_burst_of_lost_frames_leaves_most_of_a_chunk_and_its_first_frame():
    rng = random.Random(0)
    bursts = [draw_lost(12, rng) for _ in range(1000)]
    lost = [burst for burst in bursts if burst]
    assert 20 < len(lost) < 120
    assert all(0 < len(b) <= 4 and b[0] > 0 and b[-1] < 12 and b == tuple(range(b[0], b[-1] + 1)) for b in lost)
