"""Runs the paper's presets and writes their pages: `python tools/paper.py CLIPS... [-- options of avis eval]`.

Rows that a folder under build/paper holds already are kept, so a run can be stopped and started again. Each preset
gets docs/results/PRESET.md with its command, its table and its plots.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from pathlib import Path

from core.evaluation.presets import PRESETS
from server import cli

WORK = Path("build/paper")
PAGES = Path("docs/results")
PLOTS = ("gains.png", "chunks.png")


def main(argv: list[str]) -> int:
    own, _, given = " ".join(map(shlex.quote, argv)).partition(" -- ")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--presets", default=",".join(PRESETS), help="which (default: all)")
    parser.add_argument("--suffix", default="", help="of the pages' names, for another model")
    args = parser.parse_args(shlex.split(own))
    for name in args.presets.split(","):
        folder, options = WORK / f"{name}{args.suffix}", shlex.split(given)
        clips = [str(clip) for clip in args.clips]
        code = cli.main(["eval", *clips, "--preset", name, "--out", str(folder), *options])
        if code:
            return code
        words = [Path(clip).name for clip in clips]
        write(f"{name}{args.suffix}", folder, shlex.join(["avis", "eval", *words, "--preset", name, *options]))
    return 0


def write(name: str, folder: Path, command: str) -> None:
    """The page of a preset: how it was run, what came out, and its plots."""
    PAGES.mkdir(parents=True, exist_ok=True)
    title, _, rest = (folder / "table.md").read_text(encoding="utf-8").partition("\n")
    parts = [title, f"    {command}"]
    for plot in PLOTS:
        if (folder / plot).exists():
            shutil.copy(folder / plot, PAGES / f"{name}-{plot}")
            parts.append(f"![{plot.removesuffix('.png')}]({name}-{plot})")
    (PAGES / f"{name}.md").write_text("\n\n".join([*parts, rest.strip()]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
