"""Records a session as MKV files, when its client wants that: the restored video, the received video, and the sound.

One thread encodes and writes. It never delays the session: what it cannot keep up with is dropped and counted, and a
full disk ends the recording, not the stream.
"""

from __future__ import annotations

import logging
import queue
import secrets
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import numpy.typing as npt
from av import VideoFrame

from server.certificates.live import Facts, LiveCertificate

logger = logging.getLogger(__name__)

Record = Literal["nothing", "restored", "both"]
"""What is recorded of a session; sound is included with either."""

SOUND_ENCODERS = {"opus": "libopus", "PCMU": "pcm_mulaw", "PCMA": "pcm_alaw"}
"""Codecs whose packets MKV stores unchanged, and FFmpeg's name for them."""
WAITING = 256
"""frames and packets that may wait to be written"""


@dataclass(frozen=True)
class Item:
    """One frame or packet that waits to be written."""

    kind: Literal["restored", "received", "sound", "facts"]
    time: float
    """seconds since the recording began"""
    data: Any


class MkvFile:
    """One MKV file with a video track and, if there is sound, an audio track."""

    certificate: LiveCertificate | None = None
    """of its video, if somebody wants one"""

    def __init__(self, path: Path, fps: float, sound: str | None):
        self.path = path
        self._fps = Fraction(fps).limit_denominator(1001)
        self._container = av.open(str(path), "w", format="matroska")
        self._video: Any = None
        self._last = -1
        """the slot that the last frame was written to"""
        self._sound: Any = None
        if sound in SOUND_ENCODERS:
            rate = 48000 if sound == "opus" else 8000
            self._sound = self._container.add_stream(SOUND_ENCODERS[sound], rate=rate)
            self._sound.layout = "stereo" if sound == "opus" else "mono"

    def write_picture(self, frame: VideoFrame, time: float) -> None:
        """Writes a frame that arrived at `time`, each to a later slot: after a stall, several arrive at once."""
        if self._video is None:
            options = {"preset": "ultrafast", "crf": "18"}
            self._video = self._container.add_stream("libx264", rate=self._fps, options=options)
            self._video.width, self._video.height = frame.width, frame.height
            self._video.pix_fmt = "yuv420p"
        picture = frame.reformat(format="yuv420p")
        copy = VideoFrame.from_ndarray(picture.to_ndarray(), "yuv420p")
        self._last = max(self._last + 1, round(time * self._fps))
        copy.pts, copy.time_base = self._last, 1 / self._fps
        if self.certificate:
            self.certificate.picture(copy, float(self._last / self._fps))
        self._mux(self._video.encode(copy))

    def write_sound(self, data: bytes, time: float) -> None:
        """Writes a packet of sound, once the video has begun."""
        if self._sound is None or self._video is None:
            return
        packet = av.Packet(data)
        packet.stream = self._sound
        packet.time_base = Fraction(1, 1000)
        packet.pts = packet.dts = round(time * 1000)
        self._container.mux(packet)

    def close(self) -> None:
        if self._video is not None:
            self._mux(self._video.encode(None))
        self._container.close()

    def _mux(self, packets: list[Any]) -> None:
        if self.certificate:
            self.certificate.encoded(packets, self._video.codec_context)
        self._container.mux(packets)


Certify = Callable[[Path], LiveCertificate]
"""The certificate of a restored video that will lie there. Reads the key, so it blocks."""


class Recording:
    """Writes one session to `directory` until it is stopped or the disk has less than `min_free` bytes left."""

    def __init__(
        self,
        directory: Path,
        record: Record,
        fps: float,
        sound: str | None,
        min_free: int = 1 << 28,
        certify: Certify | None = None,
    ):
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        self.name = f"{stamp}-{secrets.token_hex(3)}"
        self.frames = 0
        self.dropped = 0
        self.error: str | None = None
        """why it ended before it was stopped"""
        self._directory, self._fps, self._sound, self._min_free = directory, fps, sound, min_free
        self._certify = certify
        self._kinds: tuple[str, ...] = ("restored", "received") if record == "both" else ("restored",)
        self._began: float | None = None
        self._queue: queue.Queue[Item | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="recording")
        self._thread.start()

    def offer(
        self,
        times: Sequence[float],
        received: Sequence[npt.NDArray[np.uint8]],
        restored: Sequence[VideoFrame],
        facts: Facts | None = None,
    ) -> None:
        """Takes a chunk: when its frames arrived, the received frames, the restored ones, and what is known of it.

        A recording that is certified takes a chunk whole or not at all.
        """
        if self._began is None:
            self._began = times[0]
        if self._certify is not None and facts is not None:
            if self._queue.qsize() + 1 + len(self._kinds) * len(times) > WAITING:
                self.dropped += len(self._kinds) * len(times)
                return
            self._put(Item("facts", times[0] - self._began, facts))
        for time, before, after in zip(times, received, restored, strict=True):
            self._put(Item("restored", time - self._began, after))
            if "received" in self._kinds:
                self._put(Item("received", time - self._began, before))

    def offer_sound(self, data: bytes, time: float) -> None:
        """Takes a packet of sound that arrived at `time`."""
        if self._began is not None and time >= self._began:
            self._put(Item("sound", time - self._began, data))

    def stop(self) -> None:
        """Writes what waits and closes the files. Blocks, so do not call it on the event loop."""
        self._queue.put(None)
        self._thread.join()

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "frames": self.frames, "dropped": self.dropped, "error": self.error}

    def _put(self, item: Item) -> None:
        if self.error is not None or self._queue.qsize() >= WAITING:
            self.dropped += 1
            return
        self._queue.put(item)

    def _run(self) -> None:
        files: dict[str, MkvFile] = {}
        try:
            for kind in self._kinds:
                files[kind] = MkvFile(self._directory / f"{self.name}.{kind}.mkv", self._fps, self._sound)
            if self._certify is not None:
                files["restored"].certificate = self._certify(files["restored"].path)
            while (item := self._queue.get()) is not None:
                self._write(files, item)
        except (OSError, av.FFmpegError, ValueError) as error:
            self.error = f"the recording ended: {error}"
            logger.error("recording %s ended: %s", self.name, error)
        finally:
            for file in files.values():
                self._close(file)

    def _write(self, files: dict[str, MkvFile], item: Item) -> None:
        if item.kind == "sound":
            for file in files.values():
                file.write_sound(item.data, item.time)
            return
        if item.kind == "facts":
            certificate = files["restored"].certificate
            if certificate is not None:
                certificate.begin(item.data)
            return
        if self.frames % 16 == 0 and shutil.disk_usage(self._directory).free < self._min_free:
            raise OSError(f"less than {self._min_free >> 20} MiB are left in {self._directory}")
        picture = item.data
        if not isinstance(picture, VideoFrame):
            picture = VideoFrame.from_ndarray(picture, format="rgb24")
        files[item.kind].write_picture(picture, item.time)
        self.frames += item.kind == "restored"

    def _close(self, file: MkvFile) -> None:
        try:
            file.close()
        except (OSError, av.FFmpegError) as error:
            self.error = self.error or f"{file.path.name} could not be closed: {error}"
            logger.error("%s could not be closed: %s", file.path, error)
            return
        if file.certificate is not None:
            try:
                file.certificate.finish([self.error] if self.error else [])
            except (OSError, av.FFmpegError) as error:
                self.error = self.error or f"the certificate of {file.path.name} has no end: {error}"
                logger.error("the certificate of %s has no end: %s", file.path, error)
