"""Frames of a thread on one time line: in order, the oldest dropped, interruptions marked, and paced where need be."""

import asyncio
import threading

import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError
from av import VideoFrame

from server.sources.reader import AHEAD, LATE, Pace
from server.sources.track import MAILBOX, SourceTrack, Timeline


def frame():
    return VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")


def test_times_go_on_by_the_clock_after_an_interruption():
    line = Timeline()
    assert [line.map(t, now) for t, now in ((900.0, 5.0), (900.5, 5.6))] == [(0.0, False), (0.5, False)]
    line.restart()
    assert [line.map(t, now) for t, now in ((7.0, 9.0), (7.25, 9.2))] == [(4.0, True), (4.25, False)]


def test_frames_without_times_have_those_of_the_clock():
    line = Timeline()
    assert [line.map(None, now)[0] for now in (3.0, 3.1, 3.5)] == pytest.approx([0.0, 0.1, 0.5])


async def test_a_stalled_loop_loses_the_oldest_frames_and_the_next_one_says_so():
    track = SourceTrack()

    def read():
        for number in range(MAILBOX + 3):
            track.offer(frame(), number / 10, 100 + number / 10)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()  # the loop stands still meanwhile
    found = [await track.recv() for _ in range(MAILBOX)]
    assert [round(f.time * 10) for f in found] == list(range(3, MAILBOX + 3))
    assert [f.opaque.lost for f in found] == [True] + [False] * (MAILBOX - 1)
    assert (track.frames, track.dropped) == (MAILBOX + 3, 3)


async def test_a_frame_wakes_who_waits_and_stop_ends_the_track():
    track = SourceTrack()
    waiting = asyncio.ensure_future(track.recv())
    await asyncio.sleep(0)
    await asyncio.to_thread(track.offer, frame(), 1.0, 1.0)
    assert (await waiting).time == 0
    assert track.arrived.is_set()
    track.restart()
    assert not track.arrived.is_set()
    waiting = asyncio.ensure_future(track.recv())
    await asyncio.sleep(0)
    track.stop()
    with pytest.raises(MediaStreamError):
        await waiting


async def test_after_a_restart_the_first_frame_says_that_frames_are_missing():
    track = SourceTrack()
    track.offer(frame(), 1.0, 1.0)
    track.restart()
    track.offer(frame(), 50.0, 3.0)
    first, second = await track.recv(), await track.recv()
    assert (first.opaque.lost, second.opaque.lost, second.time) == (False, True, 2.0)


def test_a_recording_is_paced_by_its_times():
    pace = Pace()
    assert [pace.due(t, 10.0 + t / 9) for t in (5.0, 5.5, 6.0)] == [10.0 + 5 / 9, 10.5 + 5 / 9, 11.0 + 5 / 9]


@pytest.mark.parametrize("time, now", [(5.1, 20.0 + LATE), (5.1 + AHEAD + 1, 10.1), (0.0, 10.1)])
def test_a_source_that_falls_behind_or_jumps_gets_a_new_pace(time, now):
    pace = Pace()
    pace.due(5.0, 10.0)
    assert pace.due(time, now) == now
    assert pace.due(time + 0.1, now) == pytest.approx(now + 0.1)
