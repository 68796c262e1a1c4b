"""`avis eval --preset`: a study of the paper, run clip by clip into a folder that a later run goes on with."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from core.contract import Pixels, SolverConfig
from core.errors import UsageError
from core.evaluation.evaluate import means
from core.evaluation.extras import fvd_rows, without_features
from core.evaluation.markdown import report as markdown
from core.evaluation.presets import PRESETS, TABLE_KEYS, Line, Preset, differences, orderings
from core.json_report import write_json
from core.models.load import Model
from server.commands import options
from server.commands.evaluate_clip import ClipRun, Task, load_bench, progress
from server.files.inputs import read_clip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a study of the paper, instead of --operators and --variants")
    group.add_argument("--preset", choices=list(PRESETS), help="which")
    group.add_argument(
        "--out",
        metavar="FOLDER",
        type=Path,
        help="where rows, table and plots go; rows that are there are kept (default: named after the preset)",
    )
    group.add_argument("--forms", metavar="FORM,...", default="zero_shot,default", help="default: zero_shot,default")


def check(args: argparse.Namespace) -> None:
    """Raises UsageError for arguments that have no meaning together."""
    if args.loss or args.sheet or args.operators != "all" or args.variants != "all" or args.coded != [None]:
        raise UsageError("expected no --loss, --sheet, --operators, --variants or --coded with --preset")
    if args.latents != [3]:
        raise UsageError("expected no --latents with --preset")
    for form in args.forms.split(","):
        if form not in PRESETS[args.preset].forms:
            raise UsageError(f"expected --forms among {', '.join(PRESETS[args.preset].forms)}, found {form!r}")
    folder = folder_of(args)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"expected a folder for --out, found the file {folder}")


def folder_of(args: argparse.Namespace) -> Path:
    folder: Path = args.out or Path(args.preset)
    return folder


def run(args: argparse.Namespace) -> int:
    """Runs what the folder does not hold yet, then writes table, plots and report."""
    preset, config = PRESETS[args.preset], options.solver_config(args)
    model = options.load_model(args)
    tasks = plan(preset, args, config)
    bench = load_bench(args, model, [task.method for task in tasks])
    about = {**settings(args, preset, config, model), "weights_hash": weights_hash(model)}
    rows_folder = folder_of(args) / "rows"
    rows_folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with progress(len(args.clips) * len(tasks)) as begin:
        for clip in args.clips:
            pixels = frames_of(clip, args, preset)
            rows += clip_rows(ClipRun(bench, clip.name, pixels), tasks, about, rows_folder, begin)
    finish(args, preset, rows, about)
    return 0


def plan(preset: Preset, args: argparse.Namespace, config: SolverConfig) -> list[Task]:
    """Every line of every task, form and noise. Raises UsageError for a size that an operator cannot take."""
    lines = (*preset.lines, *([Line(args.external, args.external)] if args.external else []))
    tasks = []
    for noise in preset.noises if args.noise is None else (args.noise,):
        for kind in preset.operators:
            operator = options.operator(kind, argparse.Namespace(), noise=noise)
            try:
                operator.prepare(*args.size)
            except ValueError as error:
                raise UsageError(f"{kind}: {error}") from error
            for form in args.forms.split(","):
                for line in lines:
                    own = line.config(config, form)
                    keys = (("noise", noise), ("form", form))
                    found = Task(operator, line.label, line.method, own, None, args.told_noise, line.as_published, keys)
                    tasks.append(found)
    return tasks


def frames_of(clip: Path, args: argparse.Namespace, preset: Preset) -> Pixels:
    """The clip's first frames; a long study reads a shorter clip to and fro."""
    wanted = args.frames or preset.frames
    pixels = read_clip(clip, args.size, wanted)
    return to_and_fro(pixels, wanted) if preset.to_and_fro and len(pixels) < wanted else pixels


def to_and_fro(pixels: Pixels, frames: int) -> Pixels:
    """`frames` frames of a clip [T, H, W, 3] that turns round at its ends."""
    period = max(1, 2 * len(pixels) - 2)
    at = np.arange(frames) % period
    return pixels[np.where(at < len(pixels), at, period - at)]


def clip_rows(
    clip: ClipRun, tasks: list[Task], about: dict[str, Any], folder: Path, begin: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """The clip's rows, each from the folder if an earlier run with the same settings left it there."""
    pictures = hashlib.sha256(clip.pixels.tobytes()).hexdigest()
    for task in tasks:
        begin(f"{clip.name} {task.operator.kind} {task.variant}")
        known = {**about, "pictures": pictures, "solver": task.config.model_dump(), **task.row_keys}
        known |= {"operator_settings": task.operator.model_dump(), "method": task.method}
        digest = hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()[:12]
        file = folder / f"{Path(clip.name).stem}.{task.operator.kind}.{slug(task.variant)}.{digest}.json"
        row = held(file)
        if row is None:
            row, _ = clip.run(task)
            replace(file, {"settings": known, "row": row})
        yield row


def held(file: Path) -> dict[str, Any] | None:
    """The row of a file that an earlier run wrote whole; None if there is none."""
    if not file.exists():
        return None
    row: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["row"]
    return row


def replace(file: Path, content: dict[str, Any]) -> None:
    """Writes a row so that an interrupted run leaves a whole file or none."""
    beside = file.with_suffix(".part")
    write_json(content, str(beside))
    beside.replace(file)


def slug(label: str) -> str:
    return "".join(letter if letter.isalnum() or letter == "_" else "-" for letter in label)


def finish(args: argparse.Namespace, preset: Preset, rows: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """table.md, report.json, gains.png and chunks.png in the folder; the table for people on the console."""
    folder, averages = folder_of(args), means(rows, TABLE_KEYS)
    for videos in fvd_rows(rows, TABLE_KEYS):
        next(row for row in averages if all(row[key] == videos[key] for key in TABLE_KEYS))["fvd"] = videos["fvd"]
    claims, against = orderings(preset, rows), differences(rows)
    about = {**about, "clips": [clip.name for clip in args.clips]}
    text = markdown(preset, averages, claims, against, about)
    (folder / "table.md").write_text(text, encoding="utf-8")
    report = {"preset": args.preset, "settings": about, "rows": without_features(rows), "means": averages}
    report |= {"orderings": claims, "differences": against}
    write_json(report, str(folder / "report.json"))
    write_json(report, args.json)
    draw(folder, preset, rows, against)
    console = options.console(args.json)
    console.print(text, markup=False, soft_wrap=True)
    console.print(f"written to {folder}: table.md, report.json, rows and plots", markup=False)


def draw(folder: Path, preset: Preset, rows: list[dict[str, Any]], against: list[dict[str, Any]]) -> None:
    """The plots, where the extra `eval` brought what draws them."""
    try:
        from core.evaluation import plots
    except ImportError as error:
        options.progress_console().print(f"no plots: {error}; install the extra `eval`")
        return
    plots.draw_gains(folder / "gains.png", preset.title, against)
    plots.draw_chunks(folder / "chunks.png", preset.title, rows)


def settings(args: argparse.Namespace, preset: Preset, config: SolverConfig, model: Model) -> dict[str, Any]:
    """What a row depends on beside its clip and its task."""
    return {
        "model": args.model,
        "weights": args.weights,
        "codec": args.codec,
        "model_settings": options.model_settings(args),
        "size": f"{args.size[1]}x{args.size[0]}",
        "seed": args.seed,
        "frames": args.frames or preset.frames,
        "num_steps": config.num_steps or model.num_steps,
        "metrics": args.metrics,
        "metric_every": args.metric_every,
        "through_mp4": args.through_mp4,
        "vmaf": not args.no_vmaf,
    }


def weights_hash(model: Model) -> str:
    """Tells one set of weights from another by a few numbers of each parameter."""
    digest = hashlib.sha256()
    for part in (model.codec, model.denoiser):
        module = part if isinstance(part, nn.Module) else getattr(part, "dit", None)
        for name, parameter in sorted(module.state_dict().items()) if module is not None else ():
            few = parameter.flatten()[:64].float().cpu().numpy()
            digest.update(name.encode() + few.tobytes())
    return digest.hexdigest()[:16]
