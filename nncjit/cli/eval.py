"""Measure how small a model can get and what that costs, over a grid of options, and draw quality against size.

  nncjit eval --demo                               the network that ships with nncjit
  nncjit eval model.safetensors --grid bits=2,3    quality: the exactness of the weights
  nncjit eval model.safetensors --task task.py     quality: what your task measures
  nncjit eval resnet50 --weights resnet50.pth --data imagenet/val

Several grids are combined: --grid quantizer=trellis,uniform --grid bits=2,3,4 makes two curves of three points each.
Other options apply to all points. A task is a Python file or module with measure(weights) -> dict of numbers, and
MAIN = (name of the main measure, whether higher is better).
NNCodec is measured, too, if it is installed or if --rival names an interpreter that can import it.
"""

from __future__ import annotations

import json
import math
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nncjit.cli import text
from nncjit.cli.arguments import add_choices, add_threads, encoder_options, local_path, note, path_or_url
from nncjit.cli.executors import add_executor, executor_of
from nncjit.cli.pipes import behind_pipe, on_this_machine
from nncjit.cli.pruning import add_pruning, check_pruning, pruning_of
from nncjit.errors import ModelError, OptionError
from nncjit.files import resolved
from nncjit.progress import progress_bar

if TYPE_CHECKING:
    from nncjit.report.curves import Curve
    from nncjit.report.evaluation import Evaluation
    from nncjit.report.rival import Rival
    from nncjit.report.task import Task

DEMO = "digits"
DEMO_TASK = "nncjit.demo.digits"
X_LABEL = "bits per weight"


def configure(parser: ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "source",
        nargs="?",
        metavar="MODEL",
        help="the model file (default: the task's own); with --data, a network's name",
    )
    what = parser.add_argument_group("what is measured")
    what.add_argument("--task", metavar="TASK", help=f"a Python file, a module, or {DEMO!r} (default: exactness alone)")
    what.add_argument("--demo", action="store_true", help=f"the same as --task {DEMO}")
    what.add_argument("--weights", type=local_path, metavar="FILE", help="the trained weights of the network MODEL")
    what.add_argument(
        "--data", type=local_path, metavar="FOLDER", help="images in a folder for each class (needs torchvision)"
    )
    what.add_argument("--images", type=int, metavar="N", help="look at N images only, the same number of each class")
    what.add_argument(
        "--loss", dest="tolerated", type=float, default=1.0, metavar="P", help="percent that may be lost (default: 1)"
    )
    what.add_argument(
        "--memory",
        action="store_true",
        help="also measure peak memory, of encoder, decoder and task",
    )
    how = parser.add_argument_group("where it is measured")
    how.add_argument(
        "--grid", action="append", default=[], metavar="OPTION=V,V,...", help="values of an encoder option; repeatable"
    )
    add_threads(how)
    add_executor(parser, resumes=False, title="several points at a time", each="a point")
    add_choices(parser)
    add_pruning(parser)
    rival = parser.add_argument_group("beside NNCodec")
    rival.add_argument(
        "--rival", metavar="PYTHON", help="an interpreter that can import nncodec; 'none': do not look for it"
    )
    rival.add_argument("--rival-qp", metavar="QP,QP,...", help="its quantization parameters (default: to match ours)")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="print one JSON object, or write it to FILE.json"
    )
    output.add_argument("--png", type=local_path, metavar="FILE", help="draw the curves (needs matplotlib)")
    output.add_argument("-q", "--quiet", action="store_true", help="print nothing but warnings and errors")


def run(args: Namespace) -> None:
    """Evaluate one model."""
    _check_contradictions(args)
    from nncjit.encoder.options import Options
    from nncjit.formats.folder_model import read_from
    from nncjit.report.evaluate import Request, evaluate
    from nncjit.report.grid import series
    from nncjit.report.rival import parse_qps

    _check_outputs(args)
    check_pruning(args)
    if not 0 <= args.tolerated <= 100:
        raise OptionError(f"--loss is {args.tolerated:g}, must be 0..100 percent")
    curves = series(args.grid, Options(**encoder_options(args)))
    qps = None if args.rival_qp is None else parse_qps(args.rival_qp)
    task = _task(args)
    rival, model = _rival(args), _model(args, task)
    if rival is None:
        note(args, "NNCodec is not here to compare with; --rival PYTHON names an interpreter that has it")
    with (
        on_this_machine(model) as held,
        behind_pipe(read_from(held), streams=False) as path,
        executor_of(args) as executor,
        progress_bar("eval", quiet=args.quiet or args.json == "-") as progress,
    ):
        request = Request(
            model=path,
            curves=curves,
            task=task,
            rival=rival,
            rival_qps=qps,
            memory=args.memory,
            threads=args.threads,
            pruning=pruning_of(args, path),
            executor=executor,
        )
        found = evaluate(request, progress)
    _deliver(args, replace(found, model=str(model)))


def _check_contradictions(args: Namespace) -> None:
    """Refuse arguments of which one would be ignored."""
    contradict = {
        "--demo and --task": args.demo and args.task not in (None, DEMO),
        "--rival-qp and --rival none": args.rival == "none" and args.rival_qp is not None,
        "--data and --task": (args.data is not None or args.weights is not None) and (args.task or args.demo),
    }
    for names, both in contradict.items():
        if both:
            raise OptionError(f"{names} contradict each other: give one of them")


def _check_outputs(args: Namespace) -> None:
    """Refuse what could not be written before the work is done."""
    if args.json not in (None, "-") and not args.json.endswith(".json"):
        raise OptionError(f"--json {args.json}: the file's name must end in .json")
    for path in (args.png, None if args.json in (None, "-") else Path(args.json)):
        if path is not None and not resolved(path).parent.is_dir():
            raise OptionError(f"{path}: there is no folder {resolved(path).parent}")
    if args.png is not None:
        from nncjit.report import plot

        plot.check_target(args.png)


def _task(args: Namespace) -> Task | None:
    from nncjit.report import task

    if args.data is not None or args.weights is not None:
        from nncjit.report import images

        if args.data is None or args.weights is None or args.source is None:
            raise OptionError(
                "--data needs a network's name and --weights, as in: eval resnet50 --weights W.pth --data val"
            )
        return images.task(args.source, args.data, args.weights, args.images)
    if args.images is not None:
        raise OptionError("--images needs --data")
    spec = DEMO if args.demo and not args.task else args.task
    return None if spec is None else task.load(DEMO_TASK if spec == DEMO else spec)


def _model(args: Namespace, task: Task | None) -> Any:
    if args.data is None and args.source is not None:
        return path_or_url(args.source)
    if task is None or task.weights is None:
        raise OptionError(
            "which MODEL? Name a model file, or a task that has one; to see how it works: nncjit eval --demo"
        )
    if not task.weights.exists():
        raise ModelError(f"{task.weights}: the model of task {task.name} is not there; name another one as MODEL")
    return task.weights


def _rival(args: Namespace) -> Rival | None:
    from nncjit.report.rival import Rival

    if args.rival == "none":
        return None
    return Rival(args.rival) if args.rival is not None else Rival.here()


def _deliver(args: Namespace, found: Evaluation) -> None:
    plain = json.dumps(found.to_dict(), indent=2, allow_nan=False)
    if args.json == "-":
        print(plain)
    elif args.json is not None:
        from nncjit.files import atomic_write

        with atomic_write(args.json) as file:
            file.write(plain.encode() + b"\n")
    if args.png is not None:
        from nncjit.report import plot

        plot.rate_quality(
            args.png,
            found.curves,
            title=found.title or f"{Path(found.model).name}: exactness of the weights",
            x_label=f"{X_LABEL} (original: {8 * found.original_bytes / max(found.weights, 1):.3g})",
            y_label=found.quality_name,
            level=found.original.measures[found.main],
            costs=_costs(found),
        )
    if args.json != "-" and not args.quiet:
        print(describe(found, args.tolerated))


def _costs(found: Evaluation) -> list[Curve]:
    """Seconds of encoder, decoder and inference, for the curves' picture."""
    from nncjit.report.curves import Curve

    first = found.points[0].curve
    mine = [point for point in found.points if point.curve == first]
    kinds = {
        "encode": [point.encode_seconds for point in mine],
        "decode": [point.decode_seconds for point in mine],
        "task": [point.task_seconds or math.nan for point in mine],
        "task, with factors": [point.factored_seconds or math.nan for point in mine],
    }
    rates = tuple(point.bits_per_weight for point in mine)
    return [Curve(kind, rates, tuple(seconds)) for kind, seconds in kinds.items() if not all(map(math.isnan, seconds))]


def describe(found: Evaluation, loss: float = 1.0) -> str:
    """A table of the points, the curves, and what is gained."""
    from nncjit.report import ascii as pictures

    head = f"{text.printable(found.model)}: {text.count(found.weights)} weights, {text.size(found.original_bytes)}"
    if found.title:
        head += f"\n{text.printable(found.title)}"
    chart = pictures.chart(
        found.curves, x_label=X_LABEL, y_label=found.quality_name, level=found.original.measures[found.main]
    )
    gains = [text.printable(line[:1].upper() + line[1:]) + "." for line in found.gains()]
    return "\n\n".join([head, point_table(found), chart, "\n".join([*_unchanged(found, loss), *gains])]).rstrip()


def point_table(found: Evaluation) -> str:
    """One line for each point."""
    from nncjit.report import grid

    names = list(dict.fromkeys(name for point in found.points for name in point.measures))
    memory = any(point.encode_peak is not None for point in found.points)
    task, factors = found.original.task_seconds is not None, any(point.factored_seconds for point in found.points)
    head = ["", "options", "size", "of original", "bits/weight", *names, "encode", "decode"]
    head += ["task"] * task + ["with factors"] * factors
    rows = [[*head, "memory"] if memory else head]
    uncoded = [("original", found.original, found.original_bytes)]
    if found.pruned is not None:
        uncoded.append(("pruned", found.pruned, found.pruned.bytes))
    for label, measured, n_bytes in uncoded:
        row = [label, "", text.size(n_bytes), f"{text.three_digits(100 * n_bytes / found.original_bytes)} %"]
        row += [f"{8 * n_bytes / found.weights:.2f}"]
        row += [_value(measured.measures.get(name)) for name in names] + ["", ""]
        row += [_seconds(measured.task_seconds)] * task + [""] * factors
        rows.append([*row, _memory(None, None, measured.task_peak)] if memory else row)
    for point in found.points:
        row = [point.curve, grid.describe(point.options)]
        row += [text.size(point.bytes), f"{text.three_digits(point.ratio)} %", f"{point.bits_per_weight:.2f}"]
        row += [_value(point.measures.get(name)) for name in names]
        row += [text.seconds(point.encode_seconds), text.seconds(point.decode_seconds)]
        row += [_seconds(point.task_seconds)] * task + [_seconds(point.factored_seconds)] * factors
        peaks = (point.encode_peak, point.decode_peak, point.task_peak, point.factored_peak)
        rows.append([*row, _memory(*peaks)] if memory else row)
    return text.table(rows, left=(0, 1))


def _value(value: float | None) -> str:
    if value is None:
        return "-"
    return "exact" if value == float("inf") else f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else text.seconds(seconds)


def _memory(*peaks: int | None) -> str:
    """Of encoder, decoder, task, and task with factors; those at the end that were not measured are left out."""
    shown = ["-" if peak is None else text.size(peak) for peak in peaks]
    while len(shown) > 1 and shown[-1] == "-":
        shown.pop()
    return " / ".join(shown)


def _unchanged(found: Evaluation, loss: float) -> list[str]:
    """The smallest that each curve gets without losing more than `loss` percent of the main measure."""
    from nncjit.report import grid

    lines = []
    for label, point in found.nearly_unchanged(loss).items():
        if point is None:
            said = "no point is that good"
        else:
            said = f"{text.three_digits(point.ratio)} % of the original"
            said += f" ({point.bits_per_weight:.2f} bits per weight, {grid.describe(point.options)})"
        lines.append(f"  {label}: {said}")
    if not lines:
        return []
    return [
        f"Smallest that loses no more than {loss:g} % of the original's {found.quality_name.partition(' (')[0]}:",
        *lines,
    ]
