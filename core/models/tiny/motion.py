"""What the neighbours show of each frame, moved into place by optical flow. Stateless; on the CPU, by OpenCV.

Super-resolution and inpainting lose other pixels of a moving thing in every frame. A network of small convolutions
finds them again only where its neighbours lie in place. The flow is a dense inverse search at half resolution (DIS,
Kroeger et al., ECCV 2016).

What is moved is x_init, never what the network made: fed with its own last frame, moved into place, it sharpens
that a little more in each chunk, and a stream that starts at +2 dB is at -1 dB ten chunks later.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float32]
"""a picture [H, W, 3] in [-1, 1], a mask [H, W], or a flow"""
Grey = npt.NDArray[np.uint8]
"""[h, w]"""
Flow = npt.NDArray[np.float32]
"""[h, w, 2]: how far away, in its own pixels, another picture shows what each pixel shows; x, then y"""

SOURCES = 2
"""the frame before and the frame after"""
CUT = 20.0
"""mean difference of two neighbouring frames after motion, of 255, from which they show different scenes"""
SMALL = 64
"""pictures with a side below this, in pixels, are searched for motion at full size, not at half"""


@dataclass(frozen=True)
class Motion:
    """How the frames of a chunk, and the last frame before it, move into each other's places."""

    moved: Tensor
    """the frame before and the frame after each, moved into its place, [SOURCES, T, 3, H, W]"""
    known: Tensor
    """the mask of both, moved likewise, [T, SOURCES, H, W] ([1, SOURCES, H, W] of zeros without a mask)"""
    flows: Tensor
    """where the frame before and the frame after show each pixel, at 1/4 resolution, [SOURCES, T, H / 4, W / 4, 2]"""
    linked: Tensor
    """whether there is a frame before and after that shows the same scene, [SOURCES, T], bool"""


def motion(x: Tensor, mask: Tensor | None = None, before: Tensor | None = None) -> Motion:
    """The motion of a chunk.

    `x` [T, 3, H, W] are the frames, in [-1, 1]; `mask` [1 or T, 1, H, W] tells the known pixels; `before`
    [3 or 4, H, W] is the last frame before the chunk, with its mask where there is one. Where there is no frame
    before or after, or it shows another scene, the frame itself stands in its place.
    """
    T, _, H, W = x.shape
    together = x if before is None else torch.cat([before[None, :3].to(x), x])
    pictures, first = interleaved(together), len(together) - T
    masks = None
    if mask is not None:
        every = mask.expand(T, 1, H, W)[:, 0].float()
        if before is not None:
            every = torch.cat([before[3:].float() if len(before) > 3 else every[:1], every])
        masks = every.cpu().numpy()
    greys, search = [grey(picture) for picture in pictures], new_search()
    moved = np.empty((SOURCES, T, 3, H, W), np.float32)
    known = np.zeros((1 if masks is None else T, SOURCES, H, W), np.float32)
    flows = np.zeros((SOURCES, T, H // 4, W // 4, 2), np.float32)
    linked = np.zeros((SOURCES, T), bool)
    for source, step in enumerate((-1, 1)):
        for t in range(T):
            here, neighbour = t + first, t + first + step
            if 0 <= neighbour < len(pictures):
                flow = search.calc(greys[here], greys[neighbour], None)
                linked[source, t] = same_scene(greys[here], greys[neighbour], flow)
            if not linked[source, t]:
                cv2.split(pictures[here], [*moved[source, t]])
                continue
            flows[source, t] = quarter(flow, H, W)
            places = places_of(flow, H, W)
            cv2.split(warp(pictures[neighbour], places), [*moved[source, t]])
            if masks is not None:
                known[t, source] = warp(masks[neighbour], places)
    return Motion(*(torch.from_numpy(part).to(x.device) for part in (moved, known, flows, linked)))


def same_scene(here: Grey, there: Grey, flow: Flow) -> bool:
    """Whether `there`, moved into place, looks like `here`: false over a cut."""
    h, w = here.shape
    moved = cv2.remap(there, flow + still(h, w), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return float(np.mean(cv2.absdiff(here, moved))) < CUT


def quarter(flow: Flow, height: int, width: int) -> Flow:
    """The flow at a quarter of `height` x `width`, in pixels of that size."""
    size = (width // 4, height // 4)
    return np.asarray(cv2.resize(flow, size, interpolation=cv2.INTER_AREA) * (size[0] / flow.shape[1]), np.float32)


def new_search() -> cv2.DISOpticalFlow:
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    search.setFinestScale(1)
    search.setGradientDescentIterations(12)
    search.setVariationalRefinementIterations(0)  # it smooths small things away
    return search


def grey(picture: Array) -> Grey:
    """In 8 bits, at half the size where it is not small."""
    H, W = picture.shape[:2]
    luminance = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    if min(H, W) >= SMALL:
        luminance = cv2.resize(luminance, (W // 2, H // 2), interpolation=cv2.INTER_AREA)
    return (luminance * 127.5 + 128).clip(0, 255).astype(np.uint8)


def places_of(flow: Flow, height: int, width: int) -> Array:
    """Where to look for each pixel, [height, width, 2], for a flow of this size or half of it."""
    if flow.shape[1] != width:
        larger = cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(cv2.scaleAdd(larger, width / flow.shape[1], still(height, width)), np.float32)
    return flow + still(height, width)


@lru_cache(maxsize=16)
def still(height: int, width: int) -> Array:
    """The places without motion."""
    rows, columns = np.indices((height, width), np.float32)
    return np.stack([columns, rows], -1)


def warp(picture: Array, places: Array) -> Array:
    """The picture as seen at each pixel's place: bilinear, its border repeated."""
    return np.asarray(cv2.remap(picture, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)


def interleaved(x: Tensor) -> Array:
    """[T, C, H, W] to [T, H, W, C]."""
    return x.float().permute(0, 2, 3, 1).contiguous().cpu().numpy()
