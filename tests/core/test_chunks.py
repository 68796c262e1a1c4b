import pytest

from core.chunks import Chunker, ChunkSpec


def test_81_frames_are_7_chunks():
    assert ChunkSpec().split(81) == [9] + [12] * 6


def test_chunks_of_one_latent_have_four_frames_after_an_opening_that_shows_motion():
    spec = ChunkSpec(latents=1)
    assert spec.split(21) == [5, 4, 4, 4, 4]
    assert (spec.most_frames, ChunkSpec().most_frames) == (5, 12)


@pytest.mark.parametrize("latents", [1, 3])
@pytest.mark.parametrize("frames", [0, 1, 8, 9, 10, 21, 22, 100])
def test_a_split_loses_no_frame(frames, latents):
    lengths = ChunkSpec(latents).split(frames)
    assert sum(lengths) == frames
    assert all(length > 0 for length in lengths)


def test_chunks_come_in_order_and_whole():
    chunker = Chunker()
    chunks = [chunk for n in range(40) if (chunk := chunker.push(n))]
    assert [chunk.index for chunk in chunks] == [0, 1, 2]
    assert [len(chunk.frames) for chunk in chunks] == [9, 12, 12]
    assert [n for chunk in chunks for n in chunk.frames] == list(range(33))
    assert chunker.pending == 7
