"""A pinhole camera that moves round a point of the scene. x to the right, y down, z forward; angles in degrees.

The source camera stands at the origin and looks along z. Pure geometry: knows no picture and no file.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, radians, sin, tan

import numpy as np
import torch
from torch import Tensor

NEAR = 1e-3
"""points less than this before the camera are not seen"""

TRAJECTORIES: dict[str, tuple[float, float, float]] = {"orbit-left": (0.0, 30.0, 0.0), "orbit-down": (20.0, 0.0, 0.0)}
"""where the camera is in the last frame: theta (down), phi (to the left), and r (forward, of the pivot's distance)"""


@dataclass(frozen=True)
class Lens:
    """Intrinsics: focal length in pixels, and the size of the picture."""

    focal: float
    height: int
    width: int

    @staticmethod
    def of(fov: float, height: int, width: int) -> Lens:
        """From a horizontal field of view."""
        return Lens(width / (2 * tan(radians(fov) / 2)), height, width)

    def rays(self, rows: Tensor, columns: Tensor) -> Tensor:
        """K^-1 (u, v, 1) of the pixels at `rows` [h] and `columns` [w], [h, w, 3]."""
        x = (columns - (self.width - 1) / 2) / self.focal
        y = (rows - (self.height - 1) / 2) / self.focal
        down, across = torch.meshgrid(y, x, indexing="ij")
        return torch.stack([across, down, torch.ones_like(across)], -1)

    def pixels(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Column, row and depth of points [..., 3] in the camera's own coordinates."""
        z = points[..., 2]
        scale = self.focal / z.clamp_min(NEAR)
        return points[..., 0] * scale + (self.width - 1) / 2, points[..., 1] * scale + (self.height - 1) / 2, z


@dataclass(frozen=True)
class Pose:
    """Where a camera stands and looks: X' = R^T (X - C)."""

    rotation: Tensor
    """R [3, 3]: its axes in the source camera's coordinates, as columns"""
    centre: Tensor
    """C [3]"""

    @staticmethod
    def orbit(theta: float, phi: float, r: float, distance: float) -> Pose:
        """Turned about the pivot `distance` ahead: `phi` moves it to the left, `theta` down; then `r` forward."""
        a, b = radians(phi), radians(theta)
        about_y = torch.tensor([[cos(a), 0, sin(a)], [0, 1, 0], [-sin(a), 0, cos(a)]])
        about_x = torch.tensor([[1, 0, 0], [0, cos(b), -sin(b)], [0, sin(b), cos(b)]])
        rotation = about_y @ about_x
        ahead = rotation @ torch.tensor([0.0, 0.0, distance])
        return Pose(rotation, torch.tensor([0.0, 0.0, distance]) - ahead + r * ahead)

    def seen(self, points: Tensor) -> Tensor:
        """World points [..., 3] in this camera's coordinates."""
        return (points - self.centre) @ self.rotation

    def world(self, points: Tensor) -> Tensor:
        """The inverse of `seen`."""
        return points @ self.rotation.T + self.centre


def trajectory(stops: list[tuple[float, float, float]], frames: int, distance: float) -> list[Pose]:
    """A pose for each frame, linear between the `stops` (theta, phi, r), which are spread evenly over the clip."""
    at = np.linspace(0, len(stops) - 1, frames) if frames > 1 else np.zeros(1)
    values = [np.interp(at, np.arange(len(stops)), np.array(stops)[:, axis]) for axis in range(3)]
    return [Pose.orbit(theta, phi, r, distance) for theta, phi, r in zip(*(v.tolist() for v in values), strict=True)]


def named_stops(name: str) -> list[tuple[float, float, float]]:
    """A trajectory of TRAJECTORIES, from the source camera on."""
    return [(0.0, 0.0, 0.0), TRAJECTORIES[name]]


def pivot_distance(depth: Tensor) -> float:
    """The median depth of the middle of a frame [H, W]: an eighth of its pixels."""
    height, width = depth.shape
    side = 8**-0.5
    top, left = round(height * (1 - side) / 2), round(width * (1 - side) / 2)
    return float(depth[top : height - top, left : width - left].median())
