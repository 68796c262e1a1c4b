"""No step mixes tensors of the CPU with those of its device, or brings more to it than pixels.

Shown without a GPU: the meta device stands for one.
"""

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from core.contract import SolverConfig
from core.engine import Engine
from core.evaluation.baselines import baseline
from core.models.load import Model
from core.models.tiny.denoiser import TinyConfig
from core.models.tiny.load import build, load
from core.models.wan.dit import CausalDiT, DiTConfig
from core.models.wan.model import WanDenoiser
from core.models.wan.plain import PlainLoop
from core.models.wan.taehv import TAEHV, TAEHVConfig
from core.models.wan.vae import WanVAE, WanVAEConfig
from core.operators.infill import push_pull
from core.operators.masks import Inpainting
from core.operators.table import PAPER_OPERATORS

META = torch.device("meta")
SIZE = (64, 96)
MOVES = {"aten::to", "aten::_to_copy", "aten::copy_"}
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
"""operations that take indices of the CPU on any device"""


class ApartFromTheCpu(TorchDispatchMode):
    """Fails where a tensor of the CPU, other than a single number, meets a meta tensor, as it would meet a GPU's."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        found = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.ndim]
        if name not in MOVES:
            devices = {tensor.device.type for tensor in (found[:1] if name in INDEXED else found)}
            assert len(devices) < 2, f"{name} mixes {devices}"
        return func(*args, **(kwargs or {}))


class CountsMoves(TorchDispatchMode):
    """Keeps the shapes of what goes from the CPU to the device: each is a copy that a GPU waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_meta:
            found = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            moved = [leaf for leaf in found if not leaf.is_meta and (leaf.ndim or func._schema.name in MOVES)]
            self.shapes += [tuple(tensor.shape) for tensor in moved]
        return result


class RefusesLists(TorchFunctionMode):
    """Fails where a list of numbers becomes a tensor of the device, which the dispatcher does not see."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        listed = func is Tensor.__getitem__ and isinstance(args[1], list)
        assert not (listed and args[0].is_meta), f"frames {args[1]} are chosen by a list"
        assert not (func is torch.tensor and kwargs.get("device") == META), f"{args[0]} becomes a tensor"
        return func(*args, **kwargs)


class AnyGenerator(torch.Generator):
    """Of any device: the meta device has none of its own."""

    def __new__(cls, device: Any = "cpu") -> Any:
        made = super().__new__(cls)
        made.of = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:
        return self.of


class ReadsOnes(TorchFunctionMode):
    """Whatever is read back from a meta tensor, which has no values, is 1."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if args and isinstance(args[0], Tensor) and args[0].is_meta:
            if func in (Tensor.__bool__, Tensor.__float__, Tensor.item):
                return True if func is Tensor.__bool__ else 1.0
            if func in (Tensor.cpu, Tensor.tolist):
                ones = torch.ones(args[0].shape, dtype=args[0].dtype)
                return ones if func is Tensor.cpu else ones.tolist()
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def meta_generators(monkeypatch):
    monkeypatch.setattr(torch, "Generator", AnyGenerator)


@pytest.fixture(autouse=True)
def few_layers(monkeypatch):
    """Every operation passes through the modes above, so that each costs a hundred times what it does elsewhere."""
    small = TinyConfig(quarter=32, eighth=32, width=32, heads=2, layers=1, window=2)
    monkeypatch.setattr("core.models.tiny.load.build", lambda: build(small))


def tiny() -> Model:
    codec, denoiser = load("random", META)
    return Model("tiny", codec, denoiser, META, 1)


def wan(codec: str, dtype: torch.dtype) -> Model:
    small = DiTConfig(dim=48, ffn_dim=64, layers=2, heads=4, text_dim=32, text_len=8)
    with META:
        video_codec = TAEHV(TAEHVConfig()) if codec == "taehv" else WanVAE(WanVAEConfig(base=8))
        dit = CausalDiT(small).to(dtype)
        context = dit.context(torch.zeros(3, small.text_dim))
    return Model("wan", video_codec.to(dtype), WanDenoiser(dit, context, window=6), META, 2)


def restore(model: Model, operator: Any, mode: Any) -> None:
    """Three chunks: guided, with a lost frame, and past the model."""
    engine = Engine(model)
    with ReadsOnes(), ApartFromTheCpu():
        engine.open("s", operator, mode, *SIZE)
        height, width = SIZE if mode == "simulate" else operator.measurement_size(*SIZE)
        for lost, rung in (((), "full"), ((3,), "full"), ((), "x_init")):
            frames = np.zeros((engine.frames("s"), height, width, 3), np.uint8)
            config = SolverConfig(reinject_every=1)
            engine.step("s", frames, operator, config, rung, ("degraded", "restored"), lost=lost)


@pytest.mark.parametrize("mode", ["simulate", "incoming"])
@pytest.mark.parametrize("operator", [*PAPER_OPERATORS, Inpainting(keep=0.05)], ids=lambda operator: operator.kind)
def test_every_operator_stays_on_the_device(operator, mode):
    """Inpainting's plan lay on the CPU, and every such session would have ended the device process."""
    restore(tiny(), operator, mode)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("codec", ["taehv", "wan-vae"])
def test_the_real_backbone_stays_on_the_device(codec, dtype):
    restore(wan(codec, dtype), PAPER_OPERATORS[0], "simulate")


@pytest.mark.parametrize("operator", [*PAPER_OPERATORS, Inpainting(keep=0.05)], ids=lambda operator: operator.kind)
def test_nothing_but_pixels_comes_to_the_device_in_a_steady_step(operator):
    """All noise was drawn on the CPU, 0.2 s a chunk at 832x480, and an operator's matrices brought in at every use."""
    engine, config = Engine(wan("taehv", torch.bfloat16)), SolverConfig(reinject_every=1)
    engine.open("s", operator, "simulate", *SIZE)
    steady = engine.model.denoiser.chunks_to_settle
    with ReadsOnes():
        for index in range(steady + 1):
            frames = np.zeros((engine.frames("s"), *SIZE, 3), np.uint8)
            with CountsMoves() as moves, RefusesLists() if index else nullcontext():
                engine.step("s", frames, operator, config)
    assert moves.shapes == [frames.shape]


def test_large_holes_are_filled_without_a_look_at_the_mask():
    """Each level of the pyramid asked whether all was known by now, which a GPU waits for."""
    x, known = torch.empty(2, 3, *SIZE, device=META), torch.empty(SIZE, dtype=torch.bool, device=META)
    assert push_pull(x, known).shape == x.shape


def test_the_loop_that_the_backbone_is_timed_against_brings_nothing_to_the_device():
    """Each of its rotations brought four numbers to it, 240 a pass: the comparison would have flattered our own."""
    small = DiTConfig(dim=48, ffn_dim=64, layers=2, heads=4, channels=4, text_dim=8, text_len=4)
    with META, torch.inference_mode():
        loop, z = PlainLoop(CausalDiT(small), 2, 3, torch.zeros(4, 8)), torch.zeros(3, 4, 4, 6)
    with torch.inference_mode(), CountsMoves() as moves:
        for chunk in range(4):
            assert loop.velocity(z, 0.1, chunk).shape == z.shape
    assert moves.shapes == []


@pytest.mark.parametrize("operator", PAPER_OPERATORS, ids=lambda operator: operator.kind)
def test_the_plain_methods_stay_on_the_device(operator):
    operator.prepare(*SIZE)
    with ReadsOnes(), ApartFromTheCpu():
        y = torch.empty(12, 3, *operator.measurement_size(*SIZE), device=META)
        assert baseline(operator, y).shape == (12, 3, *SIZE)


def test_a_mix_is_noticed():
    with ApartFromTheCpu(), pytest.raises(AssertionError, match=r"aten::mul mixes"):
        torch.ones(2, device=META) * torch.ones(2)
