"""`avis train`: checks its arguments, then trains. The recipe is in core.training."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from core.errors import UsageError
from core.training import train
from core.training.data import PHOTOS, VIDEOS

BLOCK = 8
"""pixels: a crop is made of the codec's blocks"""

add_arguments = train.add_arguments


def run(args: argparse.Namespace) -> int:
    check(args)
    return train.run(args)


def check(args: argparse.Namespace) -> None:
    """Raises UsageError for arguments with which training cannot succeed."""
    for name in ("minutes", "rate"):
        if not 0 < getattr(args, name) < math.inf:
            raise UsageError(f"expected --{name} above 0, found {getattr(args, name):g}")
    for name in ("batch", "threads"):
        if getattr(args, name) < 1:
            raise UsageError(f"expected --{name} from 1, found {getattr(args, name)}")
    if args.size < 2 * BLOCK or args.size % BLOCK:
        raise UsageError(f"expected a --size from {2 * BLOCK} in multiples of {BLOCK}, found {args.size}")
    if not 0 <= args.seed < 2**31:
        raise UsageError(f"expected --seed from 0 to {2**31 - 1}, found {args.seed}")
    if args.run.exists() and not args.run.is_dir():
        raise UsageError(f"expected a folder for --run, found a file in {args.run}")
    if not 0 <= args.hold <= 1:
        raise UsageError(f"expected --hold from 0 to 1, found {args.hold:g}")
    if args.peer is not None and args.peer.resolve() == args.run.resolve():
        raise UsageError("expected another run's folder for --peer, found the run's own")
    folders: list[tuple[str, Path, tuple[str, ...]]] = [("videos", folder, VIDEOS) for folder in args.videos]
    folders += [("photos", folder, PHOTOS) for folder in args.photos]
    folders += [("validate", args.validate, (".mp4",))] if args.validate else []
    for name, folder, kinds in folders:
        check_folder(f"--{name}", folder, kinds)


def check_folder(flag: str, folder: Path, kinds: tuple[str, ...]) -> None:
    """Raises UsageError for a folder that is to be read and holds no file of those kinds."""
    if not folder.is_dir():
        raise UsageError(f"expected an existing folder for {flag}, found {folder}")
    if not any(path.suffix in kinds for path in folder.iterdir()):
        raise UsageError(f"expected files ({', '.join(kinds)}) in the folder {folder} for {flag}, found none")
