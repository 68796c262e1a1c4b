"""Missing pixels from their neighbours: a fixed weighted sum a pixel, planned once a mask, cheap every chunk."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

RADIUS = 6
"""how far a missing pixel looks for known ones, in pixels"""
NEIGHBOURS = 12
"""how many known pixels it takes at most"""
ROUGHNESS = 1.5
"""exponent of the prior variogram |x(p) - x(q)|^2 ~ |p - q|^ROUGHNESS; fitted on the training clips"""
NUGGET = 0.02
"""noise of the known pixels, in units of the variogram at one pixel"""
AT_ONCE = 8192
"""missing pixels that are planned at a time: all of a large picture at once would take gigabytes"""


@dataclass(frozen=True)
class Infill:
    """Fills the missing pixels of frames whose known pixels are given."""

    known: Tensor
    """[H, W] bool"""
    missing: Tensor
    """flat indices of the missing pixels near known ones, [N]"""
    neighbours: Tensor
    """flat indices of the known pixels each takes, int32 (most of a plan's memory), [N, K]"""
    weights: Tensor
    """[N, K]; rows sum to one"""
    row_neighbours: Tensor
    """the same from known pixels of the row alone, where it has any near"""
    row_weights: Tensor
    filled: Tensor
    """[H, W] bool: known, or near known ones"""
    complete: bool
    """all pixels are `filled`: told here, since asking a GPU would wait for it"""

    def __call__(self, y: Tensor) -> Tensor:
        """[T, 3, H, W] on the plan's device with the missing pixels filled; known ones are untouched."""
        return self._fill(y, self.neighbours, self.weights)

    def along_rows(self, y: Tensor) -> Tensor:
        """The same, but along rows where they hold a known pixel near."""
        return self._fill(y, self.row_neighbours, self.row_weights)

    def to(self, device: torch.device) -> Infill:
        """The plan on another device, where its frames are."""
        tensors = {part.name: getattr(self, part.name) for part in fields(self) if part.name != "complete"}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})

    def _fill(self, y: Tensor, neighbours: Tensor, weights: Tensor) -> Tensor:
        T, C, H, W = y.shape
        pixels = (y * self.known).reshape(T * C, H * W).T.contiguous()  # [H W, T C]
        sums = F.embedding_bag(neighbours, pixels, per_sample_weights=weights.to(y), mode="sum")
        pixels[self.missing] = sums
        x = pixels.T.contiguous().view(T, C, H, W)  # frame by frame: all that follows is a fifth faster
        return x if self.complete else push_pull(x, self.filled)


def plan_infill(known: Tensor) -> Infill:
    """The plan for a mask [H, W] of known pixels: local kriging (best linear unbiased prediction, Matheron 1963).

    Every missing pixel with at least four known ones within RADIUS takes its nearest NEIGHBOURS, weighted by ordinary
    kriging under a power variogram; holes that are larger are left to `push_pull`.
    """
    rows, columns = torch.nonzero(~known, as_tuple=True)
    near = offsets()
    pieces = zip(rows.split(AT_ONCE), columns.split(AT_ONCE), strict=True)
    planned = zip(*(plan_pixels(known, near, *piece) for piece in pieces), strict=True)
    missing, neighbours, weights, row_neighbours, row_weights = map(torch.cat, planned)
    filled = known.clone()
    filled.view(-1)[missing] = True
    complete = bool(filled.all())
    return Infill(known, missing, neighbours, weights, row_neighbours, row_weights, filled, complete)


def plan_pixels(known: Tensor, near: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, ...]:
    """`missing`, `neighbours`, `weights`, `row_neighbours` and `row_weights` of an Infill, for some missing pixels."""
    H, W = known.shape
    around_rows, around_columns = rows[:, None] + near[:, 0], columns[:, None] + near[:, 1]  # [N, M]
    inside = (around_rows >= 0) & (around_rows < H) & (around_columns >= 0) & (around_columns < W)
    usable = inside & known[around_rows.clamp(0, H - 1), around_columns.clamp(0, W - 1)]
    rank = torch.arange(len(near)).expand_as(usable) + len(near) * ~usable
    first = rank.topk(NEIGHBOURS, dim=1, largest=False, sorted=True).values  # [N, K]
    enough = usable.sum(1) >= 4
    rows, columns, first = rows[enough], columns[enough], first[enough]
    chosen = first % len(near)
    weights = kriging(near, chosen, first < len(near))
    chosen_rows = (rows[:, None] + near[chosen, 0]).clamp(0, H - 1)
    neighbours = chosen_rows * W + (columns[:, None] + near[chosen, 1]).clamp(0, W - 1)
    row_neighbours, row_weights = along_rows(known, rows, columns)
    alone = row_weights.sum(1, keepdim=True) == 0  # no known pixel near in the row
    row_neighbours = torch.where(alone, neighbours, F.pad(row_neighbours, (0, NEIGHBOURS - row_neighbours.shape[1])))
    row_weights = torch.where(alone, weights, F.pad(row_weights, (0, NEIGHBOURS - row_weights.shape[1])))
    return rows * W + columns, neighbours.int(), weights, row_neighbours.int(), row_weights


def along_rows(known: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Indices and weights [N, 4] of the known pixels at most two columns away; weights sum to one, or are all 0."""
    around = columns[:, None] + torch.tensor([-1, 1, -2, 2])
    inside = (around >= 0) & (around < known.shape[1])
    around = around.clamp(0, known.shape[1] - 1)
    usable = inside & known[rows[:, None], around]
    weights = torch.tensor([1.0, 1.0, 0.3, 0.3]) * usable
    return rows[:, None] * known.shape[1] + around, weights / weights.sum(1, keepdim=True).clamp_min(1e-6)


def offsets() -> Tensor:
    """All offsets within RADIUS but the centre, nearest first, [M, 2]."""
    line = torch.arange(-RADIUS, RADIUS + 1)
    grid = torch.cartesian_prod(line, line)
    distance = grid.square().sum(1)
    inside = (distance > 0) & (distance <= RADIUS**2)
    return grid[inside][distance[inside].argsort(stable=True)]


def kriging(near: Tensor, chosen: Tensor, valid: Tensor) -> Tensor:
    """Ordinary kriging weights [N, K] of the offsets near[chosen] around the origin; rows sum to one, invalid are 0."""
    N, K = chosen.shape
    at = near.double()
    from_origin = at.square().sum(-1) ** (ROUGHNESS / 2)  # [M]
    between = (at[:, None] - at).square().sum(-1) ** (ROUGHNESS / 2)  # [M, M]: the offsets repeat, so it is looked up
    between -= NUGGET * torch.eye(len(near), dtype=torch.float64)
    pairs = between.view(-1)[len(near) * chosen[:, :, None] + chosen[:, None]]  # [N, K, K]
    both = valid[:, :, None] & valid[:, None]
    system = torch.zeros(N, K + 1, K + 1, dtype=torch.float64)
    system[:, :K, :K] = torch.where(both, pairs, -1e3 * torch.eye(K, dtype=torch.float64))
    system[:, :K, K] = system[:, K, :K] = valid.double()
    right = torch.zeros(N, K + 1, 1, dtype=torch.float64)
    right[:, :K, 0] = torch.where(valid, from_origin[chosen], 0)
    right[:, K, 0] = 1
    weights: Tensor = torch.linalg.solve(system, right)[:, :K, 0].float()
    return weights * valid


def push_pull(x: Tensor, known: Tensor) -> Tensor:
    """Fills large holes from coarse to fine: each level's mean of known pixels, smoothly enlarged."""
    H, W = known.shape
    weight = known.to(x).expand(1, 1, H, W)
    if min(H, W) < 2:
        return x
    padding = (0, W % 2, 0, H % 2)
    share = F.avg_pool2d(F.pad(weight, padding), 2)
    coarse = F.avg_pool2d(F.pad(x * weight, padding), 2) / share.clamp_min(1e-6)
    coarse = push_pull(coarse, (share > 0)[0, 0])
    enlarged = F.interpolate(coarse, scale_factor=2, mode="bilinear")[..., :H, :W]
    return torch.where(weight > 0, x, enlarged)
