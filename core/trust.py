"""What each pixel of a restored chunk owes to its measurement. Knows no model and no stream.

It certifies that the pixels agree with y under the stated operator and noise, not that they are true: whoever names the
wrong operator, or too much noise, is certified all the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.contract import Pixels, TrustShares
from core.operators.base import LinearOperator

SIGMAS = 3.0
"""how far from y a pixel may be, in standard deviations of the noise"""
LOST, DEPARTS, MEASURED, INFERRED = 0, 1, 2, 3
"""codes of a pixel; from INFERRED to 255 the more the model added"""
FULL = 0.25
"""what the model added to a pixel of code 255, for pixels in [-1, 1]"""


def trust_codes(operator: LinearOperator, x: Tensor, x_init: Tensor, y: Tensor, past: Tensor | None) -> Tensor:
    """A code for each pixel of restored frames `x`, uint8 [T, H, W].

    `x` and `x_init` are [T, C, H, W] in [-1, 1] with any number of channels C, `y` is their measurement [T, C, h, w],
    and `past` holds the restored frames before them that A mixes in. A pixel agrees when every channel does.

    `x` and `x_init` both fit y, so A does not see their difference: it lies in the null space of A, up to noise.
    """
    departs = operator.show(largest(y - operator.A(x, past))) > SIGMAS * operator.noise  # [T, 1, H, W]
    held = operator.held(len(x), *x.shape[-2:]).to(x.device)  # [1 or T, 1, H, W]
    shades = 255 - INFERRED
    codes = largest(x - x_init).mul_(shades / FULL).clamp_(max=shades).add_(INFERRED).to(torch.uint8)
    for where, code in ((held > 0, MEASURED), (departs, DEPARTS), (held < 0, LOST)):
        codes = torch.where(where, code, codes)
    return codes[:, 0]


def largest(difference: Tensor) -> Tensor:
    """The largest size over the channels of `difference` [T, C, H, W], which is used up; [T, 1, H, W]."""
    sizes = difference.abs_()
    return sizes if sizes.shape[1] == 1 else sizes.amax(1, keepdim=True)


def shares_of(codes: npt.NDArray[np.uint8]) -> TrustShares:
    """How many of the pixels [T, H, W] are of which kind."""
    lost, departs, measured = (float((codes == code).mean()) for code in (LOST, DEPARTS, MEASURED))
    inferred = max(0.0, 1 - lost - departs - measured)
    return TrustShares(measured=measured, inferred=inferred, departs=departs, lost=lost)


def picture_of(codes: npt.NDArray[np.uint8]) -> Pixels:
    """The codes [T, H, W] in colours, [T, H, W, 3]."""
    picture: Pixels = np.take(PALETTE, codes, axis=0, mode="clip")  # twice as fast as PALETTE[codes]
    return picture


def palette() -> Pixels:
    """A colour for each code, [256, 3]; all are told apart by lightness too, and by those who see no red or green."""
    little, much = np.array([38, 44, 88]), np.array([255, 190, 60])
    share = np.linspace(0, 1, 256 - INFERRED)[:, None] ** 0.6
    colours = np.zeros((256, 3))
    colours[LOST], colours[DEPARTS], colours[MEASURED] = (0, 0, 0), (235, 50, 70), (25, 185, 172)
    colours[INFERRED:] = little + share * (much - little)
    return colours.round().astype(np.uint8)


PALETTE = palette()
