import asyncio

import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError
from av import VideoFrame

from server.media.playout import Playout
from server.media.tracks import TIME_BASE, Outgoing, RestoredTrack


def outgoing(slots):
    image = np.zeros((16, 16, 3), np.uint8)
    return [(slot, Outgoing(VideoFrame.from_ndarray(image, format="rgb24"), 0.0, slot)) for slot in slots]


@pytest.fixture
def track():
    left, dropped = [], []
    track = RestoredTrack(
        Playout(fps=100, preroll=0.0, capacity=20),
        lambda frame, now: left.append((frame.chunk, now)),
        lambda frame: dropped.append(frame.chunk),
    )
    track.left, track.dropped = left, dropped
    return track


async def test_frames_leave_at_the_pace_of_their_slots(track):
    track.put(outgoing(range(5)))
    frames = []
    while track.playout.waiting:  # on a busy machine some come too late
        frames.append(await track.recv())
    slots = [chunk for chunk, _ in track.left]
    assert [frame.pts for frame in frames] == [900 * slot for slot in slots]
    assert {frame.time_base for frame in frames} == {TIME_BASE}
    assert sorted(slots + track.dropped) == list(range(5))
    assert slots[-1] == 4
    assert track.left[-1][1] - track.left[0][1] >= 0.01 * (slots[-1] - slots[0]) - 0.01


async def test_whoever_waits_for_a_frame_gets_it_when_it_comes(track):
    waiting = asyncio.create_task(track.recv())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    track.put(outgoing([7]))
    assert (await waiting).pts == 0


async def test_every_frame_that_was_put_is_heard_of_once(track):
    track.put(outgoing(range(30)))
    assert track.dropped == list(range(10))
    await track.recv()
    assert track.left[0][0] == 10


async def test_a_stopped_track_ends_for_whoever_waits_and_for_whoever_asks(track):
    waiting = asyncio.create_task(track.recv())
    await asyncio.sleep(0)
    track.stop()
    for ended in (waiting, track.recv()):
        with pytest.raises(MediaStreamError):
            await ended


async def test_a_cancelled_recv_loses_no_frame(track):
    waiting = asyncio.create_task(track.recv())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    track.put(outgoing([0]))
    assert (await track.recv()).pts == 0
