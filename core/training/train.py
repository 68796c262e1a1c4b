"""How the tiny model is made: `avis train`. Without footage it learns from procedural scenes.

Each step restores one chunk a sample, of all tasks mixed, after a prefix chunk: first a blend of the prefix's
x_init and its truth, later the network's own output. The loss is taken after output consistency, where the
product's frames are.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.chunks import ChunkSpec
from core.contract import SolverConfig
from core.evaluation.metrics import psnr
from core.json_report import check_json, write_json
from core.models.tiny.codec import TinyCodec
from core.models.tiny.denoiser import TASKS, Look, TinyCache, TinyDenoiser, blind, slots, surroundings
from core.models.tiny.load import save
from core.operators.averages import SpatioTemporalAverage, TemporalAverage
from core.operators.base import LinearOperator
from core.operators.blur import GaussianBlur
from core.operators.lost import without
from core.operators.masks import Inpainting
from core.operators.prox import least_squares, prox_l2
from core.operators.super_resolution import SuperResolution
from core.operators.table import PAPER_OPERATORS
from core.solver import Solver, remember
from core.training.data import Clips, halve, load_groups, read_clip
from core.video import from_pixels

MARGIN = 16
"""pixels around a blurred crop that only its operator sees: borders are a small part of a real frame"""
MIX = {
    "super_resolution": 0.24,
    "inpainting": 0.26,
    "gaussian_blur": 0.16,
    "temporal_average": 0.18,
    "spatio_temporal_average": 0.16,
}
"""share of each task; those that learn slowly have more"""
SHORT = 0.55
"""share of the training that is spent on chunks of one latent: more different pictures for the same time"""
OWN = 0.9
"""share of the later prefixes that the network restored itself; blends tell more of the truth than any stream will"""
FLASH = SolverConfig(num_steps=1, reinject_every=0)
GAMMA = FLASH.output_gamma
TRUST = (0.05, 0.5)
"""how much nearer to the truth than their x_init the frames of a prefix are"""
LOSS = 0.12
"""share of the chunks in which frames are lost on the way"""


@dataclass
class Sample:
    """One chunk to restore, and what is known of it; all frames [T, 3, H, W]."""

    operator: LinearOperator
    x: Tensor
    y: Tensor
    x_init: Tensor
    hint: Tensor
    y_past: Tensor | None = None
    """the measurement before the chunk"""
    prefix: Tensor | None = None
    """the frames before: the true ones, a blend of their x_init and the truth, or what the network made of them"""
    prefix_sample: Sample | None = None
    """the frames before, to be restored by the network itself"""

    @property
    def past(self) -> Tensor | None:
        """The restored frames before the chunk that A mixes in."""
        return self.prefix[-self.operator.reach :] if self.operator.reach and self.prefix is not None else None

    def follow(self, prefix: Tensor) -> None:
        """Lets the chunk follow the restored frames `prefix`, which some operators' x_init looks at."""
        self.prefix = prefix
        if self.operator.recall:
            x_past = prefix[-self.operator.recall :]
            self.x_init = least_squares(self.operator, self.y, self.y_past, FLASH.init_steps, x_past)


def draw_operator(rng: random.Random) -> LinearOperator:
    kind = rng.choices(list(MIX), list(MIX.values()))[0]
    noise = 0.01 if rng.random() < 0.85 else rng.uniform(0.005, 0.03)
    if kind == "inpainting":
        return Inpainting(seed=rng.randrange(12), noise=noise)
    if kind == "gaussian_blur":
        return GaussianBlur(noise=noise)
    table = {
        "super_resolution": SuperResolution(noise=noise),
        "temporal_average": TemporalAverage(noise=noise),
        "spatio_temporal_average": SpatioTemporalAverage(noise=noise),
    }
    return table[kind]


def draw_sample(clips: Clips, size: int, latents: int, opening: bool, rng: random.Random) -> Sample:
    """A chunk of `latents` at the start of a stream, or later, after a prefix of as many."""
    op = draw_operator(rng)
    side = size + (2 * MARGIN if op.norm == 1 and isinstance(op, GaussianBlur) else 0)
    frames = 4 * latents - (3 if opening else 0)
    history = 0 if opening else rng.choice([9, 33]) if op.lookback else 4 * latents
    x = clips.draw(history + frames, side, side)
    y = op.measure(x, None, torch.Generator().manual_seed(rng.randrange(1 << 40)))
    sample = _chunk(op, x, y, history, frames, draw_lost(frames, rng))
    if not opening:
        length = min(history, max(4 * latents, op.recall))
        sample.prefix_sample = before = _chunk(op, x, y, history - length, length)
        sample.follow(before.x_init + rng.uniform(*TRUST) * (before.x - before.x_init))
    return crop(sample, side - size)


def draw_lost(frames: int, rng: random.Random) -> tuple[int, ...]:
    """Most often none; else one burst of up to a third of the chunk, never its first frame."""
    if frames < 4 or rng.random() >= LOSS:
        return ()
    length = rng.randint(1, frames // 3)
    start = rng.randint(1, frames - length)
    return tuple(range(start, start + length))


def _chunk(base: LinearOperator, x: Tensor, y: Tensor, start: int, frames: int, lost: tuple[int, ...] = ()) -> Sample:
    op, here = without(base, lost), slice(start, start + frames)
    y_past = y[max(0, start - max(1, op.lookback)) : start] if start else None
    completed = op.completed(y[here], y_past)
    prefix = x[max(0, start - op.recall) : start] if op.recall and start else None
    x_init = least_squares(op, completed, y_past, FLASH.init_steps)
    return Sample(op, x[here], completed, x_init, op.hint(completed), y_past, prefix)


def crop(sample: Sample, margin: int) -> Sample:
    """Without the margin; only samples whose measurement has the picture's size have one."""
    if margin == 0:
        return sample
    inner = slice(margin // 2, -(margin // 2))

    def cut(frames: Tensor | None) -> Tensor | None:
        return None if frames is None else frames[..., inner, inner]

    for name in ("x", "y", "x_init", "hint", "prefix"):
        setattr(sample, name, cut(getattr(sample, name)))
    if sample.prefix_sample is not None:
        crop(sample.prefix_sample, margin)
    return sample


def look_at(samples: list[Sample], codec: TinyCodec, t: float, hidden: bool) -> Look:
    """The network's input for a batch; `hidden` leaves nothing but the noisy latents."""
    base = torch.stack([slots(s.x_init) for s in samples])
    z = codec.transform(base)
    noisy = codec.inverse((1 - t) * z + t * torch.randn_like(z)) / (1 - t)
    if hidden:
        return blind(noisy)
    hint = torch.stack([slots(s.hint) for s in samples])
    moved, masks = [], []
    for s in samples:
        around, mask = surroundings(s.x_init, s.operator.reliability(len(s.y), *base.shape[-2:]))
        moved.append(around)
        masks.append(mask.expand(base.shape[1], -1, -1, -1))
    task = torch.tensor([TASKS.index(s.operator.kind) for s in samples])
    return Look(base, hint, noisy, torch.stack(moved), torch.stack(masks), task)


def consistent(x: Tensor, sample: Sample) -> Tensor:
    """After output consistency; a blurred crop is left as it is, its measurement reaches beyond it."""
    if sample.operator.kind == "gaussian_blur":
        return x
    return prox_l2(sample.operator, x, sample.y, sample.past, GAMMA, 5)


def restore(
    net: nn.Module, codec: TinyCodec, samples: list[Sample], t: float, hidden: bool, cache: TinyCache
) -> Tensor:
    restored: Tensor = net.restore(look_at(samples, codec, t, hidden), torch.full((len(samples),), t), cache)
    if len(samples[0].x) % 4:
        restored = torch.cat([restored[:, :4].mean(1, keepdim=True), restored[:, 4:]], 1)
    return torch.stack([consistent(x, s) for x, s in zip(restored, samples, strict=True)])


def remember_prefix(net: TinyDenoiser, codec: TinyCodec, samples: list[Sample], own: bool, t: float) -> TinyCache:
    """The cache after the prefix chunks; with `own` they are what the network makes of them."""
    start = TinyCache(0)
    if own:
        with torch.no_grad():
            befores = [s.prefix_sample for s in samples]
            for s, b in zip(samples, befores, strict=True):
                assert b is not None
                s.follow(restore(net, codec, [b], t, False, start)[0].clamp(-1, 1))
    prefix = torch.stack([slots(s.prefix[-len(s.x) :]) for s in samples if s.prefix is not None])
    return net.remember(codec.transform(prefix), start)


def loss_of(restored: Tensor, samples: list[Sample]) -> tuple[Tensor, list[float]]:
    """Relative Charbonnier plus log mean square, and the gain over a consistent x_init in dB."""
    total, gains = restored.new_zeros(()), []
    for x, s in zip(restored, samples, strict=True):
        reference = consistent(s.x_init, s).clamp(-1, 1)
        error = x - s.x
        charbonnier = (error.square() + 1e-4).sqrt().mean()
        scale = ((reference - s.x).square() + 1e-4).sqrt().mean() - 0.01
        squares = error.square().mean((1, 2, 3))
        total = total + (charbonnier - 0.01) / (scale + 0.005) + 0.5 * torch.log(squares + 2e-5).mean()
        gains.append(psnr(x.detach().clamp(-1, 1), s.x) - psnr(reference, s.x))
    return total / len(samples), gains


@torch.no_grad()
def fit_scale(codec: TinyCodec, clips: Clips) -> None:
    """Half-whitening: the square root of each coefficient's standard deviation, latents of mean variance one."""
    z = torch.cat([codec.transform(clips.draw(8, 128, 128)) for _ in range(150)])
    std = z.permute(1, 0, 2, 3).flatten(1).std(1).clamp_min(1e-4)
    codec.scale.copy_(std.sqrt() * std.mean().sqrt())


@torch.inference_mode()
def validate(net: TinyDenoiser, codec: TinyCodec, clips: dict[str, Tensor]) -> dict[str, list[float]]:
    """Per operator, PSNR of a consistent x_init and of AVIS Flash with output consistency, mean over clips.

    Four numbers: over all chunks, then over those from the fourth on, where a stream that drifts has drifted.
    """
    solver = Solver(codec, net)
    rows: dict[str, list[float]] = {}
    for op in PAPER_OPERATORS:
        scores = []
        for x in clips.values():
            y = op.measure(x, None, torch.Generator().manual_seed(0))
            state, past, pairs = solver.new_state(op, *x.shape[-2:]), None, []
            lengths = ChunkSpec().split(len(x))
            for y_chunk, x_chunk in zip(y.split(lengths), x.split(lengths), strict=True):
                restored, state = solver.restore(y_chunk, state, FLASH)
                reference = prox_l2(op, restored.x_init, y_chunk, past, GAMMA, 5).clamp(-1, 1)
                past = remember(past, reference, op.reach)
                pairs.append([psnr(reference, x_chunk), psnr(restored.x, x_chunk)])
            scores.append(torch.tensor(pairs))
        whole, settled = torch.stack([s.mean(0) for s in scores]), torch.stack([s[3:].mean(0) for s in scores])
        rows[op.kind] = [round(v, 2) for v in (*whole.mean(0).tolist(), *settled.mean(0).tolist())]
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--videos", type=Path, help="folder of training clips; procedural scenes without it")
    parser.add_argument("--photos", type=Path, help="folder of photographs, panned over")
    parser.add_argument("--validate", type=Path, help="folder of clips at twice 416x240, never trained on")
    parser.add_argument("--run", type=Path, default=Path("runs/tiny"), help="checkpoints, curve and cached clips")
    parser.add_argument("--minutes", type=float, default=120, help="length of the whole run, resumes included")
    parser.add_argument("--size", type=int, default=96, help="crop size in pixels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", metavar="FILE", help="write the last row of the curve as JSON; - is standard output")


def run(args: argparse.Namespace) -> int:
    check_json(args.json)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    say = partial(print, file=sys.stderr if args.json == "-" else sys.stdout, flush=True)
    rng = random.Random(args.seed)
    args.run.mkdir(parents=True, exist_ok=True)
    clips = Clips(load_groups(args.videos, args.photos, args.run.parent / "cache"), args.seed)
    codec = TinyCodec()
    net, ema = TinyDenoiser(codec), TinyDenoiser(codec)
    optimiser = torch.optim.AdamW(net.parameters(), lr=args.rate, betas=(0.9, 0.98), weight_decay=1e-4)
    trained, step = 0.0, 0
    last = args.run / "last.pt"
    if last.exists():
        kept: dict[str, Any] = torch.load(last, weights_only=True)
        net.load_state_dict(kept["net"])
        ema.load_state_dict(kept["ema"])
        codec.load_state_dict(kept["codec"])
        optimiser.load_state_dict(kept["optimiser"])
        trained, step = kept["minutes"], kept["step"]
        rng.seed(args.seed + step)
        clips.rng.seed(args.seed + step)
    else:
        fit_scale(codec, clips)
        ema.load_state_dict(net.state_dict())
    validation = load_validation(args.validate) if args.validate else {}
    started, reported = time.monotonic(), -1.0
    sums: dict[str, list[float]] = {}
    while True:
        minutes = trained + (time.monotonic() - started) / 60
        progress = min(1.0, minutes / args.minutes)
        for group in optimiser.param_groups:
            warm = min(1.0, (step + 1) / 100)
            group["lr"] = args.rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        opening, hidden = rng.random() < 0.12, rng.random() < 0.08
        short = not opening and rng.random() < (0.9 if progress < SHORT else 0.3)
        own = not opening and progress > SHORT and rng.random() < OWN
        latents, count = (1, args.batch) if short else (3, max(1, args.batch // 2))
        t = rng.uniform(0.0, 0.12)
        with torch.no_grad():
            samples = [draw_sample(clips, args.size, latents, opening, rng) for _ in range(count)]
        cache = TinyCache(0) if opening else remember_prefix(net, codec, samples, own, t)
        loss, gains = loss_of(restore(net, codec, samples, t, hidden, cache), samples)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimiser.step()
        step += 1
        decay = min(0.997, step / (step + 20))
        with torch.no_grad():
            for kept_parameter, parameter in zip(ema.parameters(), net.parameters(), strict=True):
                kept_parameter.lerp_(parameter, 1 - decay)
        if not hidden:
            for s, gain in zip(samples, gains, strict=True):
                sums.setdefault(s.operator.kind, []).append(gain)
        if minutes - reported > 2 or progress == 1:
            row: dict[str, Any] = {"step": step, "minutes": round(minutes, 1), "loss": round(loss.item(), 3)}
            row["gain"] = {kind: round(sum(g) / len(g), 2) for kind, g in sorted(sums.items())}
            if validation and (int(minutes / 10) != int(reported / 10) or progress == 1):
                row["validation"] = validate(ema, codec, validation)
            reported, sums = minutes, {}
            with (args.run / "curve.jsonl").open("a") as curve:
                curve.write(json.dumps(row) + "\n")
            say(json.dumps(row))
            state = {"net": net.state_dict(), "ema": ema.state_dict(), "codec": codec.state_dict(),
                     "optimiser": optimiser.state_dict(), "minutes": minutes, "step": step}  # fmt: skip
            torch.save(state, last.with_suffix(".new"))
            last.with_suffix(".new").replace(last)
        if progress == 1:
            save(codec, ema, args.run / "tiny.npz")
            say(f"weights: {args.run / 'tiny.npz'}; the package's are core/weights/tiny.npz")
            write_json({**row, "weights": str(args.run / "tiny.npz")}, args.json)
            return 0


def load_validation(folder: Path) -> dict[str, Tensor]:
    """The first 69 frames, six chunks, of every third clip (of all, where there are two), at half size."""
    paths = sorted(folder.glob("*.mp4"))
    return {path.stem: from_pixels(halve(read_clip(path)[:69])) for path in paths[2::3] or paths}
