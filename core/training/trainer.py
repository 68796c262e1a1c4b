"""One training step and what is kept between steps. The schedule, files and reports are `train.py`'s.

A step restores one or two chunks of a batch of streams, with the network's own output as the past, and sends one
gradient back through them. The streams go on in the next step, so that the network sees states of
any age; now and then all start anew. Convolutions run in bfloat16 on copies of the weights, which are kept in float32.

With a perceptual distance, some streams train the layers of the sharp tier, and those alone: what both tiers share
learns from the faithful one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from core.contract import Tier
from core.models.tiny.codec import TinyCodec
from core.models.tiny.denoiser import FLOAT32, Look, TinyCache, TinyDenoiser, blind, slots, surroundings, task_of
from core.training.data import Library
from core.training.losses import blockiness, lattice, loss_of, shifted
from core.training.streams import Sample, Stream, draw_lost, draw_stream

RESTART = 0.2
"""probability that a step begins with new streams"""
LENGTHS = ((3, 1, 0.55), (2, 1, 0.15), (1, 2, 0.30))
"""latents a chunk, chunks a step, and how often"""
BLIND = 0.04
"""share of the steps in which the network sees the noisy latents alone: the paper's zero-shot form"""
CLIP = 0.5
"""largest norm of a gradient"""

SHARP_PREFIX = "net.sharp_"
"""of the names of what the sharp tier has for itself"""


@dataclass(frozen=True)
class Sharp:
    """How the sharp tier is trained."""

    distance: Callable[[Tensor, Tensor], Tensor]
    """perceptual, of restored and true frames [N, 3, H, W], the mean over them"""
    weight: float = 2.5
    """of that distance beside the error"""
    share: float = 0.4
    """probability that new streams train this tier"""
    evenness: float = 1.5
    """weight of `blockiness` and `lattice` beside the error"""


@dataclass
class TrainerState:
    """What a run goes on from."""

    net: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimiser: dict[str, Any]
    step: int


class Trainer:
    def __init__(
        self,
        codec: TinyCodec,
        net: TinyDenoiser,
        ema: TinyDenoiser,
        library: Library,
        batch: int,
        seed: int,
        sharp: Sharp | None = None,
    ):
        self.codec, self.net, self.ema, self.library, self.batch = codec, net, ema, library, batch
        self.sharp = sharp
        self.tier: Tier = "faithful"
        self.optimiser = torch.optim.AdamW(net.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=1e-4)
        self.rng, self.noise = random.Random(seed), np.random.default_rng(seed)
        self.step_count = 0
        self.streams: list[Stream] = []
        self.cache = TinyCache(0)
        self.gains: dict[str, list[float]] = {}
        """dB over a consistent x_init, by task, since they were last reported; also the terms of the sharp tier"""

    def step(self, rate: float, size: int) -> float:
        """Trains on the next chunks of `size` x `size` pixels at the learning rate `rate`; returns the loss."""
        if not self.streams or self.rng.random() < RESTART:
            self.cache = TinyCache(0)
            self.tier = "sharp" if self.sharp and self.rng.random() < self.sharp.share else "faithful"
            self.streams = [draw_stream(self.library, size, self.rng) for _ in range(self.batch)]
        latents, chunks = self.rng.choices([row[:2] for row in LENGTHS], [row[2] for row in LENGTHS])[0]
        t, hidden = self.rng.uniform(0, 0.12), self.tier == "faithful" and self.rng.random() < BLIND
        pass_ = Pass(self, trained(bfloat16_copies(self.net), self.tier), t, hidden)
        losses, shown = [], []
        for _ in range(chunks):
            samples, restored = pass_.next_chunk(latents)
            for stream, sample, x in zip(self.streams, samples, restored, strict=True):
                loss, gain = loss_of(x, sample)
                losses.append(loss)
                frame = self.rng.randrange(len(x))
                shown.append((x[frame], sample.x[frame]))
                stream.remember_restored(x.detach().clamp(-1, 1))
                if not hidden:
                    self.gains.setdefault(label(stream, self.tier), []).append(gain)
        total = torch.stack(losses).mean()
        if self.sharp is not None and self.tier == "sharp":
            ours, true = (torch.stack(frames) for frames in zip(*shown, strict=True))
            terms = {
                "distance": self.sharp.distance(*shifted(ours, true, self.rng)),
                "blockiness": blockiness(ours, true),
                "lattice": lattice(ours, true),
            }
            for name, value in terms.items():
                self.gains.setdefault(name, []).append(value.item())
            uneven = terms["blockiness"] + 2 * terms["lattice"]
            total = total + self.sharp.weight * terms["distance"] + self.sharp.evenness * uneven
        self._descend(total, rate)
        self.cache = detached(pass_.cache)
        return total.item()

    def _descend(self, loss: Tensor, rate: float) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"the gradient of step {self.step_count} is not finite")
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.step_count += 1
        decay = min(0.998, self.step_count / (self.step_count + 20))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.net.parameters()), 1 - decay)

    def state(self) -> TrainerState:
        return TrainerState(self.net.state_dict(), self.ema.state_dict(), self.optimiser.state_dict(), self.step_count)

    def resume(self, state: TrainerState) -> None:
        self.net.load_state_dict(state.net)
        self.ema.load_state_dict(state.ema)
        self.optimiser.load_state_dict(state.optimiser)
        self.step_count = state.step
        self.rng.seed(state.step)


class Pass:
    """The chunks of one step, in turn."""

    def __init__(self, trainer: Trainer, weights: dict[str, Tensor], t: float, hidden: bool):
        self.trainer, self.weights, self.t, self.hidden = trainer, weights, t, hidden
        self.cache = trainer.cache
        self.module = Methods(trainer.net)

    def next_chunk(self, latents: int) -> tuple[list[Sample], list[Tensor]]:
        """The samples, and what the network makes of them after output consistency."""
        trainer, cache = self.trainer, self.cache
        frames = 4 * latents - (3 if cache.index == 0 else 0)
        with torch.no_grad():
            samples = [stream.read(frames, draw_lost(frames, trainer.rng)) for stream in trainer.streams]
            look = look_at(samples, trainer.codec, cache, self.t, self.hidden, trainer.noise)
        time = torch.full((len(samples),), self.t)
        x, features = functional_call(self.module, self.weights, ("restore", look, time, cache, trainer.tier))
        last = torch.cat([look.base[:, -1], look.mask[:, -1, :1]], 1)
        seen = replace(cache, hidden=features[:, -1], last=last, tier=trainer.tier)
        z = trainer.codec.transform(x.detach())
        self.cache = functional_call(self.module, self.weights, ("remember", z, seen))
        if frames % 4:
            x = torch.cat([x[:, :4].mean(1, keepdim=True), x[:, 4:]], 1)
        return samples, [sample.consistent(part) for sample, part in zip(samples, x, strict=True)]


class Methods(nn.Module):
    """Lets `functional_call` reach the methods of a network by name."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, method: str, *args: Any) -> Any:
        return getattr(self.net, method)(*args)


def bfloat16_copies(net: nn.Module) -> dict[str, Tensor]:
    """The weights for one step; gradients reach those in float32 through them. What touches pixels stays in float32."""
    return {
        f"net.{name}": value if name.split(".")[0] in FLOAT32 else value.to(torch.bfloat16)
        for name, value in net.named_parameters()
    }


def trained(weights: dict[str, Tensor], tier: Tier) -> dict[str, Tensor]:
    """The weights, of which those that the tier does not train take no gradient."""
    if tier == "faithful":
        return weights
    return {name: w if name.startswith(SHARP_PREFIX) else w.detach() for name, w in weights.items()}


def look_at(
    samples: list[Sample], codec: TinyCodec, cache: TinyCache, t: float, hidden: bool, rng: np.random.Generator
) -> Look:
    """The network's input for a batch; `hidden` leaves nothing but the noisy latents."""
    base = torch.stack([slots(s.x_init) for s in samples])
    z = codec.transform(base)
    noise = torch.from_numpy(rng.standard_normal(z.shape, np.float32))  # four times faster than torch's
    noisy = codec.inverse((1 - t) * z + t * noise) / (1 - t)
    if hidden:
        return blind(noisy)
    befores = [None] * len(samples) if cache.last is None else list(cache.last)
    around = [
        surroundings(s.x_init, s.operator.reliability(len(s.x), *base.shape[-2:]), before)
        for s, before in zip(samples, befores, strict=True)
    ]
    return Look(
        base=base,
        hint=torch.stack([slots(s.hint) for s in samples]),
        noisy=noisy,
        moved=torch.stack([a.moved for a in around]),
        mask=torch.stack([a.mask.expand(base.shape[1], -1, -1, -1) for a in around]),
        task=torch.tensor([task_of(s.operator.task) for s in samples]),
        flows=torch.stack([a.flows for a in around]),
        linked=torch.stack([a.linked for a in around]),
        level=torch.tensor([s.operator.noise for s in samples]),
    )


def label(stream: Stream, tier: Tier) -> str:
    """Under which name a stream's gains are reported."""
    if tier == "sharp":
        return f"{stream.operator.kind}, sharp"
    if stream.coder is not None:
        return f"{stream.operator.kind}, coded"
    return f"{stream.operator.kind}, noisy" if stream.operator.noise > 0.02 else stream.operator.kind


def detached(cache: TinyCache) -> TinyCache:
    """The cache without the step that it came from."""

    def cut(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.detach()

    return TinyCache(
        cache.index,
        tuple(key.detach() for key in cache.keys),
        tuple(value.detach() for value in cache.values),
        cut(cache.frames),
        cut(cache.hidden),
        cut(cache.last),
        cache.tier,
    )
