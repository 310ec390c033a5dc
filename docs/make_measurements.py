"""Fill the tables of the documentation from the figures in ``docs/measurements``: ``python docs/make_measurements.py
[--run [NAME ...]] [--rival PYTHON]``.

Every table stands in a page between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->`` and comes from JSON files that
one command each has written; with ``--run`` these commands are run first (an hour or so, on an idle machine). Figures
are never typed in. ``--rival`` names an interpreter that can import NNCodec, which is then measured in the same runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nncjit.report.curves import Curve, common_qualities, rate_difference
from nncjit.report.evaluation import USEFUL

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "docs" / "measurements"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

STANDARD = {
    "vgg": ("VGG16", 2.98),
    "resnet": ("ResNet50", 6.54),
    "mobilenet": ("MobileNetV2", 12.18),
    "audio": ("DCase", 4.12),
    "autoencoder": ("UC12B", 17.34),
}
"""Model of the zoo -> the row of the standard's own table that it stands for, and the size there, percent."""
ZOO = (*STANDARD, "charlm", "minilm", "digits")
CALIBRATED = (*STANDARD, "charlm", "digits")
"""Models that are calibrated."""
FINETUNED = {
    "audio": ("--finetune=600", "--first=0.58", "--rate=0.01", "--price=0.05", "--compensated"),
    "autoencoder": ("--finetune=3000", "--first=7.5", "--rate=0.001", "--price=0.02", "--compensated", "--distil"),
    "charlm": ("--finetune=700", "--first=0.66", "--rate=0.003", "--price=0.03", "--compensated"),
    "digits": ("--finetune=400", "--first=0.7", "--rate=0.02", "--price=0.05"),
    "mobilenet": ("--finetune=700", "--first=0.35", "--rate=0.004", "--compensated", "--distil"),
    "resnet": ("--finetune=1200", "--first=0.5", "--rate=0.005", "--price=0.15", "--compensated"),
    "vgg": ("--finetune=600", "--first=0.7", "--compensated"),
}
"""Those that are fine-tuned, too, and how."""
WHOLE_MODELS = ("minilm",)
ONE_STEP = (-32, -28, -24, -20, -17, -14)
"""Quantisation parameters of the curve with one absolute step for all matrices."""
FINER = range(-43, -3, 3)
"""Quantisation parameters of NNCodec for `autoencoder`, which needs finer steps than the default ones."""
LOSS = 1.0
"""Percent of the original's main measure that may be lost in "nearly unchanged"."""

Json = dict[str, Any]


def commands(rival: str | None) -> list[tuple[str, list[str]]]:
    """(file, arguments of the interpreter that writes it) for all figures."""
    beside = ["--rival", rival] if rival else []
    found = [("targets.json", ["bench/targets.py", "--json"])]
    found += [(f"whole-model-{m}.json", ["bench/whole_model.py", m, *beside, "--json"]) for m in WHOLE_MODELS]
    tasks = {m: m if m == "digits" else f"bench.zoo.{m}" for m in ZOO}
    for m in ZOO:
        finer = [f"--rival-qp={','.join(map(str, FINER))}"] if rival and m == "autoencoder" else []
        found += [(f"eval-{m}.json", ["-m", "nncjit", "eval", "--task", tasks[m], *beside, *finer, "--json"])]
    one_step = [f"--grid=qp={','.join(map(str, ONE_STEP))}", "--rival", "none"]
    found += [
        (f"one-step-{m}.json", ["-m", "nncjit", "eval", "--task", tasks[m], *one_step, "--json"]) for m in ("minilm",)
    ]
    found += [("lossless.json", ["bench/lossless.py", "--json"])]
    found += [("packed.json", ["bench/packed.py", "--json"])]
    found += [("large-model.json", ["bench/large_model.py", "--gigabytes", "20", "--json"])]
    found += [("huge-tensor.json", ["bench/huge_tensor.py", "--gigabytes", "0.3", "--json"])]
    float64 = ["--gigabytes", "4.5", "--dtype", "float64", "--no-whole"]
    found += [("huge-tensor-float64.json", ["bench/huge_tensor.py", *float64, "--json"])]
    found += [("onnx-memory.json", ["bench/onnx_memory.py", "--json"])]
    found += [("many-tensors.json", ["bench/many_tensors.py", "--tensors", "1000", "10000", "--json"])]
    found += [("wide-tensors.json", ["bench/wide_tensors.py", "--json"])]
    found += [("attached.json", ["bench/attached.py", "--json"])]
    found += [("installed-size.json", ["bench/installed_size.py", "--json"])]
    found += [(f"calibrated-{m}.json", ["bench/calibrated.py", m, *FINETUNED.get(m, ()), "--json"]) for m in CALIBRATED]
    found += [("without-data-charlm.json", ["bench/without_data.py", "--json"])]
    found += [("guessed.json", ["bench/guessed.py", "--json"])]
    found += [("guessed-metrics.json", ["bench/guessed_metrics.py", "--json"])]
    found += [("compensated.json", ["bench/compensated.py", "--json"])]
    found += [("cosines-minilm.json", ["bench/calibrated_minilm.py", *beside, "--json"])]
    found += [("checkpoints.json", ["bench/checkpoints.py", "--json"])]
    found += [("federated.json", ["bench/federated.py", "--json"])]
    found += [("scaling.json", ["bench/bench_decode.py", "threads", "--json"])]
    return [*found, ("kernels.json", ["bench/table.py", "--save"])]


def run(rival: str | None, names: list[str]) -> None:
    """Measure everything anew, or what is named."""
    for file, words in commands(rival):
        if names and file.removesuffix(".json") not in names:
            continue
        path = FIGURES / file
        command = [sys.executable, *words, str(path)]
        print(shlex.join(command), flush=True)
        subprocess.run(command, check=True, cwd=ROOT)
        path.write_text(json.dumps(_tidy(json.loads(path.read_text("utf-8"))), indent=1) + "\n", "utf-8")


def _tidy(found: Any) -> Any:
    """What a command found, without what is of this machine alone: paths, its name, every single round."""
    if isinstance(found, dict) and "benchmarks" in found:
        kept = ("group", "name", "fullname", "extra_info")
        rows = [{k: row[k] for k in kept} | {"stats": {"min": row["stats"]["min"]}} for row in found["benchmarks"]]
        cpu = found["machine_info"]["cpu"]
        machine = {k: cpu[k] for k in ("brand_raw", "count") if k in cpu}
        return {"machine": machine, "clock_hz": found.get("clock_hz"), "benchmarks": rows}
    if isinstance(found, dict) and "model" in found:
        return found | {"model": Path(found["model"]).name}
    return found


def load(pattern: str) -> dict[str, Any]:
    """The files of a kind, by the model that their name ends in."""
    return {path.stem.rpartition("-")[2]: json.loads(path.read_text("utf-8")) for path in sorted(FIGURES.glob(pattern))}


def targets() -> str:
    """What ``bench/targets.py`` measured."""
    path = FIGURES / "targets.json"
    if not path.exists():
        return ""
    script = runpy.run_path(str(ROOT / "bench" / "targets_table.py"))
    return str(script["table"](json.loads(path.read_text("utf-8"))["rows"]))


def whole_model() -> str:
    """Whole model files, beside NNCodec at equal error."""
    parts = []
    for model, found in load("whole-model-*.json").items():
        rows = found if isinstance(found, list) else found["rows"]
        head = ("", "SNR of the weights", "size", "bits per weight", "compress", "decompress", "peak memory")
        lines = [
            (
                row["who"],
                f"{row['snr']:.2f} dB",
                f"{row['bytes'] / 1e6:.2f} MB ({row['percent']:.2f} %)",
                f"{row['bits_per_weight']:.2f}",
                f"{row['compress_seconds']:.2f} s",
                f"{row['decompress_seconds']:.2f} s",
                f"{row['compress_peak'] / 1e6:.0f} / {row['decompress_peak'] / 1e6:.0f} MB",
            )
            for row in rows
        ]
        parts.append(f"`{model}`:\n\n{table(head, lines)}")
    return "\n\n".join(parts)


def lossless() -> str:
    """What ``bench/lossless.py`` measured."""
    path = FIGURES / "lossless.json"
    if not path.exists():
        return ""
    head = ("weights", "coder", "size", "bits per weight", "compress, million weights/s", "decompress")
    lines = [
        (
            row["weights"],
            row["coder"],
            f"{row['percent']:.2f} %",
            f"{row['bits_per_weight']:.2f}",
            f"{row['compress'] / 1e6:.0f}",
            f"{row['decompress'] / 1e6:.0f}",
        )
        for row in json.loads(path.read_text("utf-8"))["rows"]
    ]
    return table(head, lines)


def large_model() -> str:
    """What ``bench/large_model.py`` measured."""
    path = FIGURES / "large-model.json"
    if not path.exists():
        return ""
    found = json.loads(path.read_text("utf-8"))
    head = ("coder", "size", "encode", "decode", "peak memory", "7 billion weights: encode", "decode")
    lines: list[tuple[str, ...]] = []
    for row in found["rows"]:
        scaled = found["seven_billion_processor_seconds"][row["coder"]]
        lines.append(
            (
                row["coder"],
                f"{row['percent']:.1f} %",
                *(f"{row[w]['seconds']:.0f} s ({row[w]['processor_seconds']:.0f} s)" for w in ("encode", "decode")),
                f"{row['encode']['peak'] / 1e6:.0f} / {row['decode']['peak'] / 1e6:.0f} MB",
                *(f"{scaled[way] / 60:.1f} min" for way in ("encode", "decode")),
            )
        )
    ratios = " and ".join(f"{verb} {row['ratio']:.2f} times" for verb, row in found["overlap"].items())
    return f"{table(head, lines)}\n\nFrom disk to disk, beside the slower of disk and coder: {ratios} as long."


def huge_tensor() -> str:
    """What ``bench/huge_tensor.py`` measured."""
    path = FIGURES / "huge-tensor.json"
    if not path.exists():
        return ""
    found = json.loads(path.read_text("utf-8"))
    head = ("the tensor is coded", "taken", "size", "peak memory: encode", "decode")
    lines = [
        (
            row["quantizer"],
            row["way"],
            f"{100 * row['coded_bytes'] / found['bytes']:.1f} %",
            *(f"{row[w]['peak'] / 1e6:.0f} MB" for w in WAYS_THERE),
        )
        for row in found["rows"]
    ]
    return table(head, lines)


def onnx_memory() -> str:
    """What ``bench/onnx_memory.py`` measured."""
    path = FIGURES / "onnx-memory.json"
    if not path.exists():
        return ""
    found = json.loads(path.read_text("utf-8"))
    sizes = f"{found['bytes'] / 1e9:.2f} GB of float32 in tensors of {found['tensor_bytes'] / 1e6:.0f} MB"
    took = " and ".join(f"{found[w]['peak'] / 1e6:.0f} MB of memory to {w}" for w in WAYS_THERE)
    return f"{sizes} take {took} ({100 * found['coded_bytes'] / found['bytes']:.1f} % of their size)."


def packed() -> str:
    """What ``bench/packed.py`` measured."""
    path = FIGURES / "packed.json"
    if not path.exists():
        return ""
    head = ("levels", "nncjit", "zstd 19", "entropy")
    coders = ("nncjit", "zstd", "entropy")
    rows = json.loads(path.read_text("utf-8"))["rows"]
    return table(head, [(row["title"], *(f"{100 * row[c] / row['bytes']:.2f} %" for c in coders)) for row in rows])


def huge_float64() -> str:
    """What ``bench/huge_tensor.py`` measured of a tensor whose bytes no 32-bit number counts."""
    path = FIGURES / "huge-tensor-float64.json"
    if not path.exists():
        return ""
    found = json.loads(path.read_text("utf-8"))
    (row,) = found["rows"]
    took = (f"{row[w]['seconds']:.0f} s and {row[w]['peak'] / 1e9:.1f} GB of memory to {w}" for w in WAYS_THERE)
    size = f"{100 * row['coded_bytes'] / found['bytes']:.2f} % of its size, {row['snr']:.1f} dB"
    return f"{found['bytes'] / 1e9:.1f} GB of {found['dtype']} take {', '.join(took)} ({size})."


def many_tensors() -> str:
    """What ``bench/many_tensors.py`` measured."""
    path = FIGURES / "many-tensors.json"
    if not path.exists():
        return ""
    rows = json.loads(path.read_text("utf-8"))["rows"]
    steps = [step for step in rows[0] if step not in ("tensors", "peak")]
    head = ("step", *(f"{row['tensors']:,} tensors" for row in rows))
    lines = [(step, *(f"{1e6 * row[step] / row['tensors']:.0f} µs" for row in rows)) for step in steps]
    return table(head, [*lines, ("peak memory", *(f"{row['peak'] / 1e6:.0f} MB" for row in rows))])


def wide_tensors() -> str:
    """What ``bench/wide_tensors.py`` measured."""
    path = FIGURES / "wide-tensors.json"
    if not path.exists():
        return ""
    steps = ("compress", "decompress", "decode")
    rows = json.loads(path.read_text("utf-8"))["rows"]
    lines = [(f"{row['columns']:,}", str(row["threads"]), *(f"{row[step]:.1f} ns" for step in steps)) for row in rows]
    return table(("columns", "threads", *steps), lines)


def installed_size() -> str:
    """What ``bench/installed_size.py`` measured."""
    path = FIGURES / "installed-size.json"
    if not path.exists():
        return ""
    found = json.loads(path.read_text("utf-8"))
    rows = found["rows"]
    lines = [
        (row["package"], row["version"], f"{row['bytes'] / 1e6:.1f} MB", "yes" if row["to_decode"] else "no")
        for row in rows
    ]
    least = sum(row["bytes"] for row in rows if row["to_decode"])
    sums = (("to decode", least), ("all", sum(row["bytes"] for row in rows)))
    lines += [(f"**{name}**", "", f"**{n / 1e6:.0f} MB**", "") for name, n in sums]
    return table(("package", "version", f"{found['system']}, Python {found['python']}", "needed to decode"), lines)


def attached() -> str:
    """What ``bench/attached.py`` measured."""
    path = FIGURES / "attached.json"
    if not path.exists():
        return ""
    found = json.loads(path.read_text("utf-8"))
    tokens = list(found["rows"][0]["processor_seconds"])
    head = ("weights", "peak memory", *(f"pass of {n} token{'s' if n != '1' else ''}" for n in tokens))
    lines = [
        (
            row["way"] + (f", budget {found['budget']}" if row["way"] == "attached" else ""),
            f"{row['peak'] / 1e6:.0f} MB",
            *(f"{row['processor_seconds'][n]:.2f} s" for n in tokens),
        )
        for row in found["rows"]
    ]
    return table(head, lines)


def standard() -> str:
    """The standard's table beside the zoo's rows."""
    found = load("eval-*.json")
    head = ("the standard's model", "its size", "model of the zoo", "weights", "its size", "measure: original → there")
    lines = []
    for model in ZOO:
        name, size = STANDARD.get(model, ("-", None))
        ours = _ours(found[model]) if model in found else ("-", "not measured yet", "-")
        lines.append((name, "-" if size is None else f"{size:.2f} %", f"`{model}`", *ours))
    return table(head, lines)


def _ours(found: Json) -> tuple[str, str, str]:
    main, best = found["main"], _nearly_unchanged(found)
    size = "none of the sizes" if best is None else f"{best['ratio']:.2f} %"
    there = "" if best is None else f" → {_number(best['measures'][main])}"
    return (
        f"{found['weights']:,}",
        size,
        f"{MEASURES.get(main, main)}: {_number(found['original']['measures'][main])}{there}",
    )


def calibrated() -> str:
    """Coded as it is, calibrated and fine-tuned, where a validation split chose how fine."""
    kinds = ("as it is", "calibrated", "compensated", "fine-tuned")
    rivals = load("eval-*.json")
    lines = []
    for model, found in load("calibrated-*.json").items():
        rival = rivals[model]
        best = _nearly_unchanged(rival, "NNCodec")
        line = [f"`{model}`", MEASURES[rival["main"]], _number(found["original"]["test"])]
        line.append("-" if best is None else f"{best['ratio']:.2f} %")
        for kind in kinds:
            point = found["chosen"].get(kind)
            line.append("-" if point is None else f"**{point['ratio']:.2f} %** ({_lost(point['test'])})")
        lines.append(tuple(line))
    return table(("model", "measure", "original", "NNCodec", *kinds), lines) if lines else ""


def _lost(test: Json) -> str:
    """What is lost on the test split, in percent, with its standard error where it was measured."""
    return f"{test['lost']:.2f}" + (f" ± {test['error']:.2f}" if "error" in test else "")


def calibrated_minilm() -> str:
    """What each cosine costs, as percent of the original."""
    lines = []
    for found in load("cosines-*.json").values():
        for kind, sizes in found["sizes"].items():
            lines.append((kind, *("-" if size is None else f"{size:.2f} %" for size in sizes.values())))
        head = ("mean cosine", *(cosine for cosine in found["sizes"]["calibrated"]))
    return table(head, lines) if lines else ""


def rare_words() -> str:
    """Mean cosine of texts of rare words by size."""
    lines = []
    for found in load("cosines-*.json").values():
        for kind, cosines in found["rare_cosines"].items():
            lines.append((kind, *("-" if cosine is None else f"{cosine:.3f}" for cosine in cosines.values())))
        head = ("size", *(f"{size} %" for size in found["rare_cosines"]["calibrated"]))
    return table(head, lines) if lines else ""


def without_data() -> str:
    """Size and quality by what the statistics are of."""
    path = FIGURES / "without-data-charlm.json"
    if not path.exists():
        return ""
    found = json.loads(path.read_text("utf-8"))
    lines = [(p["kind"], f"{p['ratio']:.2f} %", f"{p['bits_per_character']:.4f}") for p in found["points"]]
    return table(("statistics of", "size", "bits per character"), lines)


def guessed() -> str:
    """What ``bench/guessed.py`` measured."""
    path = FIGURES / "guessed.json"
    if not path.exists():
        return ""
    found = json.loads(path.read_text("utf-8"))
    lines = []
    for model, row in found.items():
        sizes = [point["ratio"] for point in row["points"]]
        lines.append(
            (
                f"`{model}`",
                f"{min(sizes):.1f} to {max(sizes):.1f} %",
                f"{row['difference']:+.1f} ± {row['standard_error']:.1f} %",
            )
        )
    return table(("model", "sizes", "bytes, beside the default steps"), lines)


def guessed_metrics() -> str:
    """What ``bench/guessed_metrics.py`` measured."""
    path = FIGURES / "guessed-metrics.json"
    if not path.exists():
        return ""
    found = json.loads(path.read_text("utf-8"))
    guesses = dict.fromkeys(guess for row in found.values() for guess in row)
    lines = [
        (guess, *(f"{round(row[guess], 2) + 0.0:.2f}" if guess in row else "-" for row in found.values()))
        for guess in guesses
    ]
    return table(("guess", *("MiniLM" if model == "minilm" else f"`{model}`" for model in found)), lines)


def compensated() -> str:
    """What ``bench/compensated.py`` measured."""
    path = FIGURES / "compensated.json"
    if not path.exists():
        return ""
    lines = []
    for model, curves in json.loads(path.read_text("utf-8")).items():
        plain = {point["quality"]: point for point in curves["calibrated"]}
        for point in curves["compensated"]:
            before = plain[point["quality"]]
            sizes = [f"{p['ratio']:.2f} %: {p['error']:.4f}" for p in (before, point)]
            alike = point["calibrated_ratio"]
            lines.append((f"`{model}`", f"{point['quality']:g}", *sizes, "-" if alike is None else f"{alike:.2f} %"))
    return table(("model", "quality", "calibrated", "compensated", "calibrated, at that divergence"), lines)


def checkpoints() -> str:
    """Updates between checkpoints, and of a fine-tuned model to its base, beside whole streams."""
    path = FIGURES / "checkpoints.json"
    if not path.exists():
        return ""
    found = json.loads(path.read_text("utf-8"))
    whole = found["whole"]["default"]["sizes"][0]
    head = ("", "size", "of a whole stream", "encode", "decode", "bits per character")
    lines = []
    for kind, words in CHECKPOINT_KINDS.items():
        for way, row in found[kind].items():
            size = sum(row["sizes"]) / len(row["sizes"])
            lines.append(
                (
                    f"{words}, {way}",
                    f"{100 * size / found['float32_bytes']:.2f} %",
                    f"{100 * size / whole:.1f} %",
                    f"{row['encode_seconds']:.2f} s",
                    f"{row['decode_seconds']:.2f} s",
                    f"{row['bits_per_character']:.3f}",
                )
            )
    before, after = found["bits_per_character"]
    n = len(found["neighbours"]["default"]["sizes"])
    return (
        f"{found['weights']:,} weights; {n} checkpoints, {found['steps']} steps from one to the next. Training takes "
        f"the model from {before:.3f} to {after:.3f} bits per character.\n\n{table(head, lines)}"
    )


def zoo() -> str:
    """What the default does to each model of the zoo, and twice its steps."""
    head = ("model", "measure", "original", "default", "quality 0.5")
    lines = []
    for model, found in load("eval-*.json").items():
        main = found["main"]
        line = [f"`{model}`", MEASURES.get(main, main), _number(found["original"]["measures"][main])]
        for quality in (1.0, 0.5):
            point = next((p for p in _points(found) if p["options"] == {"quality": quality}), None)
            line.append(_point(point, main) if point is not None else "-")
        lines.append(tuple(line))
    return table(head, lines) if lines else ""


def _point(point: Json, main: str) -> str:
    size = f"{point['ratio']:.2f} % ({point['bits_per_weight']:.2f} bits per weight)"
    return f"**{_number(point['measures'][main])}** at {size}"


def gains() -> str:
    """The lines in which `nncjit eval` says what is gained at equal quality."""
    lines = [(model, line) for model, found in load("eval-*.json").items() for line in found["gains"]]
    return "\n".join(f"* `{model}`: {line}" for model, line in lines if not line.startswith("no comparison"))


def one_step() -> str:
    """The default steps against one absolute step."""
    lines = []
    for model, found in load("one-step-*.json").items():
        ours = load(f"eval-{model}.json").get(model)
        if ours is not None:
            one, many = (_curve(label, which) for label, which in (("one step", found), ("default steps", ours)))
            worst = found["original"]["measures"][found["main"]] * (1 - USEFUL / 100)  # of a measure that is to be high
            low, high = common_qualities(one, many) or (math.nan, math.nan)
            low = max(low, worst)
            percent = rate_difference(one, many, worst)
            much = f"{abs(percent):.1f} % {'fewer' if percent < 0 else 'more'}"
            where = f"{MEASURES.get(found['main'], found['main'])} {low:.3g} to {high:.3g}"
            lines.append(f"At equal quality, the default steps need {much} bytes on `{model}` (average over {where}).")
    return "\n".join(lines)


def _curve(label: str, found: Json) -> Curve:
    points = _points(found)
    rates = tuple(point["bits_per_weight"] for point in points)
    return Curve(label, rates, tuple(p["measures"][found["main"]] for p in points), found["higher_is_better"])


def kernels() -> str:
    """What ``bench/table.py`` makes of its saved run."""
    path = FIGURES / "kernels.json"
    if not path.exists():
        return ""
    script = runpy.run_path(str(ROOT / "bench" / "table.py"))
    return str(script["table"](script["rows_of"](json.loads(path.read_text("utf-8")))))


def cycles() -> str:
    """What a bin costs in the coder's kernels, in cycles of one core."""
    path = FIGURES / "kernels.json"
    if not path.exists():
        return ""
    saved = json.loads(path.read_text("utf-8"))
    rows = {row["name"]: row for row in saved["benchmarks"]}
    head = ("layer", "bits per weight", "bins per weight", "encode", "decode one stream", "decode block rows")
    lines = []
    for case in (f"{kind}{more}" for kind, more in itertools.product(KINDS, ("", ", trellis"))):
        found = [rows[f"bench_encode[{case}-none]"], *(rows[f"bench_decode[{case}-{way}]"] for way in WAYS)]
        info = found[1]["extra_info"]
        costs = [row["stats"]["min"] * saved["clock_hz"] / row["extra_info"]["bins"] for row in found]
        bins = info["bins"] / info["weights"]
        lines.append((case, f"{info['bits_per_weight']:.2f}", f"{bins:.2f}", *(f"{cost:.1f}" for cost in costs)))
    return table(head, lines)


CHECKPOINT_KINDS = {
    "neighbours": "update to the checkpoint before",
    "fine_tuned": "update to the base",
    "whole": "whole stream",
}
WAYS_THERE = ("encode", "decode")
KINDS = ("1.8 bits", "3.3 bits", "5.6 bits")
WAYS = ("one stream", "block rows")
MEASURES = {
    "top1": "top-1, %",
    "accuracy": "accuracy, %",
    "psnr": "PSNR, dB",
    "bits_per_character": "bits per character",
    "cosine": "mean cosine",
}
TABLES: dict[str, Callable[[], str]] = {
    "targets": targets,
    "measurements": whole_model,
    "whole-model": whole_model,
    "lossless": lossless,
    "packed": packed,
    "large-model": large_model,
    "huge-tensor": huge_tensor,
    "huge-tensor-float64": huge_float64,
    "onnx-memory": onnx_memory,
    "many-tensors": many_tensors,
    "wide-tensors": wide_tensors,
    "attached": attached,
    "installed-size": installed_size,
    "standard": standard,
    "calibrated": calibrated,
    "calibrated-minilm": calibrated_minilm,
    "rare-words": rare_words,
    "without-data": without_data,
    "guessed": guessed,
    "guessed-metrics": guessed_metrics,
    "compensated": compensated,
    "checkpoints": checkpoints,
    "zoo": zoo,
    "gains": gains,
    "one-step": one_step,
    "kernels": kernels,
    "cycles": cycles,
}


def _points(found: Json, who: str = "nncjit") -> list[Json]:
    """The points of one coder, finest last."""
    return sorted((p for p in found["points"] if p["curve"].startswith(who)), key=lambda point: point["bytes"])


def _nearly_unchanged(found: Json, who: str = "nncjit") -> Json | None:
    """The smallest point that loses at most `LOSS` percent of the main measure."""
    whole = found["original"]["measures"][found["main"]]
    sign = 1 if found["higher_is_better"] else -1
    floor = sign * whole - abs(whole) * LOSS / 100
    good = (
        p for p in _points(found, who) if (value := p["measures"][found["main"]]) is not None and sign * value >= floor
    )
    return next(good, None)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def table(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *lines))


def filled(text: str) -> str:
    """A page with its tables made anew, those that have figures."""

    def fill(match: re.Match[str]) -> str:
        made = TABLES[match[1]]()
        return f"<!-- {match[1]}: begin -->\n{made}\n<!-- {match[1]}: end -->" if made else match[0]

    return re.sub(rf"<!-- ({'|'.join(TABLES)}): begin -->\n.*?<!-- \1: end -->", fill, text, flags=re.DOTALL)


def main() -> None:
    """Measure where asked to, then fill the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs="*", metavar="NAME", help="measure first: all, or for example eval-vgg")
    parser.add_argument("--rival", metavar="PYTHON", help="an interpreter that can import nncodec")
    arguments = parser.parse_args()
    if arguments.run is not None:
        run(arguments.rival, arguments.run)
    for page in PAGES:
        before = page.read_text("utf-8")
        if (after := filled(before)) != before:
            page.write_text(after, "utf-8")
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
