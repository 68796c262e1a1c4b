"""Makes the pictures of docs/concepts.md: `python tools/docs_pictures.py CLIP`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from core.chunks import ChunkSpec
from core.contract import Pixels, Rung, SolverConfig, Tier
from core.models.load import load
from core.operators.base import LinearOperator
from core.operators.super_resolution import SuperResolution
from core.solver import Restored, Solver
from core.video import from_pixels, to_pixels
from server.files.inputs import read_clip

FOLDER = Path("docs/pictures")
SIZE = (240, 416)
SHOWN = (slice(24, 204), slice(72, 332))
"""rows and columns of the part that is shown"""
FRAMES = 21
FPS = 16

Cell = tuple[str, Pixels]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--frames", type=int, default=FRAMES, help=f"9 or {FRAMES}: one chunk or two")
    args = parser.parse_args()
    x = from_pixels(read_clip(args.clip, SIZE, args.frames))
    model = load("tiny")
    solver = Solver(model.codec, model.denoiser, model.num_steps)
    small = SuperResolution()
    y, found = restored(solver, small, x)
    save(
        "operators.jpg",
        [[("scene x", frame(x)), ("measurement y", frame(small.show(y))), ("restored", frame(found.x))]],
    )
    save("residual.jpg", [[("restored", frame(found.x)), ("|y - A(x)|, 20 times", differences(small, found, y))]])
    rungs: list[Cell] = [
        ("passthrough", frame(small.show(y))),
        ("x_init", frame(found.x_init)),
        ("full", frame(found.x)),
    ]
    save("rungs.jpg", [rungs])
    sharp = restored(solver, small, x, tier="sharp")[1]
    save("tiers.jpg", [[("faithful", frame(found.x)), ("sharp", frame(sharp.x)), ("scene x", frame(x))]])
    draw_chunks(FOLDER / "chunks.png")


def restored(
    solver: Solver, operator: LinearOperator, x: torch.Tensor, rung: Rung = "full", tier: Tier = "faithful"
) -> tuple[torch.Tensor, Restored]:
    """The last chunk of the clip: its measurement and what is restored of it."""
    operator.prepare(*SIZE)
    y = operator.measure(x, None, torch.Generator().manual_seed(0))
    state, found = solver.new_state(operator, *SIZE), None
    for part in y.split(ChunkSpec().split(len(y))):
        found, state = solver.restore(part, state, SolverConfig(tier=tier), rung)
    assert found is not None
    return part, found


def frame(x: torch.Tensor) -> Pixels:
    """The shown part of the last frame but three, [h, w, 3]."""
    return to_pixels(x[-4:-3])[0][SHOWN]


def differences(operator: LinearOperator, found: Restored, y: torch.Tensor) -> Pixels:
    """Where the restored frames, measured again, differ from y, in grey."""
    apart = (y - operator.A(found.x)).abs().mean(1, keepdim=True).expand(-1, 3, -1, -1)
    return frame(operator.show(20 * apart - 1).clamp(-1, 1))


def save(name: str, rows: Sequence[Sequence[Cell]]) -> None:
    """Rows of pictures at twice their size, each under its name."""
    height, width = (2 * side for side in rows[0][0][1].shape[:2])
    sheet = Image.new("RGB", (len(rows[0]) * (width + 8) - 8, len(rows) * (height + 8) - 8), "white")
    font = ImageFont.load_default(22)
    for down, cells in enumerate(rows):
        for across, (words, pixels) in enumerate(cells):
            image = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
            pen = ImageDraw.Draw(image)
            pen.text((10, 8), words, fill="white", font=font, stroke_width=2, stroke_fill="black")
            sheet.paste(image, (across * (width + 8), down * (height + 8)))
    sheet.thumbnail((1200, 4000))
    sheet.save(FOLDER / name, quality=82)


def draw_chunks(path: Path) -> None:
    """When the frames of three chunks come in, and when they are shown."""
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    axes = figure.subplots()
    start, busy = 0.0, 0.28
    delay = ChunkSpec().frames(1) / FPS + busy + 0.1  # the longest wait of a frame: playout keeps one for all
    for index, colour in enumerate(("#4477aa", "#228833", "#ee6677")):
        frames = ChunkSpec().frames(index)
        ends = start + frames / FPS
        for number in range(frames):
            for line, at in ((2, start), (0, start + delay)):
                axes.broken_barh([(at + number / FPS, 0.85 / FPS)], (line, 0.7), color=colour)
        axes.broken_barh([(ends, busy)], (1, 0.7), color=colour, alpha=0.6)
        axes.text(ends + busy / 2, 1.35, f"chunk {index}", ha="center", va="center", fontsize=8)
        start = ends
    axes.set_yticks([2.35, 1.35, 0.35], ["frames come in", "restored", "frames are shown"])
    axes.set_xlabel("seconds at 16 frames a second")
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
