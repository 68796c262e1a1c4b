"""A synthetic scene that is ray-cast: pictures, exact depth and exact visibility from any camera."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from core.novel_view.camera import Lens, Pose

WALL = 8.0
"""distance of the back wall"""
FLOOR = 1.6
"""of the floor below the source camera"""
BOXES = (((-0.9, -0.7, 3.6), (0.9, FLOOR, 4.4)), ((-3.0, 0.1, 5.2), (-1.8, FLOOR, 6.0)))
"""corners of two boxes: one in the middle, which cameras orbit, and one to the left behind it"""
RADIUS = 0.4
"""of the ball that flies past from left to right"""
FRAMES_ACROSS = 81
"""frames in which it does"""


@dataclass(frozen=True)
class Hit:
    """What rays meet."""

    distance: Tensor
    """in lengths of the ray, infinite where it meets nothing"""
    colour: Tensor
    """[..., 3] in [-1, 1]"""


def ball(frame: int) -> Tensor:
    """The ball's centre."""
    return torch.tensor([-1.5 + 3.0 * frame / FRAMES_ACROSS, 0.5, 2.8])


def view(frame: int, lens: Lens, pose: Pose) -> tuple[Tensor, Tensor]:
    """The picture [3, H, W] in [-1, 1] and the z-depth [H, W] of frame number `frame` from `pose`."""
    rays = lens.rays(torch.arange(lens.height).float(), torch.arange(lens.width).float())
    hit = cast(frame, pose.centre.expand_as(rays), rays @ pose.rotation.T)
    return hit.colour.permute(2, 0, 1).contiguous(), hit.distance  # a ray's own z is 1, so its length is the depth


def visible(frame: int, lens: Lens, pose: Pose) -> Tensor:
    """Where what `pose` sees is seen by the source camera too, exactly: [1, H, W] of 0 and 1."""
    _, depth = view(frame, lens, pose)
    rays = lens.rays(torch.arange(lens.height).float(), torch.arange(lens.width).float())
    points = pose.world(rays * depth[..., None])
    u, v, z = lens.pixels(points)
    inside = (z > 0) & (u >= -0.5) & (u <= lens.width - 0.5) & (v >= -0.5) & (v <= lens.height - 0.5)
    first = cast(frame, torch.zeros_like(points), points).distance  # 1 where nothing is in between
    return (inside & (first > 0.999)).float()[None]


def cast(frame: int, origin: Tensor, ray: Tensor) -> Hit:
    """The first surface along each ray [..., 3] from its origin."""
    hits = [plane(origin, ray, 2, WALL), plane(origin, ray, 1, FLOOR), sphere(origin, ray, ball(frame))]
    hits += [box(origin, ray, torch.tensor(low), torch.tensor(high)) for low, high in BOXES]
    distances = torch.stack([hit.distance for hit in hits])
    nearest = distances.argmin(0)
    colours = torch.stack([hit.colour for hit in hits])
    chosen = colours.gather(0, nearest[None, ..., None].expand(1, *nearest.shape, 3))[0]
    return Hit(distances.amin(0), chosen)


def plane(origin: Tensor, ray: Tensor, axis: int, at: float) -> Hit:
    distance = (at - origin[..., axis]) / ray[..., axis]
    distance = torch.where(distance > 1e-4, distance, torch.inf)
    place = origin + ray * distance.nan_to_num(posinf=0)[..., None]
    return Hit(distance, texture(place, 2.0 + axis))


def sphere(origin: Tensor, ray: Tensor, centre: Tensor) -> Hit:
    offset = origin - centre
    a, b, c = (ray * ray).sum(-1), (ray * offset).sum(-1), (offset * offset).sum(-1) - RADIUS**2
    root = (b**2 - a * c).clamp_min(0).sqrt()
    distance = (-b - root) / a
    distance = torch.where((b**2 > a * c) & (distance > 1e-4), distance, torch.inf)
    return Hit(distance, texture(origin + ray * distance.nan_to_num(posinf=0)[..., None] - centre, 7.0))


def box(origin: Tensor, ray: Tensor, low: Tensor, high: Tensor) -> Hit:
    """By slabs: the ray is inside between its last entry and its first exit."""
    inverse = 1 / torch.where(ray.abs() < 1e-9, torch.full_like(ray, 1e-9), ray)
    a, b = (low - origin) * inverse, (high - origin) * inverse
    enter, leave = torch.minimum(a, b).amax(-1), torch.maximum(a, b).amin(-1)
    distance = torch.where((enter < leave) & (enter > 1e-4), enter, torch.inf)
    return Hit(distance, texture(origin + ray * distance.nan_to_num(posinf=0)[..., None], 5.0))


def texture(place: Tensor, pitch: float) -> Tensor:
    """A colour for each place [..., 3]: smooth waves, so that no camera has to antialias them."""
    x, y, z = place.unbind(-1)
    waves = [
        torch.sin(pitch * (x + 0.6 * y + 0.8 * z + shift)) * torch.cos(0.7 * pitch * (y - 0.5 * x + z))
        for shift in (0, 1, 2.1)
    ]
    return 0.8 * torch.stack(waves, -1)
