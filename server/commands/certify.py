"""`avis restore --certificate`: notes what each chunk was made of, and signs it with what the finished file holds."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.config import Config
from core.contract import Pixels
from core.engine import ChunkResult, Engine
from core.errors import UsageError
from core.models.load import Model, weight_files
from core.operators.table import Operator
from server.certificates.certificate import sidecar_of, signed
from server.certificates.film import Cut, cuts, decoded
from server.certificates.hashes import file_record, pixels_hash
from server.certificates.keys import raw, signing_key
from server.certificates.records import ChunkRecord, End, Header, ModelRecord, Reading, Sizes
from server.commands import options
from server.commands.remeasure import Remeasured, unpadded
from server.commands.restore_sizes import Geometry
from server.files.outputs import part_of
from server.files.paths import STANDARD, URL, is_pipe, named
from server.files.source import Source

LIBRARIES = ("av", "torch", "numpy")
"""what decides on a hash or a residual beside our own code"""


@dataclass(frozen=True)
class Noted:
    """What is known of a chunk once it is restored."""

    y: str
    restored: str
    frames: int
    result: ChunkResult


class Witness:
    """Follows one restoration. `begin`, then `note` each chunk, then `seal` the finished file."""

    def __init__(self, source: Path, target: Path, key: Ed25519PrivateKey, args: argparse.Namespace):
        self.sidecar = sidecar_of(target)
        self._path, self._target, self._key, self._args = source, target, key, args
        self._noted: list[Noted] = []

    def begin(self, engine: Engine, source: Source, operator: Operator, geometry: Geometry) -> None:
        """The model is loaded and the source open."""
        args, solver = self._args, options.solver_config(self._args)
        self._source = source
        self._header = Header(
            public_key=raw(self._key.public_key()),
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            tool=f"avis-server {version('avis-server')}",
            libraries={name: version(name) for name in LIBRARIES},
            model=model_record(engine.model, args),
            sizes=Sizes.model_validate({name: getattr(geometry, name) for name in Sizes.model_fields}),
            rate=str(source.about.rate),
            latency=args.latency,
            operator=operator.model_dump(mode="json"),
            solver=solver.model_dump(mode="json") | {"num_steps": solver.num_steps or engine.model.num_steps},
            seed=args.seed,
            reading=Reading(deinterlace=options.deinterlaced(args), fps=str(args.fps) if args.fps else None),
        )

    def note(self, y: Pixels, restored: Pixels, result: ChunkResult) -> None:
        """A chunk: what the engine got, without the pictures that only fill it, and the pictures to write."""
        bare = ChunkResult(restored[:0], result.guided, result.residual, trust=result.trust)
        measured = pixels_hash(unpadded(y, self._header.sizes))
        self._noted.append(Noted(measured, pixels_hash(restored), len(restored), bare))

    def seal(self, finished: Path) -> None:
        """Writes the sidecar of the file `finished`, which is about to get its name. Raises OSError."""
        part = part_of(self.sidecar)
        try:
            with part.open("wb") as file:
                for line in signed(self._key, self._records(finished)):
                    file.write(line)
            os.replace(part, self.sidecar)
        finally:
            part.unlink(missing_ok=True)

    def _records(self, finished: Path) -> Iterator[Config]:
        yield self._header
        again = None if read_once(self._path) else Remeasured(self._path, self._header)
        frames = decoded(finished)
        first = 0
        try:
            for index, (noted, cut) in enumerate(zip(self._noted, cuts(frames, self._lengths()), strict=False)):
                if len(cut.frames) != noted.frames:
                    break
                yield self._chunk(index, first, noted, cut, again)
                first += noted.frames
            if first != sum(self._lengths()) or next(frames, None) is not None:
                raise OSError("the written file does not decode to the pictures that were written: no certificate")
        finally:
            if again:
                again.close()
        yield End(
            chunks=len(self._noted),
            frames=first,
            file=file_record(finished, self._target.name),
            measurement=None if read_once(self._path) else file_record(self._path, named(self._path.name)),
            damaged=self._source.damaged,
            warnings=tuple(self._source.warnings),
        )

    def _chunk(self, index: int, first: int, noted: Noted, cut: Cut, again: Remeasured | None) -> ChunkRecord:
        residual = None
        if again:
            y = again.next()
            if y is None or pixels_hash(unpadded(y, self._header.sizes)) != noted.y:
                raise UsageError(f"{named(self._path)} changed while it was restored: no certificate")
            residual = again.residual(y, cut.pixels(self._header.sizes.shown))
        result = noted.result
        assert result.trust is not None
        return ChunkRecord(
            chunk=index,
            first=first,
            frames=noted.frames,
            shown=cut.shown,
            y=noted.y,
            restored=noted.restored,
            decoded=cut.sha256,
            rung="full",
            guided=result.guided,
            residual=result.residual,
            residual_file=residual,
            trust=result.trust,
        )

    def _lengths(self) -> list[int]:
        return [noted.frames for noted in self._noted]


def witness_of(source: Path, target: Path, args: argparse.Namespace) -> Witness | None:
    """What makes the certificate, where one was asked for. Raises UsageError before any work."""
    if not args.certificate:
        if args.certificate_key:
            raise UsageError("--certificate-key goes with --certificate")
        return None
    if args.simulate:
        raise UsageError("expected no --certificate with --simulate: nothing was measured, so nothing can be certified")
    if target == STANDARD:
        raise UsageError("expected a file or a folder for OUT with --certificate, found standard output")
    sidecar = sidecar_of(target)
    if sidecar.exists() and not args.overwrite:
        raise UsageError(f"expected no certificate for OUT yet, found {named(sidecar)}; --overwrite replaces it")
    return Witness(source, target, signing_key(args.certificate_key), args)


def model_record(model: Model, args: argparse.Namespace) -> ModelRecord:
    settings = options.model_settings(args)
    files = weight_files(args.model, args.weights, args.codec, settings)
    return ModelRecord(
        name=model.name,
        codec=args.codec,
        device=model.device.type,
        backend=model.denoiser.backend,
        settings=settings,
        weights={path.name: file_record(path).sha256 for path in files},
    )


def read_once(path: Path) -> bool:
    """Whether y cannot be read again: it came through a pipe or from an address."""
    return is_pipe(path) or bool(URL.match(str(path)))
