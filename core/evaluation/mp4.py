"""A video through an H.264 file: the paper's evaluation compares saved files of the original and the result."""

from __future__ import annotations

import io

import av
import numpy as np
from torch import Tensor

from core.video import from_pixels, to_pixels

CRF = 23
"""libx264's own default"""


def through_mp4(x: Tensor, fps: int = 16) -> Tensor:
    """Frames [T, 3, H, W] in [-1, 1], of even height and width, written as an MP4 file (yuv420p) and read again."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        video = container.add_stream("libx264", fps, {"crf": str(CRF)})
        video.height, video.width, video.pix_fmt = *x.shape[-2:], "yuv420p"
        for pixels in to_pixels(x):
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode(None))
    file.seek(0)
    with av.open(file, "r") as saved:
        frames = [frame.to_ndarray(format="rgb24") for frame in saved.decode(video=0)]
    return from_pixels(np.stack(frames), x.device)
