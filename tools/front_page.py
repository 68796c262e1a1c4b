"""Makes the front page's picture and its table: `python tools/front_page.py picture CLIP` and `... table CLIPS`.

The picture shows super-resolution on a real clip: the measurement on one side of a wipe, the restored frames on the
other. The table compares what one would take instead, on one and the same measurement.
"""

from __future__ import annotations

import argparse
from math import cos, pi
from pathlib import Path
from statistics import fmean, median

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from core.contract import Pixels, SolverConfig
from core.evaluation.clip_solvers import AvisClip, PlainClip
from core.evaluation.evaluate import variant_config
from core.evaluation.score import measured
from core.models.load import load
from core.operators.super_resolution import SuperResolution
from core.solver import Solver
from core.video import to_pixels
from server.commands.evaluate_clip import ClipRun, Task, load_bench
from server.files.inputs import read_clip

PICTURE = Path("docs/pictures/front.webp")
SIZE = (240, 416)
FRAMES = 45
MOST_BYTES = 2_000_000

FAITHFUL, SHARP = "AVIS Flash, `tiny`", "AVIS Flash, `tiny`, tier sharp"
ROWS: tuple[tuple[str, str, bool, str], ...] = (
    ("Lanczos", "baseline", False, "faithful"),
    ("SPAN + consistency", "span", True, "faithful"),
    ("SRMD + consistency", "srmd", True, "faithful"),
    (FAITHFUL, "flash", True, "faithful"),
    (SHARP, "flash", True, "sharp"),
)
"""words, method, output consistency, tier"""


def picture(args: argparse.Namespace) -> None:
    """An animated WebP of at most MOST_BYTES."""
    original = read_clip(args.clip, SIZE, FRAMES)
    operator, config = SuperResolution(), SolverConfig(tier=args.tier)
    operator.prepare(*SIZE)
    model = load("tiny")
    y = torch.cat([chunk.y for chunk in measured(original, operator, 0, model.device)])
    solver = Solver(model.codec, model.denoiser, model.num_steps)
    sides = [
        np.concatenate([to_pixels(part.x) for part in method.restore_clip(y, operator, 0, own)])
        for method, own in (
            (PlainClip("degraded"), variant_config("degraded", config, False)),
            (AvisClip(solver), config),
        )
    ]
    images = [wiped(a, b, place(number)) for number, (a, b) in enumerate(zip(*sides, strict=True))]
    for quality in (85, 70, 50):
        images[0].save(
            args.out, save_all=True, append_images=images[1:], duration=62, loop=0, quality=quality, method=3
        )
        if args.out.stat().st_size <= MOST_BYTES:
            break
    print(f"{args.out}: {len(images)} frames, {args.out.stat().st_size / 1e6:.2f} MB, quality {quality}")


def place(number: int) -> float:
    """Where the wipe stands in a frame, as a share of the width: once to and fro over the picture."""
    return 0.5 + 0.38 * cos(2 * pi * number / FRAMES)


def wiped(degraded: Pixels, restored: Pixels, at: float) -> Image.Image:
    """Two frames [H, W, 3] of one moment, 1.5 times as large, with a wipe between them and their names."""
    edge = round(at * degraded.shape[1])
    frame = np.concatenate([degraded[:, :edge], restored[:, edge:]], 1)
    image = Image.fromarray(frame).resize((frame.shape[1] * 3 // 2, frame.shape[0] * 3 // 2), Image.Resampling.BICUBIC)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(20)
    draw.line([(edge * 3 // 2, 0), (edge * 3 // 2, image.height)], fill="white", width=2)
    for words, x, anchor in (("camera", 12, "la"), ("restored", image.width - 12, "ra")):
        draw.text((x, 10), words, fill="white", anchor=anchor, font=font, stroke_width=2, stroke_fill="black")
    return image


def table(args: argparse.Namespace) -> None:
    """Means over the clips, as Markdown. The frames a second are those of this machine at this moment."""
    model = load("tiny")
    bench = load_bench(args, model, [method for _, method, _, _ in ROWS])
    bench.extras.lpips_vgg = None  # AlexNet at full size is what the table tells
    found: dict[str, list[dict[str, float]]] = {words: [] for words, *_ in ROWS}
    operator = SuperResolution(noise=args.noise)
    operator.prepare(*SIZE)
    for clip in args.clips:
        run = ClipRun(bench, clip.name, read_clip(clip, SIZE, args.frames))
        for words, method, consistent, tier in ROWS:
            config = variant_config(method, SolverConfig(tier=tier), consistent)
            row, _ = run.run(Task(operator, words, method, config))
            found[words].append(row)
            print(clip.stem, words, f"{row['psnr']:.2f}", flush=True)
    print(markdown(found))


def markdown(found: dict[str, list[dict[str, float]]]) -> str:
    """One line a method; LPIPS and VMAF only where they were computed."""
    columns = {"psnr": ".2f", "lpips_alex": ".3f", "vmaf": ".1f", "flicker": ".4f", "residual": ".4f", "fps": ".0f"}
    rows = {words: [{**row, "fps": row["frames"] / row["seconds"]} for row in own] for words, own in found.items()}
    if [row["psnr"] for row in rows[SHARP]] == [row["psnr"] for row in rows[FAITHFUL]]:
        del rows[SHARP]  # these weights have one tier
    kept = {key: digits for key, digits in columns.items() if all(key in row for own in rows.values() for row in own)}
    lines = ["| | " + " | ".join(kept) + " |", "|---|" + "--:|" * len(kept)]
    for words, own in rows.items():
        middle = {key: (median if key == "fps" else fmean)([row[key] for row in own]) for key in kept}
        lines.append(f"| {words} | " + " | ".join(format(middle[key], digits) for key, digits in kept.items()) + " |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    shown = commands.add_parser("picture")
    shown.add_argument("clip", type=Path)
    shown.add_argument("--out", type=Path, default=PICTURE)
    shown.add_argument("--tier", default="faithful")
    shown.set_defaults(run=picture)
    compared = commands.add_parser("table")
    compared.add_argument("clips", nargs="+", type=Path)
    compared.add_argument("--rival-weights", type=Path, required=True)
    compared.add_argument("--metric-weights", type=Path)
    compared.add_argument("--frames", type=int, default=33)
    compared.add_argument("--noise", type=float, default=0.01)
    compared.set_defaults(
        run=table, metrics=[], metric_every=4, through_mp4=False, no_vmaf=False, seed=0, external=None
    )
    args = parser.parse_args()
    if getattr(args, "metric_weights", None):
        args.metrics = ["lpips"]
    return args


if __name__ == "__main__":
    args = arguments()
    args.run(args)
