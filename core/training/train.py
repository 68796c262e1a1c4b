"""How the tiny model is made: `avis train`. Without footage it learns from procedural scenes.

The run resumes from its folder. Two runs that name each other as `--peer` share what they learn: now and then each
goes half the way to the other's weights.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor

from core.chunks import ChunkSpec
from core.contract import SolverConfig
from core.evaluation.lpips import LPIPS, Net
from core.evaluation.metrics import psnr
from core.json_report import check_json, write_json
from core.model_settings import TinySettings
from core.models.tiny.codec import TinyCodec
from core.models.tiny.denoiser import TinyDenoiser
from core.models.tiny.load import build, load, save
from core.operators.prox import prox_l2
from core.operators.table import PAPER_OPERATORS
from core.solver import Solver, remember
from core.training.data import halve, load_library, read_clip
from core.training.trainer import Sharp, Trainer, TrainerState
from core.video import from_pixels

FLASH = SolverConfig(num_steps=1, reinject_every=0)
REPORT = 120
"""seconds between two rows of the curve"""
VALIDATE = 600
"""seconds between two rows with a validation"""
MEET = 60
"""steps between two meetings with the peer"""
NETS: tuple[Net, ...] = ("alex", "vgg")
STALE = 600
"""seconds after which a peer's weights are too old to go towards"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--videos", type=Path, nargs="*", default=[], help="folders of training clips")
    parser.add_argument("--photos", type=Path, nargs="*", default=[], help="folders of photographs")
    parser.add_argument("--validate", type=Path, help="folder of clips at twice 416x240, never trained on")
    parser.add_argument("--run", type=Path, default=Path("runs/tiny"), help="checkpoints and curve")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="decoded clips and photographs")
    parser.add_argument("--shipped", action="store_true", help="start from the package's weights, not from scratch")
    parser.add_argument("--peer", type=Path, help="folder of another run to share weights with")
    parser.add_argument(
        "--sharp", type=Path, metavar="FOLDER", help="train the sharp tier, too, with the perceptual weights in FOLDER"
    )
    parser.add_argument("--sharp-weight", type=float, default=2.5, help="of the perceptual distance beside the error")
    parser.add_argument(
        "--sharp-evenness", type=float, default=1.5, help="weight against edges between blocks of 4 pixels"
    )
    parser.add_argument("--sharp-share", type=float, default=0.4, help="share of the streams that train that tier")
    parser.add_argument("--minutes", type=float, default=120, help="length of the whole run, resumes included")
    parser.add_argument("--hold", type=float, default=0.3, help="share of the run before the rate begins to fall")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--size", type=int, default=96, help="crop size in pixels, a multiple of 16")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", metavar="FILE", help="write the last row of the curve as JSON; - is standard output")


def run(args: argparse.Namespace) -> int:
    check_json(args.json)
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(1)
    torch.manual_seed(args.seed)
    return Run(args).until_done()


class Run:
    """The folder of one training run, its schedule and its reports."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.folder = args, args.run
        self.folder.mkdir(parents=True, exist_ok=True)
        self.say = partial(print, file=sys.stderr if args.json == "-" else sys.stdout, flush=True)
        library = load_library(args.videos, args.photos, args.cache, args.seed, self.say)
        (codec, net), (_, ema) = (self._weights() for _ in range(2))
        net.requires_grad_(True)
        sharp = (
            Sharp(perceptual(args.sharp), args.sharp_weight, args.sharp_share, args.sharp_evenness)
            if args.sharp
            else None
        )
        self.trainer = Trainer(codec, net, ema, library, args.batch, args.seed, sharp)
        self.minutes = self._resume()
        self.validation = load_validation(args.validate) if args.validate else {}

    def _weights(self) -> tuple[TinyCodec, TinyDenoiser]:
        if self.args.shipped:
            return load("pretrained", torch.device("cpu"), config=TinySettings(backend="float32"))
        return build(seed=self.args.seed)

    def until_done(self) -> int:
        started, reported, validated = time.monotonic(), time.monotonic(), time.monotonic()
        first, losses = self.trainer.step_count, []
        while True:
            minutes = self.minutes + (time.monotonic() - started) / 60
            rate = scheduled(minutes / self.args.minutes, self.args.hold, self.args.rate)
            warm = min(1.0, (self.trainer.step_count - first + 1) / 100)
            losses.append(self.trainer.step(rate * warm, self.args.size))
            if self.args.peer and self.trainer.step_count % MEET == 0:
                self.meet()
            done, now = minutes >= self.args.minutes, time.monotonic()
            if done or now - reported > REPORT:
                row = self.row(minutes, losses, done or now - validated > VALIDATE)
                validated = now if "validation" in row else validated
                reported, losses = now, []
                self.keep(row, minutes)
            if done:
                return self.finish(row)

    def row(self, minutes: float, losses: list[float], validating: bool) -> dict[str, Any]:
        gains, self.trainer.gains = self.trainer.gains, {}
        row: dict[str, Any] = {
            "step": self.trainer.step_count,
            "minutes": round(minutes, 1),
            "loss": round(sum(losses) / len(losses), 3),
            "gain": {kind: round(sum(g) / len(g), 2) for kind, g in sorted(gains.items())},
        }
        if self.validation and validating:
            row["validation"] = validate(self.trainer, self.validation)
        return row

    def keep(self, row: dict[str, Any], minutes: float) -> None:
        """Adds the row to the curve and replaces the checkpoint."""
        self.say(json.dumps(row))
        with (self.folder / "curve.jsonl").open("a") as curve:
            curve.write(json.dumps(row) + "\n")
        replace_file({"minutes": minutes, **vars(self.trainer.state())}, self.folder / "last.pt")

    def meet(self) -> None:
        """Leaves the weights for the peer, and goes half the way towards the peer's."""
        net = self.trainer.net.state_dict()
        replace_file(net, self.folder / "net.pt")
        theirs = self.args.peer / "net.pt"
        if theirs.exists() and time.time() - theirs.stat().st_mtime < STALE:
            other = torch.load(theirs, weights_only=True)
            with torch.no_grad():
                for name, value in net.items():
                    value.lerp_(other[name], 0.5)

    def finish(self, row: dict[str, Any]) -> int:
        weights = self.folder / "tiny.npz"
        if not self.args.sharp:  # its layers no longer fit what the tiers share, which has moved on
            self.trainer.ema.drop_sharp_tier()
        save(self.trainer.codec, self.trainer.ema, weights)
        self.say(f"weights: {weights}; the package's are core/weights/tiny.npz")
        write_json({**row, "weights": str(weights)}, self.args.json)
        return 0

    def _resume(self) -> float:
        """Minutes trained so far."""
        last = self.folder / "last.pt"
        if not last.exists():
            return 0.0
        kept: dict[str, Any] = torch.load(last, weights_only=True)
        minutes: float = kept.pop("minutes")
        self.trainer.resume(TrainerState(**kept))
        return minutes


def perceptual(folder: Path) -> Callable[[Tensor, Tensor], Tensor]:
    """The mean of LPIPS with AlexNet and with VGG16, in bfloat16. Raises UsageError when `folder` lacks the weights.

    VGG16 costs fifteen times as much as AlexNet, so it looks at half of the frames.
    """
    alex, vgg = (LPIPS.load(net, folder, torch.bfloat16) for net in NETS)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        few = slice(-(-len(a) // 2))
        return (alex.distances(a, b).mean() + vgg.distances(a[few], b[few]).mean()) / 2

    return distance


def scheduled(progress: float, hold: float, peak: float) -> float:
    """The rate at `progress` in [0, 1]: the peak up to `hold`, then a cosine down to a fiftieth."""
    fallen = min(1.0, max(0.0, (progress - hold) / (1 - hold))) if hold < 1 else 0.0
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * fallen)))


def replace_file(content: dict[str, Any], path: Path) -> None:
    """Writes beside and renames, so that a reader never sees half of it."""
    torch.save(content, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


@torch.inference_mode()
def validate(trainer: Trainer, clips: dict[str, Tensor]) -> dict[str, list[float]]:
    """Per operator, PSNR of a consistent x_init and of AVIS Flash with output consistency, mean over clips.

    Four numbers: over all chunks, then over those from the fourth on, where a stream that drifts has drifted.
    """
    solver = Solver(trainer.codec, trainer.ema)
    rows: dict[str, list[float]] = {}
    for op in PAPER_OPERATORS:
        scores = []
        for x in clips.values():
            y = op.measure(x, None, torch.Generator().manual_seed(0))
            state, past, pairs = solver.new_state(op, *x.shape[-2:]), None, []
            lengths = ChunkSpec().split(len(x))
            for y_chunk, x_chunk in zip(y.split(lengths), x.split(lengths), strict=True):
                restored, state = solver.restore(y_chunk, state, FLASH)
                reference = prox_l2(op, restored.x_init, y_chunk, past, FLASH.output_gamma, 5).clamp(-1, 1)
                past = remember(past, reference, op.reach)
                pairs.append([psnr(reference, x_chunk), psnr(restored.x, x_chunk)])
            scores.append(torch.tensor(pairs))
        whole, settled = torch.stack([s.mean(0) for s in scores]), torch.stack([s[3:].mean(0) for s in scores])
        rows[op.kind] = [round(v, 2) for v in (*whole.mean(0).tolist(), *settled.mean(0).tolist())]
    return rows


def load_validation(folder: Path) -> dict[str, Tensor]:
    """The first 69 frames, six chunks, of every third clip (of all, where there are two), at half size."""
    paths = sorted(folder.glob("*.mp4"))
    return {path.stem: from_pixels(halve(read_clip(path)[:69])) for path in paths[2::3] or paths}
