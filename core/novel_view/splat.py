"""A frame with depth, as another camera sees it: forward splatting with a hard z-buffer, and where nothing was seen."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

from core.novel_view.camera import NEAR, Lens, Pose

SAME_SURFACE = 1.05
"""depths within this ratio are one surface: they blend, and between them points are interpolated"""
DENSEST = 4
"""points for each pixel and side at most"""
LEAST_WEIGHT = 1e-2
"""share of a point that a pixel has to get for it to count there"""


@dataclass(frozen=True)
class Points:
    """Coloured points of a scene."""

    places: Tensor
    """[N, 3]"""
    colours: Tensor
    """[N, 3]"""


def render(x: Tensor, depth: Tensor, lens: Lens, pose: Pose) -> tuple[Tensor, Tensor]:
    """Frame x [3, H, W] with z-depth [H, W] from `pose`: colours [3, H, W], 0 in holes, and the mask [1, H, W].

    The mask is 1 where the frame shows what the camera sees. Points between the pixels, interpolated where the surface
    goes on, close the cracks that open where the camera comes nearer; they count only where no pixel of the frame does.
    What is left of the cracks, a pixel between two of one surface, is filled by `closed`.
    """
    exact = points_of(x, depth, lens, 1)
    between = points_of(x, depth, lens, density(exact, lens, pose))
    nearest = z_buffer(between, lens, pose)
    colour, weight = blend(exact, nearest, lens, pose)
    other, other_weight = blend(between, nearest, lens, pose)
    colour = torch.where(weight[:, None] >= 0.5, colour, other)
    mask = torch.maximum(weight, other_weight) >= 0.5
    shape = (lens.height, lens.width)
    depth_seen = torch.where(mask, nearest, torch.inf).reshape(1, *shape)
    return closed((colour * mask[:, None]).T.reshape(3, *shape), depth_seen)


def closed(colour: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Colours [3, H, W] with the cracks closed, and the mask [1, H, W]; `depth` is infinite where there is no point.

    A crack is a pixel without a point between two opposite neighbours on one surface: it takes the mean of such pairs.
    Wider gaps and those between two surfaces are holes, which the source camera did not see.
    """
    known = depth.isfinite()
    total, pairs = torch.zeros_like(colour), torch.zeros_like(depth)
    for axis in (-1, -2):
        before, after = neighbours(depth, axis, torch.inf)
        one = before.isfinite() & after.isfinite()
        one &= torch.maximum(before, after) <= SAME_SURFACE * torch.minimum(before, after)
        total += torch.where(one, sum(neighbours(colour, axis, 0.0)), 0.0) / 2
        pairs += one
    crack = ~known & (pairs > 0)
    return torch.where(crack, total / pairs.clamp_min(1), colour), (known | crack).float()


def neighbours(x: Tensor, axis: int, beyond: float) -> tuple[Tensor, Tensor]:
    """What lies one pixel before and after each pixel of x [C, H, W] along `axis`; `beyond` at the edges."""
    edge = torch.full_like(x.narrow(axis, 0, 1), beyond)
    size = x.shape[axis]
    return torch.cat([edge, x.narrow(axis, 0, size - 1)], axis), torch.cat([x.narrow(axis, 1, size - 1), edge], axis)


def density(points: Points, lens: Lens, pose: Pose) -> int:
    """How densely points are needed so that what the camera comes nearer to has no cracks: 2 to DENSEST each way."""
    z = lens.pixels(pose.seen(points.places))[2]
    magnified = points.places[:, 2] / z.clamp_min(NEAR)
    return max(2, min(DENSEST, ceil(1.5 * float(magnified[z > NEAR].quantile(0.98)))))


def points_of(x: Tensor, depth: Tensor, lens: Lens, dense: int) -> Points:
    """The scene points of a frame's pixels, `dense` times as dense each way; none on the steep edges between."""
    height, width = depth.shape
    size = (dense * (height - 1) + 1, dense * (width - 1) + 1)
    frame = F.interpolate(torch.cat([x, depth[None]])[None], size=size, mode="bilinear", align_corners=True)[0]
    smooth = ~steep(depth, dense)
    rows, columns = (torch.linspace(0, side - 1, count) for side, count in zip((height, width), size, strict=True))
    places = lens.rays(rows, columns) * frame[3][..., None]
    return Points(places[smooth], frame[:3].permute(1, 2, 0)[smooth])


def steep(depth: Tensor, dense: int) -> Tensor:
    """Where a point between pixels of `depth` [H, W] would hang between two surfaces."""
    height, width = depth.shape
    size = (dense * (height - 1) + 1, dense * (width - 1) + 1)
    if dense == 1:
        return torch.zeros(size, dtype=torch.bool)
    rows, columns = torch.arange(size[0]), torch.arange(size[1])
    above, left = rows // dense, columns // dense
    below, right = (above + (rows % dense > 0)), (left + (columns % dense > 0))
    stacked = torch.stack([depth[i][:, j] for i in (above, below) for j in (left, right)])
    return stacked.amax(0) > SAME_SURFACE * stacked.amin(0)


def shares(points: Points, lens: Lens, pose: Pose) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which pixel (index), point, share and depth of each point's four neighbours in the picture."""
    u, v, z = lens.pixels(pose.seen(points.places))
    left, top = u.floor(), v.floor()
    numbers = torch.arange(len(u))
    found = []
    for i in (0, 1):
        for j in (0, 1):
            column, row = left + i, top + j
            share = (1 - (u - column).abs()) * (1 - (v - row).abs())
            inside = (column >= 0) & (column < lens.width) & (row >= 0) & (row < lens.height)
            kept = inside & (share > LEAST_WEIGHT) & (z > NEAR)
            found.append(((row * lens.width + column)[kept].long(), numbers[kept], share[kept], z[kept]))
    pixel, point, share, depth = (torch.cat(parts) for parts in zip(*found, strict=True))
    return pixel, point, share, depth


def z_buffer(points: Points, lens: Lens, pose: Pose) -> Tensor:
    """The depth of the nearest point at each pixel [H W]; infinite where there is none."""
    pixel, _, _, depth = shares(points, lens, pose)
    buffer = torch.full((lens.height * lens.width,), torch.inf)
    return buffer.scatter_reduce(0, pixel, depth, "amin")


def blend(points: Points, nearest: Tensor, lens: Lens, pose: Pose) -> tuple[Tensor, Tensor]:
    """Colour [H W, 3] and weight [H W] at each pixel of the points on its nearest surface."""
    pixel, point, share, depth = shares(points, lens, pose)
    front = depth <= SAME_SURFACE * nearest[pixel]
    pixel, point, share = pixel[front], point[front], share[front]
    weight = torch.zeros(len(nearest)).index_add(0, pixel, share)
    colour = torch.zeros(len(nearest), 3).index_add(0, pixel, share[:, None] * points.colours[point])
    return colour / weight.clamp_min(1e-6)[:, None], weight
