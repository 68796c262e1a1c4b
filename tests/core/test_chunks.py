import pytest

from core.chunks import Chunker, ChunkSpec


def test_81_frames_are_7_chunks():
    assert ChunkSpec().split(81) == [9] + [12] * 6


@pytest.mark.parametrize("frames", [0, 1, 8, 9, 10, 21, 22, 100])
def test_a_split_loses_no_frame(frames):
    lengths = ChunkSpec().split(frames)
    assert sum(lengths) == frames
    assert all(length > 0 for length in lengths)


def test_chunks_come_in_order_and_whole():
    chunker = Chunker()
    chunks = [chunk for n in range(40) if (chunk := chunker.push(n))]
    assert [chunk.index for chunk in chunks] == [0, 1, 2]
    assert [len(chunk.frames) for chunk in chunks] == [9, 12, 12]
    assert [n for chunk in chunks for n in chunk.frames] == list(range(33))
    assert chunker.pending == 7
