"""What the neighbours show of each frame, moved into place by optical flow. Stateless; on the CPU, by OpenCV.

Super-resolution and inpainting lose other pixels of a moving thing in every frame. A network of small convolutions
finds them again only where its neighbours lie in place. The flow is a dense inverse search at half resolution (DIS,
Kroeger et al., ECCV 2016).

What is moved is x_init, never what the network made: fed with its own last frame, moved into place, it sharpens
that a little more in each chunk, and a stream that starts at +2 dB is at -1 dB ten chunks later.
"""

from __future__ import annotations

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
SMALL = 64
"""pictures with a side below this, in pixels, are searched for motion at full size, not at half"""


def aligned(x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What the neighbours of each frame of a chunk show at its pixels.

    `x` [T, 3, H, W] are the frames, in [-1, 1]; `mask` [1 or T, 1, H, W] tells the known pixels. Returns the frame
    before and the frame after moved into place, [SOURCES, T, 3, H, W], or the frame itself where there is none; and the
    mask of both, moved likewise, [T, SOURCES, H, W] ([1, SOURCES, H, W] of zeros without a mask).
    """
    T, _, H, W = x.shape
    pictures = interleaved(x)
    masks = None if mask is None else mask.expand(T, 1, H, W)[:, 0].float().cpu().numpy()
    greys, search = [grey(picture) for picture in pictures], new_search()
    moved = np.empty((SOURCES, T, 3, H, W), np.float32)
    known = np.zeros((1 if masks is None else T, SOURCES, H, W), np.float32)
    for source, step in enumerate((-1, 1)):
        for t in range(T):
            neighbour = t + step
            if not 0 <= neighbour < T:
                cv2.split(pictures[t], [*moved[source, t]])
                continue
            places = places_of(search.calc(greys[t], greys[neighbour], None), H, W)
            cv2.split(warp(pictures[neighbour], places), [*moved[source, t]])
            if masks is not None:
                known[t, source] = warp(masks[neighbour], places)
    return torch.from_numpy(moved).to(x.device), torch.from_numpy(known).to(x.device)


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
