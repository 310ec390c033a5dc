"""Show where time, bytes and memory go, stage by stage and tensor by tensor.

MODEL is compressed into a temporary folder and decompressed again; an .nnc file is only decompressed. Stages are timed
with one thread, so their shares are exact; the time with all threads is below them. Accepts the options of nncjit
compress.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nncjit.cli import text
from nncjit.cli.arguments import add_encoder, add_output, encoder_options, note, path_or_url, show
from nncjit.cli.pipes import behind_pipe
from nncjit.errors import OptionError

if TYPE_CHECKING:
    from nncjit.report.profiler import Profile, TensorRow, Way

SORTS = {"bytes": "bytes", "compress": "compress_seconds", "decompress": "decompress_seconds"}
BAR = 30


def configure(parser: ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("source", type=path_or_url, metavar="MODEL", help="a model file or an .nnc file")
    parser.add_argument(
        "--calibration", metavar="STATS", help="statistics of the model (.safetensors); or weights, to guess them"
    )
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw it (needs matplotlib)")
    parser.add_argument("--sort", choices=sorted(SORTS), default="bytes", help="order of the tensors (default: bytes)")
    parser.add_argument("--top", type=int, default=15, metavar="N", help="tensors to show (default: 15, 0: all)")
    add_encoder(parser)
    add_output(parser)


def run(args: Namespace) -> None:
    """Profile one file."""
    from nncjit.encoder.options import Options
    from nncjit.report.profiler import profile

    if args.top < 0:
        raise OptionError(f"--top is {args.top}, must be 0 or more")
    if args.png is not None:
        from nncjit.report import plot

        plot.check_target(args.png)
    options = Options(**encoder_options(args))
    note(args, "working: several passes, the first of which compiles the kernels ...")
    with behind_pipe(args.source) as source:
        found = profile(source, options, threads=args.threads, calibration=args.calibration)
    found = replace(found, source=str(args.source))
    if args.png is not None:
        draw(found, args.png, SORTS[args.sort], args.top or len(found.tensors))
    show(args, found, lambda found: describe(found, SORTS[args.sort], args.top or len(found.tensors)))


def describe(found: Profile, sort: str = "bytes", top: int = 15) -> str:
    """The profile as text: stages of both directions, bytes by kind, tensors."""
    from nncjit.decoder.stream_decoder import way_of_decoding

    parts = [text.printable(found.source)]
    parts += [_way(title, way) for title, way in _ways(found)]
    parts += [f"plain layers are decoded {way_of_decoding()}", _kinds(found), _tensors(found, sort, top)]
    return "\n\n".join(parts)


def _ways(found: Profile) -> list[tuple[str, Way]]:
    there = [("compress", found.compress)] if found.compress is not None else []
    return [*there, ("decompress", found.decompress)]


def _way(title: str, way: Way) -> str:
    rows = [("stage", "processor", "share", "time", "calls", "memory", "")]
    for row in way.stages:
        share = row.cpu_seconds / max(way.cpu_seconds, 1e-9)
        held = text.size(row.peak_bytes) if row.peak_bytes else "-"
        times = (_time(row.cpu_seconds), f"{100 * share:.1f} %", _time(row.seconds))
        rows.append((row.name, *times, f"{row.calls:,}", held, _bar(share)))
    head = f"{title}: {_time(way.seconds)} with one thread, {_time(way.cpu_seconds)} of processor time"
    lines = [head, text.table(rows, left=(0, 6))]
    if way.threads > 1:
        gain = way.seconds / max(way.seconds_with_threads, 1e-9)
        lines.append(f"with {way.threads} threads: {_time(way.seconds_with_threads)} ({gain:.2f} times as fast)")
    grown = text.size(max(way.peak_bytes - way.idle_bytes, 0))
    lines.append(f"peak memory of the process: {text.size(way.peak_bytes)}, {grown} above the libraries alone")
    return "\n".join(lines)


def _time(seconds: float) -> str:
    """A duration to three digits, also a short one."""
    return text.seconds(seconds) if seconds >= 1 else f"{text.three_digits(1000 * seconds)} ms"


def _kinds(found: Profile) -> str:
    total = max(sum(found.bytes_by_kind.values()), 1)
    rows = [("bytes", "size", "share", "")]
    for name, n_bytes in found.bytes_by_kind.items():
        rows.append((name, text.size(n_bytes), f"{100 * n_bytes / total:.1f} %", _bar(n_bytes / total)))
    return text.table(rows, left=(0, 3))


def _tensors(found: Profile, sort: str, top: int) -> str:
    ordered = sorted(found.tensors, key=lambda row: -getattr(row, sort))
    total = max(sum(getattr(row, sort) for row in ordered), 1e-12)
    sums = [sum(getattr(row, name) for row in ordered) or 1 for name in SORTS.values()]
    rows: list[tuple[str, ...]] = [
        ("tensor", "shape", "size", "share", "bits/weight", "compress", "share", "decompress", "share", "")
    ]
    rows += [_tensor(row, sums, getattr(row, sort) / total) for row in ordered[:top]]
    rest = ordered[top:]
    if rest:
        from nncjit.report.profiler import TensorRow

        numbers = (sum(getattr(row, name) for row in rest) for name in ("weights", "original_bytes", *SORTS.values()))
        others = TensorRow(f"{len(rest)} others", (), *numbers)
        rows.append(_tensor(others, sums, sum(getattr(row, sort) for row in rest) / total, shape=""))
    return text.table(rows, left=(0, 9))


def _tensor(row: TensorRow, sums: list[float], share: float, shape: str | None = None) -> tuple[str, ...]:
    n_bytes, there, back = sums
    return (
        row.name,
        text.shape(row.shape) if shape is None else shape,
        text.size(row.bytes),
        f"{100 * row.bytes / n_bytes:.1f} %",
        f"{8 * row.bytes / row.weights:.2f}" if row.weights else "-",
        _time(row.compress_seconds) if row.compress_seconds else "-",
        f"{100 * row.compress_seconds / there:.1f} %" if row.compress_seconds else "-",
        _time(row.decompress_seconds),
        f"{100 * row.decompress_seconds / back:.1f} %",
        _bar(share),
    )


def _bar(share: float) -> str:
    """A bar of eighths of a character, or of signs where the terminal knows no others."""
    from nncjit.report import ascii as pictures

    blocks = (sys.stdout.encoding or "").lower().replace("-", "") in ("utf8", "utf8sig", "cp65001")
    return pictures.bar(min(max(share, 0.0), 1.0), BAR, blocks=blocks)


def draw(found: Profile, path: Path, sort: str, top: int) -> None:
    """The same as a picture."""
    from nncjit.report import plot

    groups = []
    for title, way in _ways(found):
        heading = f"{title}: processor time, {text.size(way.peak_bytes)} peak memory"
        groups.append((heading, "ms", [(row.name, 1000 * row.cpu_seconds) for row in way.stages]))
    ordered = sorted(found.tensors, key=lambda row: -getattr(row, sort))
    scale, unit = (1e-3, "KB") if sort == "bytes" else (1e3, "ms")
    rows = [(row.name, scale * getattr(row, sort)) for row in ordered[:top]]
    if ordered[top:]:
        rows.append((f"{len(ordered) - top} others", scale * sum(getattr(row, sort) for row in ordered[top:])))
    groups.append(("compressed tensors" if sort == "bytes" else f"tensors: {sort.partition('_')[0]}", unit, rows))
    plot.grouped_bars(path, groups, title=f"{Path(found.source).name}: where time and bytes go")
