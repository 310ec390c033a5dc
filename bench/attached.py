"""What running a module from its coded weights costs: peak memory and time of a pass, beside the unpacked module.

    python bench/attached.py [--layers 4] [--budget 40MB] [--json FILE.json]

The module is a chain of feed-forward layers in bfloat16, larger than the budget, as in a language model. Each row comes
from a process of its own. A pass of few tokens waits for the decoder; one of many gives it time to decode ahead. The
processor's time tells what a pass costs on a machine that has other work, too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nncodec_once import peak_memory
from saved_figures import save_or_print

HIDDEN, INNER = 2048, 4096
TOKENS = (1, 64, 512)
PASSES = 3
WAYS = ("unpacked", "attached")


def module(layers: int, device: str | None = None) -> Any:
    """The layers, with random weights, or on the meta device."""
    import torch

    torch.manual_seed(0)
    with torch.device(device or "cpu"):
        linear = (
            torch.nn.Sequential(torch.nn.Linear(HIDDEN, INNER), torch.nn.SiLU(), torch.nn.Linear(INNER, HIDDEN))
            for _ in range(layers)
        )
        return torch.nn.Sequential(*linear).bfloat16().eval()


def measured(way: str, file: Path, layers: int, budget: str) -> dict[str, Any]:
    """Peak memory beyond that of an empty process, and the least seconds of a pass for each number of tokens."""
    import torch

    import nncjit.torch

    inputs = {n: torch.randn(n, HIDDEN, generator=torch.Generator().manual_seed(n)).bfloat16() for n in TOKENS}
    net = module(layers, "meta")
    with torch.inference_mode():  # what an empty process has: torch, compiled kernels, the inputs
        torch.nn.Linear(HIDDEN, 8).bfloat16()(inputs[TOKENS[-1]])
        nncjit.decode(file, names="0.0.bias")
        before = peak_memory()
        if way == "unpacked":
            nncjit.torch.load_model(net, file)
        else:
            nncjit.torch.attach(net, file, budget=budget)
        seconds, processor, sums = {}, {}, {}
        for n, tokens in inputs.items():
            times = []
            for _ in range(PASSES):
                started = time.perf_counter(), time.process_time()
                sums[n] = float(net(tokens).double().sum())
                times.append((time.perf_counter() - started[0], time.process_time() - started[1]))
            seconds[str(n)], processor[str(n)] = map(min, zip(*times, strict=True))
    found = {"way": way, "peak": peak_memory() - before, "seconds": seconds, "processor_seconds": processor}
    return found | {"sums": list(sums.values())}


def main() -> None:
    """Measure, and save or print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--budget", default="40MB")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the figures")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measured(args.way, args.file, args.layers, args.budget)))
        return
    import nncjit.torch

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "m.nnc"
        report = nncjit.torch.save_file(module(args.layers), file, bits=4)
        words = ["--file", str(file), "--layers", str(args.layers), "--budget", args.budget]
        rows = [
            json.loads(subprocess.check_output([sys.executable, __file__, "--way", way, *words], text=True))
            for way in WAYS
        ]
    if rows[0].pop("sums") != rows[1].pop("sums"):
        sys.exit("attached: the outputs differ")
    facts = {"budget": args.budget, "original_bytes": report.original_bytes, "bytes": report.compressed_bytes}
    save_or_print(facts | {"rows": rows}, args.json)


if __name__ == "__main__":
    main()
