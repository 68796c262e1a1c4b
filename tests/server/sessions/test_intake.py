"""Frames in, chunks out, without a peer connection and without a clock."""

from fractions import Fraction

import numpy as np
import pytest
from av import VideoFrame

from core.chunks import CHUNKS, ChunkSpec
from server.sessions.intake import INBOX, Intake
from server.sessions.telemetry import SessionFigures

FPS = 16
PIXELS = np.zeros((2, 2, 3), np.uint8)


def picture(number):
    frame = VideoFrame(16, 16, "gray")
    frame.pts, frame.time_base = number, Fraction(1, FPS)
    return frame


def new(idle_pause=1.5, chunks=CHUNKS):
    return Intake(FPS, idle_pause, SessionFigures(), chunks)


def send(intake, *numbers, lost=False):
    """Takes in the frames with these numbers, each at its time; `lost` is said of the first. Returns full chunks."""
    filled = []
    for number in numbers:
        intake.accept(picture(number), number / FPS, lost and number == numbers[0])
        while (frame := intake.next()) is not None:
            filled.append(intake.fill(frame, PIXELS))
    return [chunk for chunk in filled if chunk is not None]


def test_every_frame_is_in_one_chunk_in_order():
    chunks = send(new(), *range(33))
    assert [len(chunk.chunk.frames) for chunk in chunks] == [9, 12, 12]
    assert [slot for chunk in chunks for slot in chunk.slots] == list(range(33))
    assert [chunk.gap for chunk in chunks] == [False] * 3
    assert chunks[1].timestamps[0] == chunks[1].arrivals[0] == pytest.approx(9 / FPS)


def test_a_session_of_low_latency_fills_short_chunks_before_and_after_a_gap_and_on_a_new_stream():
    intake = new(idle_pause=0.5, chunks=ChunkSpec(latents=1))
    chunks = send(intake, *range(9)) + send(intake, *range(30, 34))
    intake.open_stream()
    chunks += send(intake, *range(34, 43))
    assert [(len(chunk.chunk.frames), chunk.gap) for chunk in chunks] == [
        *((5, False), (4, False), (4, True)),
        *((5, False), (4, False)),
    ]


def test_frames_are_bounded_when_conversion_stalls_and_the_oldest_go():
    intake = new(idle_pause=0.5)
    for number in range(30):
        intake.accept(picture(number), number / FPS)
    kept = []
    while (frame := intake.next()) is not None:
        kept.append(frame)
    assert len(kept) == INBOX + FPS // 2
    assert [frame.slot for frame in kept] == list(range(30))[-len(kept) :]
    assert kept[0].gap
    assert intake._figures.dropped["overrun"] == 30 - len(kept)


def test_only_the_network_makes_a_frame_lost():
    intake = new()
    send(intake, *range(12))
    [chunk] = send(intake, 14, lost=True) + send(intake, 15, 18, 19, 20)
    assert (chunk.slots, chunk.lost, chunk.masked) == (tuple(range(9, 21)), (3, 4), (3, 4))
    assert (intake._figures.frames_lost, intake._figures.frames_repeated) == (2, 2)


def test_a_chunk_that_lost_more_than_half_is_frozen_and_the_next_one_follows_a_gap():
    intake = new()
    send(intake, *range(12))
    chunks = send(intake, 19, lost=True) + send(intake, *range(20, 33))
    assert [(len(chunk.lost), chunk.masked, chunk.gap) for chunk in chunks] == [(7, (), False), (0, (), True)]


def test_what_another_connection_missed_is_lost_and_its_clock_goes_on():
    intake = new()
    send(intake, *range(12))
    intake.reconnect()
    for number in range(500, 509):
        intake.accept(picture(number), (number - 500 + 15) / FPS)
    chunks = []
    while (frame := intake.next()) is not None:
        chunks.append(intake.fill(frame, PIXELS))
    [chunk] = filter(None, chunks)
    assert chunk.slots == tuple(range(9, 21))
    assert chunk.lost == (3, 4, 5)


def test_a_stream_that_starts_over_drops_the_chunk_that_was_filling_but_not_an_opening_one():
    intake = new()
    send(intake, *range(5))
    intake.open_stream()
    assert intake.pending == 5
    send(intake, *range(5, 12))
    intake.open_stream()
    assert (intake.pending, intake._figures.dropped["gap"]) == (0, 3)
    [chunk] = send(intake, *range(12, 21))
    assert (chunk.chunk.index, len(chunk.slots)) == (0, 9)
