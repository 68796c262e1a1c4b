"""Restores the frames of a video with the library: `python examples/restore_array.py small.mp4 large.mp4`."""

import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from core.chunks import ChunkSpec
from core.contract import Pixels, SolverConfig
from core.engine import Engine
from core.models.load import load
from core.operators.super_resolution import SuperResolution


def restored(frames: Pixels, scale: int = 4) -> Iterator[Pixels]:
    """Chunks of restored frames for the small frames [T, h, w, 3]; frames that fill no chunk are left out."""
    engine, operator, spec = Engine(load("tiny")), SuperResolution(scale=scale), ChunkSpec()
    height, width = (scale * side for side in frames.shape[1:3])
    engine.open("video", operator, "incoming", height, width)
    start = 0
    for index, length in enumerate(spec.split(len(frames))):
        if length == spec.frames(index):
            result = engine.step("video", frames[start : start + length], operator, SolverConfig())
            print(f"chunk {index}: residual {result.residual:.4f}, guided {result.guided}")
            yield result.panels
        start += length
    engine.close("video")


def main(source: Path, target: Path) -> None:
    with av.open(str(source)) as video:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
        rate = video.streams.video[0].average_rate
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate, {"crf": "16"})
        stream.height, stream.width, stream.pix_fmt = 4 * frames.shape[1], 4 * frames.shape[2], "yuv420p"
        for chunk in restored(frames):
            for pixels in chunk:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/restore_array.py SMALL LARGE.mp4")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
