"""A method from outside, in its own environment: it is given measured frames and writes restored ones.

The contract. A job is a folder with

    job.json        {"operator": {...}, "width", "height", "measured": [width, height], "frames", "fps", "seed"}
    y/0.png ...     the measurement in 8 bits, at its own size
    y.npy           the same as float32 [T, h, w, 3] in [-1, 1], not rounded
    restored/       where the program writes 0.png, 1.png and so on, `width` x `height`, as many as there are in y

and the program is `PYTHON avis_adapter.py JOB`, run in the checkout, where that file lies. For a checkout whose own
command line fits (`COMMANDS`), no such file is needed. The original frames are not part of a job.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from core.chunks import ChunkSpec
from core.contract import Pixels, SolverConfig
from core.errors import UsageError
from core.evaluation.clip_solvers import Part, frame_size, per_chunk
from core.operators.base import LinearOperator
from core.video import from_pixels, to_pixels
from server.files.inputs import read_picture
from server.files.outputs import encode_png

ADAPTER = "avis_adapter.py"
"""what a checkout has to hold"""
FPS = 16


@dataclass(frozen=True)
class Job:
    """What one clip is, as job.json tells it."""

    folder: Path
    operator: LinearOperator
    height: int
    width: int
    seed: int


def diffir2vr(job: Job) -> list[str]:
    """DiffIR2VR-Zero's own command line; it enlarges 4 times, or removes noise."""
    tasks = {"super_resolution": ("sr", "4"), "denoise": ("dn", "1")}
    if job.operator.kind not in tasks or getattr(job.operator, "scale", 4) != 4:
        raise UsageError(f"diffir2vr takes super_resolution with scale 4 or denoise, not {job.operator.kind}")
    task, scale = tasks[job.operator.kind]
    options = {
        "version": "v2",
        "task": task,
        "upscale": scale,
        "cfg_scale": "4.0",
        "batch_size": "10",
        "input": str(job.folder / "y"),
        "output": str(job.folder / "restored"),
        "config": "configs/inference/my_cldm.yaml",
        "final_size": f"({job.height}, {job.width})",
        "merge_ratio": "(0.6, 0)",
    }
    return ["inference.py", *(word for name, value in options.items() for word in (f"--{name}", value))]


COMMANDS: dict[str, Callable[[Job], list[str]]] = {"diffir2vr": diffir2vr}
"""How the checkouts that need no adapter are called"""


@dataclass(frozen=True)
class ExternalClip:
    """The method `name`, whose code lies in `checkout` and runs in the environment of `python`."""

    name: str
    checkout: Path
    python: Path

    def restore_clip(self, y: Tensor, operator: LinearOperator, seed: int, config: SolverConfig) -> Iterator[Part]:
        with tempfile.TemporaryDirectory(prefix="avis-external-") as folder:
            job = Job(Path(folder), operator, *frame_size(operator, y), seed)
            write_job(job, y)
            self._call(job)
            restored = from_pixels(read_restored(job, self.name, len(y)), y.device)
        chunks = iter(restored.split(ChunkSpec().split(len(y))))
        yield from per_chunk(lambda part: next(chunks), y, operator, config)

    def _call(self, job: Job) -> None:
        """Runs the program. Raises UsageError when it fails, with the last line that it said."""
        words = COMMANDS[self.name](job) if self.name in COMMANDS else [ADAPTER, str(job.folder)]
        done = subprocess.run(
            [str(self.python), *words],
            cwd=self.checkout,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode:
            said = done.stdout.decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise UsageError(f"{self.name} ended with {done.returncode}: {said[-1]}")


def load(name: str, checkout: Path | None, python: Path | None) -> ExternalClip:
    """Raises UsageError for a checkout or a Python that is not there."""
    if checkout is None or python is None:
        raise UsageError(f"expected --checkout DIR and --python PATH with --external {name}")
    needed = checkout / ("inference.py" if name in COMMANDS else ADAPTER)
    if not needed.is_file():
        raise UsageError(f"not installed: {name} needs {needed}, and there is none (docs/paper.md tells what it does)")
    if not python.is_file():
        raise UsageError(f"not installed: expected the Python of {name}'s environment at {python}, found none")
    return ExternalClip(name, checkout.resolve(), python.absolute())


def write_job(job: Job, y: Tensor) -> None:
    """job.json, y.npy and the measured frames y [T, 3, h, w]."""
    for part in ("y", "restored"):
        (job.folder / part).mkdir()
    for number, pixels in enumerate(to_pixels(y)):
        (job.folder / "y" / f"{number}.png").write_bytes(encode_png(pixels))
    np.save(job.folder / "y.npy", y.permute(0, 2, 3, 1).float().cpu().numpy())
    about = {
        "operator": job.operator.model_dump(),
        "width": job.width,
        "height": job.height,
        "measured": [y.shape[-1], y.shape[-2]],
        "frames": len(y),
        "fps": FPS,
        "seed": job.seed,
    }
    (job.folder / "job.json").write_text(json.dumps(about), encoding="utf-8")


def read_restored(job: Job, name: str, frames: int) -> Pixels:
    """What the program wrote, [T, H, W, 3]. Raises UsageError for another number or size of frames."""
    files = {file.stem: file for file in (job.folder / "restored").rglob("*.png")}
    missing = [number for number in range(frames) if str(number) not in files]
    if missing:
        raise UsageError(f"expected {frames} frames of {name}, 0.png and on, found no {missing[0]}.png")
    pictures = [read_picture(files[str(number)]) for number in range(frames)]
    sizes = {picture.shape[:2] for picture in pictures} - {(job.height, job.width)}
    if sizes:
        height, width = sizes.pop()
        raise UsageError(f"expected frames of {job.width}x{job.height} of {name}, found {width}x{height}")
    return np.stack(pictures)
