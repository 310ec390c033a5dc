"""Run the benchmarks and print a table of speeds, sizes and ratios: ``python bench/table.py [--only WORDS] [--save
NEW.json]``.

The table is Markdown, one section a group. "times" is the time beside the group's first row, which is nncjit's where
there is one. ``--against OLD.json`` adds how each benchmark's time compares with a saved run (below 1: faster now);
``--read SAVED.json`` prints a saved run without running anything.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent


class Row(NamedTuple):
    """One benchmark."""

    group: str
    name: str
    seconds: float
    """The fastest round: the one that other programs disturbed least."""
    info: dict[str, Any]
    clock: float | None = None
    """Cycles a second."""

    @property
    def label(self) -> str:
        """What the row is called inside its group."""
        if "rival" in self.info:
            return str(self.info["rival"])
        return self.name.partition("[")[2].removesuffix("]") or self.name.removeprefix("bench_")


def rows_of(saved: dict[str, Any]) -> list[Row]:
    """The rows of a file that pytest-benchmark wrote."""
    return [
        Row(
            entry["group"] or _stage(entry["fullname"]),
            entry["name"],
            entry["stats"]["min"],
            entry["extra_info"],
            saved.get("clock_hz"),
        )
        for entry in saved["benchmarks"]
    ]


def _stage(name: str) -> str:
    """The group of a benchmark that names none: its file and function."""
    file, _, function = name.partition("::")
    return f"{Path(file).stem.removeprefix('bench_')}: {function.partition('[')[0].removeprefix('bench_')}"


def run(words: str | None, target: Path) -> None:
    """All benchmarks whose names match the words, into a JSON file."""
    command = [sys.executable, "-m", "pytest", str(HERE), "-q", f"--benchmark-json={target}", "--benchmark-disable-gc"]
    command += [
        "--benchmark-min-rounds=3",
        "--benchmark-max-time=0.5",
        "--benchmark-columns=min",
        "-p",
        "no:cacheprovider",
    ]
    if words is not None:
        command += ["-k", words]
    done = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout[-4000:]}\ntable: the benchmarks failed")


def table(rows: Iterable[Row], before: Iterable[Row] = ()) -> str:
    """Markdown: a section for each group."""
    old = {(row.group, row.name): row.seconds for row in before}
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return "\n\n".join(_section(group, groups[group], old) for group in sorted(groups))


def _section(group: str, rows: list[Row], old: dict[tuple[str, str], float]) -> str:
    first = next((row for row in rows if row.label.startswith("nncjit")), rows[0])
    head = ["", "time", "Mweights/s", "times"]
    sized = any("bits_per_weight" in row.info for row in rows)
    bins = any("bins" in row.info for row in rows)
    head += ["bits per weight"] if sized else []
    head += ["ns/bin", "cycles/bin"] if bins else []
    rival = any("ratio" in row.info for row in rows)
    head += ["NNCodec's time / ours"] if rival else []
    head += ["against"] if old else []
    lines = [f"### {group}", "", _line(head), _line(["---", *["---:"] * (len(head) - 1)])]
    for row in rows:
        cells = [row.label, _time(row.seconds), _speed(row), f"{row.seconds / first.seconds:.2f}"]
        cells += [_bits(row.info.get("bits_per_weight"))] if sized else []
        cells += _per_bin(row) if bins else []
        cells += [f"{row.info['ratio']:.2f}" if "ratio" in row.info else ""] if rival else []
        if old:
            was = old.get((row.group, row.name))
            cells.append("new" if was is None else f"{row.seconds / was:.2f}")
        lines.append(_line(cells))
    bound = next((row.info["entropy"] for row in rows if "entropy" in row.info), None)
    if bound is not None:
        lines.append(_line(["entropy of the levels", "", "", "", _bits(bound), *[""] * (len(head) - 5)]))
    return "\n".join(lines)


def _per_bin(row: Row) -> list[str]:
    if "bins" not in row.info or row.info.get("threads", 1) > 1:
        return ["", ""]
    seconds = row.seconds / row.info["bins"]
    return [f"{1e9 * seconds:.2f}", "" if row.clock is None else f"{seconds * row.clock:.1f}"]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _speed(row: Row) -> str:
    weights = row.info.get("weights")
    if weights is None:
        return ""
    speed = weights / row.seconds / 1e6
    return f"{speed:.0f}" if speed >= 100 else f"{speed:.3g}"


def _bits(bits: float | None) -> str:
    return "" if bits is None else f"{bits:.3f}"


def _load(path: Path) -> list[Row]:
    try:
        return rows_of(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"table: {path} is no file that this command saved: {error}")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="WORDS", help="benchmarks whose names match, as in pytest -k")
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep the run, for --against")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with a saved run")
    parser.add_argument("--read", type=Path, metavar="FILE", help="do not run, print this saved run")
    args = parser.parse_args(arguments)
    before = _load(args.against) if args.against is not None else []
    if args.read is not None:
        print(table(_load(args.read), before))
        return
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "run.json"
        run(args.only, target)
        if args.save is not None:
            args.save.write_bytes(target.read_bytes())
        print(table(_load(target), before))


if __name__ == "__main__":
    main()
