"""`avis eval`: quality per clip, operator and variant, always with and without output consistency."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

from core.chunks import ChunkSpec
from core.contract import LATENTS, Pixels, SolverConfig
from core.errors import UsageError
from core.evaluation.evaluate import METHODS, PLAIN, ROW_KEYS, VARIANTS, gains, means, prices, variant_config
from core.evaluation.extras import fvd_rows, without_features
from core.evaluation.ffmpeg_filters import FILTERS
from core.evaluation.rivals import RIVALS
from core.json_report import check_file, check_json, write_json
from core.models.load import Model
from core.models.table import check_latency
from core.operators.table import PAPER_OPERATORS, Operator
from core.solver import Solver
from server.commands import evaluate_loss, evaluate_outside, evaluate_preset, options
from server.commands.evaluate_clip import Bench, ClipRun, Task, add_metric_arguments, load_bench, progress
from server.commands.evaluate_tables import gain_table, mean_table
from server.files.inputs import read_clip
from server.files.outputs import write_png
from server.files.sheet import SheetRow, sheet

ALL_VARIANTS = (*PLAIN, *VARIANTS)
SHEET_VARIANTS = (("degraded", False), ("x_init", True), ("flash", True))
"""what a contact sheet shows beside the original: variant and output consistency"""

NOISE = 0.01
SIZE = (240, 416)
"""(height, width) where none is given"""
WIDTH = 170
"""columns of a file or a pipe, for all the metrics"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clips", metavar="CLIP", nargs="+", type=Path, help="videos that are clean, the originals")
    parser.add_argument("--operators", default="all", help="all (the paper's five), KIND,..., or an operator's JSON")
    parser.add_argument(
        "--variants",
        default="all",
        help=f"all (of our own: {','.join(ALL_VARIANTS)}) or a choice of these, the rivals {','.join(RIVALS)}, "
        f"FFmpeg's filters {','.join(FILTERS)}, and the single-image networks {','.join(evaluate_outside.SUITS)}",
    )
    parser.add_argument("--size", metavar="WxH", type=options.size, default=SIZE, help="default: 416x240")
    parser.add_argument("--noise", type=float, help=f"of the measurement, on [-1, 1] (default: {NOISE})")
    parser.add_argument("--seed", type=options.seed, default=0, help="of all noise (default: 0)")
    parser.add_argument("--frames", metavar="N", type=options.positive, help="first N frames of each clip")
    parser.add_argument(
        "--coded",
        metavar="CODEC:RATE,...",
        type=codings,
        default=[None],
        help="send each measurement through these encoders first: vp8:400k (bit rate), vp8:q24 (fixed quantiser), "
        "h264:23 (CRF), jpeg:40 (quality), or none",
    )
    parser.add_argument(
        "--told-noise", metavar="LEVEL", type=level, help="tell the solver this noise level (default: that of --noise)"
    )
    parser.add_argument(
        "--latents",
        metavar="N,...",
        type=latents,
        default=[3],
        help="of a chunk: 3 (12 frames, the default), 1 (4 frames, low latency), or 3,1 for both and their difference",
    )
    parser.add_argument("--sheet", metavar="PNG", type=Path, help="write a contact sheet")
    add_metric_arguments(parser)
    evaluate_outside.add_arguments(parser)
    evaluate_preset.add_arguments(parser)
    evaluate_loss.add_arguments(parser)
    options.add_model_arguments(parser)
    options.add_json_argument(parser)
    options.add_operator_arguments(parser)
    options.add_solver_arguments(parser)


def codings(text: str) -> list[str | None]:
    """An argparse type: CODEC:RATE,... where `none` leaves the measurement as it is."""
    found = [None if part == "none" else options.coding(part) for part in text.split(",")]
    return list(dict.fromkeys(found))


def latents(text: str) -> list[int]:
    """An argparse type: lengths of a chunk."""
    known = {str(count): count for count in LATENTS.values()}
    found = text.split(",")
    for part in found:
        if part not in known:
            raise argparse.ArgumentTypeError(f"expected {' or '.join(known)} latents, found {part!r}")
    return list(dict.fromkeys(known[part] for part in found))


def level(text: str) -> float:
    """An argparse type: a noise level, above 0 and at most 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a noise level above 0 and at most 1, found {text!r}")
    return value


def run(args: argparse.Namespace) -> int:
    check_json(args.json)
    check(args)
    for clip in args.clips:
        read_clip(clip, args.size, 1)  # a bad one is refused before the work begins
    if args.preset:
        return evaluate_preset.run(args)
    model = options.load_model(args)
    config = options.solver_config(args)
    if args.loss:
        return run_loss(args, Solver(model.codec, model.denoiser, model.num_steps), model, config)
    tasks = plan(args, config)
    bench = load_bench(args, model, [task.method for task in tasks])
    rows: list[dict[str, Any]] = []
    drawn: list[SheetRow] = []
    with progress(len(args.clips) * len(tasks)) as begin:
        for clip in args.clips:
            pixels = read_clip(clip, args.size, args.frames)
            clip_rows, kept = evaluate(ClipRun(bench, clip.name, pixels), tasks, begin)
            rows += clip_rows
            drawn += sheet_rows(clip, pixels, tasks, kept)
    if args.sheet:
        write_png(args.sheet, sheet(drawn))
    tell(args, rows, settings(args, config, model, bench))
    return 0


def check(args: argparse.Namespace) -> None:
    """Raises UsageError for arguments that do not go together or could not be carried out."""
    if args.loss:
        evaluate_loss.check(args)
    if args.preset:
        evaluate_preset.check(args)
    evaluate_outside.check(args)
    for latency, count in LATENTS.items():
        if count in args.latents:
            check_latency(args.model, latency)
    if args.sheet:
        check_file(args.sheet, "--sheet")
        if args.sheet.suffix.lower() != ".png":
            raise UsageError(f"expected a .png file for --sheet, found {args.sheet}")
    if args.size[0] % 16 or args.size[1] % 16:
        raise UsageError(f"expected a --size in multiples of 16, found {args.size[1]}x{args.size[0]}")


def tell(args: argparse.Namespace, rows: list[dict[str, Any]], found: dict[str, Any]) -> None:
    """The tables for people and the report for programs."""
    averages, gained, paid, videos = means(rows), gains(rows), prices(rows), fvd_rows(rows)
    for row in videos:
        next(mean for mean in averages if row.items() >= keys_of(mean).items())["fvd"] = row["fvd"]
    console = options.console(args.json)
    if not console.is_terminal:
        console.width = WIDTH
    console.print(mean_table(averages))
    if any(row["few"] for row in videos):
        console.print(f"FVD of {videos[0]['videos']} videos compares methods here at best: the paper has 100")
    if gained:
        console.print(gain_table(gained, "flash over x_init"))
    if paid:
        console.print(gain_table(paid, "flash in chunks of 1 latent over chunks of 3"))
    report = {"settings": found, "rows": without_features(rows), "means": averages, "gains": gained, "prices": paid}
    write_json(report | ({"fvd": videos} if videos else {}), args.json)


def keys_of(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ROW_KEYS}


def run_loss(args: argparse.Namespace, solver: Solver, model: Model, config: SolverConfig) -> int:
    """The comparison of masking lost frames with freezing, in the place of that of the variants."""
    operators = operators_of(args)
    prepare(operators, args)
    rows: list[dict[str, Any]] = []
    with progress(len(args.clips)) as begin:
        for clip in args.clips:
            begin(clip.stem)
            pixels = read_clip(clip, args.size, args.frames)
            rows += evaluate_loss.evaluate(clip.name, pixels, operators, solver, model, config, args)
    averages = evaluate_loss.means(rows)
    found = {**settings(args, config, model, None), "loss": args.loss, "burst": args.burst}
    options.console(args.json).print(evaluate_loss.mean_table(averages))
    write_json({"settings": found, "rows": rows, "means": averages}, args.json)
    return 0


def plan(args: argparse.Namespace, config: SolverConfig) -> list[Task]:
    """The rows that were asked for, in the order of the table."""
    outside = evaluate_outside.names(args)
    every = ALL_VARIANTS if args.variants == "all" else (*METHODS, *outside)
    variants = chosen(args.variants, every, "variants")
    if args.external and args.external not in variants:
        variants.append(args.external)
    operators = operators_of(args)
    prepare(operators, args)
    tasks = []
    for operator in operators:
        for coding, count, variant in product(args.coded, args.latents, variants):
            if not suits(variant, operator):
                continue
            for consistent in (False, True):
                if consistent and (variant == "degraded" or config.output_gamma == 0):
                    continue
                own = variant_config(variant, config, consistent)
                tasks.append(Task(operator, variant, variant, own, coding, args.told_noise, latents=count))
    if not tasks:
        raise UsageError(f"expected a variant for {args.operators}, found {args.variants}, which is none for it")
    return tasks


def suits(variant: str, operator: Operator) -> bool:
    """Whether a method is made for an operator; ours are made for all."""
    return FILTERS[variant].suits(operator) if variant in FILTERS else evaluate_outside.suits(variant, operator)


def prepare(operators: list[Operator], args: argparse.Namespace) -> None:
    """Has every operator check the size. Raises UsageError for one that does not fit."""
    for operator in operators:
        try:
            operator.prepare(*args.size)
        except ValueError as error:
            raise UsageError(f"{operator.kind}: {error}") from error


def operators_of(args: argparse.Namespace) -> list[Operator]:
    texts = [args.operators] if args.operators.lstrip().startswith("{") else kinds_of(args)
    names = [options.operator_fields(text)["kind"] for text in texts]
    if "mask" in names:
        raise UsageError("expected operators without `mask`, which is drawn for one video: use inpainting")
    known = {field for name in names for field in options.OPERATORS[name].model_fields}
    for given in options.operator_settings(args):
        if given not in known:
            raise UsageError(
                f"expected an operator among --operators that has --operator.{given}, found {', '.join(names)}"
            )
    noise = NOISE if args.noise is None else args.noise
    return [
        options.operator(text, only_fields_of(name, args), noise=noise) for text, name in zip(texts, names, strict=True)
    ]


def kinds_of(args: argparse.Namespace) -> list[str]:
    paper = [kind for kind, known in options.OPERATORS.items() if known in map(type, PAPER_OPERATORS)]
    names = ",".join(paper) if args.operators == "all" else args.operators
    return chosen(names, (*options.OPERATORS,), "operators")


def only_fields_of(kind: str, args: argparse.Namespace) -> argparse.Namespace:
    """The arguments without the operator settings that `kind` does not have."""
    known = options.OPERATORS[kind].model_fields
    kept = {n: v for n, v in vars(args).items() if not n.startswith("operator.") or n.split(".", 1)[1] in known}
    return argparse.Namespace(**kept)


def chosen(text: str, names: tuple[str, ...], what: str) -> list[str]:
    """The names in a comma-separated list, or all of them."""
    if text == "all":
        return list(names)
    found = [name.strip() for name in text.split(",")]
    for name in found:
        if name not in names:
            raise UsageError(f"expected --{what} among {', '.join(names)}, found {name!r}")
    return list(dict.fromkeys(found))


def evaluate(
    clip: ClipRun, tasks: list[Task], begin: Callable[[str], None]
) -> tuple[list[dict[str, Any]], dict[Task, Pixels]]:
    """The rows of one clip, and the frame of each for the contact sheet."""
    rows, kept = [], {}
    for task in tasks:
        begin(f"{clip.name} {task.operator.kind} {task.variant}")
        row, pixels = clip.run(task)
        rows.append(row)
        kept[task] = pixels[sheet_frame(len(pixels))]
    return rows, kept


def sheet_frame(frames: int) -> int:
    """The middle of the last chunk, at the latest of the third: far enough in for the cache to be at work."""
    lengths = ChunkSpec().split(frames)
    last = min(len(lengths), 3)
    return sum(lengths[:last]) - 1 - lengths[last - 1] // 2


def sheet_rows(clip: Path, pixels: Pixels, tasks: list[Task], kept: dict[Task, Pixels]) -> list[SheetRow]:
    """A row of pictures for each operator and coding of a clip."""
    rows = []
    original = pixels[sheet_frame(len(pixels))]
    for operator, coding, count in dict.fromkeys((task.operator, task.coding, task.latents) for task in tasks):
        own = {
            (task.variant, task.row_keys["output_consistency"]): task
            for task in tasks
            if (task.operator, task.coding, task.latents) == (operator, coding, count)
        }
        cells = [(label(own[wanted]), kept[own[wanted]]) for wanted in SHEET_VARIANTS if wanted in own]
        title = f"{clip.stem}: {operator.kind}" + (f", {coding}" if coding else "")
        title += "" if count == 3 else ", chunks of 4 frames"
        rows.append(SheetRow(title, (*cells, ("original", original))))
    return rows


def label(task: Task) -> str:
    return f"{task.variant} + output consistency" if task.row_keys["output_consistency"] else task.variant


def settings(args: argparse.Namespace, config: SolverConfig, model: Model, bench: Bench | None) -> dict[str, Any]:
    operators = operators_of(args)
    return {
        "model": args.model,
        "weights": args.weights,
        "codec": args.codec,
        "device": args.device,
        "size": f"{args.size[1]}x{args.size[0]}",
        "noise": operators[0].noise,
        "told_noise": args.told_noise,
        "coded": args.coded,
        "seed": args.seed,
        "latents": args.latents,
        "frames": args.frames,
        "solver": config.model_dump(),
        "num_steps": config.num_steps or model.num_steps,
        "variants": {name: variant.changes for name, variant in VARIANTS.items()},
        "operators": [operator.model_dump() for operator in operators],
        "ssim": "scikit-image on [0, 1], Gaussian window, sigma 1.5",
        "vmaf": "libvmaf vmaf_v0.6.1" if bench and bench.ffmpeg else None,
        "metrics": args.metrics,
    }
