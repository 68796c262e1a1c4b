"""Short video files to test with."""

import av

from core.evaluation.bench import moving_scene


def write_clip(path, frames, height, width):
    """The moving scene as nearly lossless H.264, 16 frames a second; returns the path."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", 16, {"crf": "4"})
        video.height, video.width, video.pix_fmt = height, width, "yuv420p"
        for pixels in moving_scene(frames, height, width):
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode(None))
    return path
