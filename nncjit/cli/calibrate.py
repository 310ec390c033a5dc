"""Learn from texts what matters in a Hugging Face model, so that compress can make it much smaller.

  nncjit calibrate FOLDER --texts corpus.txt -o stats.safetensors
  nncjit compress FOLDER/model.safetensors --calibration stats.safetensors

A passage of the text files is a paragraph between blank lines, or a line where there are none. A thousand or two are
enough; no labels are needed. Without --texts, the model reads texts that it writes itself, or random tokens: that keeps
a part of the gain. After Ctrl-C, the same command goes on where it was.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nncjit.cli import text
from nncjit.cli.arguments import add_output, add_threads, local_path, note, show
from nncjit.errors import ModelError, OptionError
from nncjit.files import check_writable
from nncjit.progress import progress_bar

if TYPE_CHECKING:
    from nncjit.calibrate import Statistics

SUFFIX = ".stats.safetensors"


@dataclass(frozen=True, slots=True)
class CalibrateReport:
    """What was collected."""

    source: str
    target: str
    loss: str
    samples: int
    tensors: int
    weights: int
    bytes: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def configure(parser: ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("source", type=local_path, metavar="FOLDER", help="the model: config, weights and tokenizer")
    parser.add_argument(
        "-o", "--output", type=local_path, metavar="FILE", help=f"the statistics (default: FOLDER{SUFFIX})"
    )
    what = parser.add_argument_group("what it learns from")
    what.add_argument(
        "--texts", type=local_path, action="append", metavar="FILE", help="UTF-8 text like that in use; repeatable"
    )
    what.add_argument("--samples", type=int, default=2048, metavar="N", help="most passages (default 2048)")
    what.add_argument("--length", type=int, default=128, metavar="N", help="most tokens of a passage (default 128)")
    what.add_argument("--seed", type=int, default=0, metavar="N", help="of the passages drawn and the probes")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--loss",
        default="auto",
        choices=("auto", "embedding", "logits"),
        help="embedding or logits (default: auto, what the model gives)",
    )
    how.add_argument("--probes", type=int, default=1, metavar="N", help="backward passes of a batch (default 1)")
    how.add_argument("--batch", type=int, default=32, metavar="N", help="passages at once (default 32)")
    add_threads(how)
    add_output(parser)


def run(args: Namespace) -> None:
    """Calibrate one folder."""
    import time

    from nncjit.extras import require
    from nncjit.jit.threads import count

    torch: Any = require("torch", "calibrations of folders")
    require("transformers", "calibrations of folders")
    from nncjit.torch.calibration_folders import calibrate_folder
    from nncjit.torch.calibration_texts import passages

    target = args.output or _beside(args.source)
    if not target.name.lower().endswith(".safetensors"):
        raise OptionError(f"{target}: statistics are safetensors files: the name must end in .safetensors")
    check_writable(target)
    _check_replaced(target)
    texts = None if args.texts is None else passages(args.texts)
    if texts is None:
        note(args, "no --texts: the model reads texts made up, which keeps a part of the gain")
    if args.threads is not None:
        torch.set_num_threads(count(args.threads))
    begin = time.perf_counter()
    with progress_bar("calibrate", quiet=args.quiet, unit="batches") as progress:
        calibration = calibrate_folder(
            args.source,
            texts,
            output=args.loss,
            samples=args.samples,
            length=args.length,
            batch=args.batch,
            probes=args.probes,
            seed=args.seed,
            resume=target.with_name(f".{target.name}.part"),
            progress=progress,
        )
    calibration.save(target)
    seconds = time.perf_counter() - begin
    from nncjit.calibrate import Statistics

    with Statistics.open(target) as found:
        show(args, _report(found, args.source, target, seconds), describe)


def _beside(folder: Path) -> Path:
    """Where the statistics go when the user does not say; never a file that exists."""
    target = folder.resolve().with_name(folder.resolve().name + SUFFIX)
    if target.exists():
        raise OptionError(f"{target} exists: name it with -o to replace it, or choose another name")
    return target


def _check_replaced(target: Path) -> None:
    """Refuse to replace a model by its statistics: both are safetensors files, and one slip of the hand loses it."""
    from nncjit.calibrate import is_statistics
    from nncjit.formats import open_model

    with suppress(ModelError), open_model(target) as found:
        if not is_statistics(found.metadata):
            raise OptionError(f"{target}: exists and holds no statistics: choose another name")


def _report(found: Statistics, source: Path, target: Path, seconds: float) -> CalibrateReport:
    weights = 0
    reached = [tensor for tensor in found.values() if tensor.record.samples]
    for tensor in reached:
        size = 1
        for n in tensor.record.shape:
            size *= n
        weights += size
    return CalibrateReport(
        source=str(source),
        target=str(target),
        loss=found.loss,
        samples=found.samples,
        tensors=len(reached),
        weights=weights,
        bytes=target.stat().st_size,
        seconds=seconds,
    )


def describe(report: CalibrateReport) -> str:
    """The report as text."""
    rows = [
        ("samples", f"{report.samples}", f"loss: {report.loss}"),
        ("statistics of", f"{report.tensors} tensors", f"{text.count(report.weights)} weights"),
        ("file", text.size(report.bytes), ""),
        ("time", text.seconds(report.seconds), ""),
    ]
    head = f"{text.printable(report.source)} -> {text.printable(report.target)}"
    return f"{head}\n{text.table(rows, left=(0, 2), head=False)}"
