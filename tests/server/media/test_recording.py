"""A recording holds what was restored, what came and what was heard; a full disk ends it and nothing else."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av import VideoFrame

from server.media.recording import Recording

FPS = 16


def chunk(first, frames=12):
    """Times, received pixels and restored pictures of 12 frames whose brightness is their number."""
    times = [100 + (first + n) / FPS for n in range(frames)]
    received = [np.full((48, 64, 3), 4 * ((first + n) % 60), np.uint8) for n in range(frames)]
    restored = [
        VideoFrame.from_ndarray(np.full((144, 128), 4 * ((first + n) % 60), np.uint8), "yuv420p") for n in range(frames)
    ]
    return times, received, restored


def opus_packets(count):
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 48000, "stereo", "s16"
    silence = np.zeros((1, 1920), np.int16)
    for n in range(count):
        frame = av.AudioFrame.from_ndarray(silence, format="s16", layout="stereo")
        frame.sample_rate, frame.pts = 48000, 960 * n
        yield from (bytes(packet) for packet in encoder.encode(frame))


def pictures(path):
    with av.open(str(path)) as container:
        return [(float(f.time), f.to_ndarray()[: f.height].mean(), f.width) for f in container.decode(video=0)]


def test_both_sides_and_the_sound_are_kept_in_time(tmp_path):
    recording = Recording(tmp_path, "both", FPS, "opus", min_free=0)
    for first in range(0, 48, 12):
        recording.offer(*chunk(first))
    for n, packet in enumerate(opus_packets(100)):
        recording.offer_sound(packet, 100 + n * 0.02)
    recording.stop()
    assert recording.error is None and recording.dropped == 0 and recording.frames == 48
    restored, received = (pictures(tmp_path / f"{recording.name}.{side}.mkv") for side in ("restored", "received"))
    assert [round(time * FPS) for time, _, _ in restored] == list(range(48))
    assert len(received) == 48 and {w for _, _, w in received} == {64} and {w for _, _, w in restored} == {128}
    assert all(abs(level - 4 * (n % 60)) < 3 for n, (_, level, _) in enumerate(restored))
    with av.open(str(tmp_path / f"{recording.name}.restored.mkv")) as container:
        heard = list(container.decode(audio=0))
    assert len(heard) > 90 and heard[50].time == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("times", [[100.0] * 12, [100 + n / 40 for n in range(12)], [100.2, 100.1, 100.3, 100.25] * 3])
def test_frames_that_come_at_once_or_out_of_order_are_all_kept(tmp_path, times):
    """Two in one slot ended the recording, and its file could not be read: a source below the session's rate did so."""
    recording = Recording(tmp_path, "restored", FPS, None, min_free=0)
    for first in range(0, 48, 12):
        _, received, restored = chunk(first)
        recording.offer([time + first / FPS for time in times], received, restored)
    recording.stop()
    assert recording.error is None
    shown = [time for time, _, _ in pictures(tmp_path / f"{recording.name}.restored.mkv")]
    assert len(shown) == 48 and shown == sorted(set(shown)) and shown[-1] == pytest.approx(47 / FPS, abs=0.2)


def test_only_what_was_asked_for_is_kept(tmp_path):
    recording = Recording(tmp_path, "restored", FPS, None, min_free=0)
    recording.offer(*chunk(0))
    recording.stop()
    assert os.listdir(tmp_path) == [f"{recording.name}.restored.mkv"]


def test_a_full_disk_ends_the_recording_and_says_so(tmp_path):
    recording = Recording(tmp_path, "restored", FPS, None, min_free=1 << 60)
    for first in range(0, 600, 12):
        recording.offer(*chunk(first))
    recording.stop()
    assert "are left" in recording.error and recording.frames == 0
    recording.offer(*chunk(0))
    assert recording.dropped > 0


def test_a_directory_that_is_not_there_ends_the_recording_and_says_so(tmp_path):
    recording = Recording(tmp_path / "nowhere", "restored", FPS, None)
    recording.offer(*chunk(0))
    recording.stop()
    assert "No such file" in recording.error


def test_a_write_that_fails_is_told_at_the_latest_when_the_file_closes(tmp_path, monkeypatch):
    recording = None
    monkeypatch.setattr("server.media.recording.MkvFile.__init__", lambda self, path, fps, sound: full(self, fps))
    recording = Recording(tmp_path, "restored", FPS, None, min_free=0)
    for first in range(0, 48, 12):
        recording.offer(*chunk(first))
    recording.stop()
    assert recording.error


def full(self, fps):
    self.path, self._fps, self._video, self._sound = Path("/dev/full"), Fraction(fps), None, None
    self._last = -1
    self._container = av.open("/dev/full", "w", format="matroska")
