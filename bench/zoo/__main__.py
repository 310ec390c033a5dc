"""Measure every model of the zoo with its own weights: ``python -m bench.zoo``; ``--record`` keeps the figures."""

from __future__ import annotations

import argparse
import json
import time

from bench.zoo import MODELS, RECORD, layers, model


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.zoo", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(MODELS)}; all by default")
    parser.add_argument("--record", action="store_true", help=f"write the figures to {RECORD.name}")
    args = parser.parse_args()
    unknown = sorted(set(args.names) - set(MODELS))
    if unknown:
        parser.error(f"no model {unknown[0]!r}; there are {', '.join(MODELS)}")

    figures = json.loads(RECORD.read_text("utf-8")) if RECORD.exists() else {}
    for name in args.names or MODELS:
        module = model(name)
        if not module.WEIGHTS.exists():
            print(f"{name:12} no weights at {module.WEIGHTS}")
            continue
        weights = layers.load(module.WEIGHTS)
        begin = time.perf_counter()
        measures = module.measure(weights)
        seconds = time.perf_counter() - begin
        count = sum(w.size for w in weights.values() if w.dtype.kind == "f")
        figures[name] = {"weights": count} | measures
        text = "  ".join(f"{measure} {value:.4f}" for measure, value in measures.items())
        print(f"{name:12} {count:9,} weights  {text}  ({seconds:.1f} s)")
    if args.record:
        ordered = {name: figures[name] for name in MODELS if name in figures}
        RECORD.write_text(json.dumps(ordered, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
