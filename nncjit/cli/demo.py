"""Compress a small real network that ships with nncjit, decompress it, and test it.

The network reads handwritten digits; its 360 test images were not used for training. The demo accepts the options of
`nncjit compress`: try `nncjit demo --bits 1.5` to see at which size the network starts to fail.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nncjit.cli import text
from nncjit.cli.arguments import add_encoder, add_output, encoder_options, note, show
from nncjit.encoder.choices import FinenessKinds

CALIBRATED_QUALITY = 1.0
"""How fine the calibrated row is unless the user says: chosen on varied training images (`bench/calibrated.py`)."""


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What the demo saw. Sizes are bytes of files, times seconds; the first times include compiling."""

    weights: int
    original_bytes: int
    compressed_bytes: int
    decoded_bytes: int
    snr: float | None
    images: int
    correct_before: int
    correct_after: int
    same_answers: int
    calibrated_bytes: int
    calibrated_correct: int
    first_compress_seconds: float
    first_decompress_seconds: float
    compress_seconds: float
    decompress_seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def configure(parser: ArgumentParser) -> None:
    """The verb's arguments."""
    add_encoder(parser)
    add_output(parser)


def run(args: Namespace) -> None:
    """Compress, decompress, compare."""
    note(args, "working (the very first run compiles the kernels and takes longer) ...")
    with TemporaryDirectory(prefix="nncjit-demo-") as folder:
        report = measure(Path(folder), encoder_options(args), args.threads)
    show(args, report, describe)


def measure(folder: Path, options: dict[str, Any], threads: int | None = None) -> DemoReport:
    """Compress and decompress in `folder` twice: first with cold kernels, then with warm ones."""
    from safetensors.numpy import load_file

    import nncjit
    from nncjit.demo import digits

    small, back = folder / "digits.nnc", folder / "digits.safetensors"
    there, again = [], []
    for _ in range(2):
        there.append(nncjit.compress(digits.MODEL, small, threads=threads, **options))
        again.append(nncjit.decompress(small, back, threads=threads))
    held_out = digits.load_held_out()
    before = digits.forward(load_file(digits.MODEL), held_out.images).argmax(1)
    after = digits.forward(load_file(back), held_out.images).argmax(1)
    size = small.stat().st_size
    fineness: dict[str, Any] = {} if options.keys() & FinenessKinds.rows().keys() else {"quality": CALIBRATED_QUALITY}
    nncjit.compress(digits.MODEL, small, calibration=digits.STATISTICS, threads=threads, **fineness, **options)
    nncjit.decompress(small, back, threads=threads)
    calibrated = digits.forward(load_file(back), held_out.images).argmax(1)
    return DemoReport(
        weights=there[0].weights,
        original_bytes=digits.MODEL.stat().st_size,
        compressed_bytes=size,
        decoded_bytes=back.stat().st_size,
        snr=there[0].snr,
        images=len(held_out.labels),
        correct_before=int((before == held_out.labels).sum()),
        correct_after=int((after == held_out.labels).sum()),
        same_answers=int((before == after).sum()),
        calibrated_bytes=small.stat().st_size,
        calibrated_correct=int((calibrated == held_out.labels).sum()),
        first_compress_seconds=there[0].seconds,
        first_decompress_seconds=again[0].seconds,
        compress_seconds=there[1].seconds,
        decompress_seconds=again[1].seconds,
    )


def describe(report: DemoReport) -> str:
    """The report as text."""
    n, whole = report.images, report.original_bytes
    bits = f"{8 * report.compressed_bytes / report.weights:.2f}"
    before = f"{report.correct_before} of {n} ({100 * report.correct_before / n:.1f} %)"
    after = f"{report.correct_after} of {n} ({100 * report.correct_after / n:.1f} %)"
    calibrated = f"{report.calibrated_correct} of {n} ({100 * report.calibrated_correct / n:.1f} %)"
    tiny = f"{text.three_digits(100 * report.calibrated_bytes / whole)} %"
    tiny_bits = f"{8 * report.calibrated_bytes / report.weights:.2f}"
    small = f"{text.three_digits(100 * report.compressed_bytes / whole)} %"
    rows = [
        ("", "file size", "of original", "bits per weight", "digits read correctly"),
        ("original model", text.size(whole), "100 %", "32.00", before),
        ("compressed (.nnc)", text.size(report.compressed_bytes), small, bits, ""),
        ("decompressed again", text.size(report.decoded_bytes), "100 %", "32.00", after),
        ("calibrated (.nnc)", text.size(report.calibrated_bytes), tiny, tiny_bits, calibrated),
    ]
    times = [
        ("compress", text.seconds(report.first_compress_seconds), text.seconds(report.compress_seconds)),
        ("decompress", text.seconds(report.first_decompress_seconds), text.seconds(report.decompress_seconds)),
    ]
    return "\n".join(
        [
            f"A real network that reads handwritten digits: {text.count(report.weights)} weights,",
            f"tested on {n} images that it has never seen.",
            "",
            text.table(rows),
            "",
            f"{report.same_answers} of {n} answers are the same before and after"
            f" (weights: {text.decibels(report.snr)} signal to noise).",
            "",
            text.table([("time", "first run", "after that"), *times]),
            "",
            "Next: nncjit compress YOUR_MODEL.safetensors -o model.nnc",
            "      nncjit inspect model.nnc",
            "      nncjit decompress model.nnc -o back.safetensors",
        ]
    )
