"""The table that ``bench/targets.py`` prints: ``python bench/targets_table.py SAVED.json`` prints it again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown: from the worst to the best case."""
    lines = ["| work | must reach | reach for | measured |", "|---|---:|---:|---:|"]
    for row in rows:
        values, unit = sorted(figure["value"] for figure in row["figures"]), row["unit"]
        ends = dict.fromkeys(show(value, unit) for value in (values[0], values[-1]))
        mark = "" if row["met"] else " (missed)"
        if "cores_at_hand" in row:
            mark += f", {row['cores_at_hand']:.1f} cores at hand"
        bounds = " | ".join(f"{row[name]:g}{'' if unit == 'x' else ' '}{unit}" for name in ("must", "reach"))
        lines.append(f"| {row['work']} | {bounds} | {' to '.join(ends)}{mark} |")
    return "\n".join(lines)


def show(value: float, unit: str) -> str:
    """A figure with its unit."""
    if unit == "%":
        return f"{value:+.3f} %" if value else "0 %"
    if unit == "dB":
        return f"{value:.4f} dB"
    digits = 0 if value >= 100 or value == int(value) else 1 if value >= 10 else 2
    return f"{value:.{digits}f}{'' if unit == 'x' else ' '}{unit}"


if __name__ == "__main__":
    print(table(json.loads(Path(sys.argv[1]).read_text("utf-8"))["rows"]))
