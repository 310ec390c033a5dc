"""Break one rule of a valid stream after the other and look at what becomes of it, for as long as you like.

    python tests/fuzz/run.py --seconds 3600 --seed 7

Each stream gives a result or an NncError, soon, in memory in proportion to its size (limits: `hunting.py`). Findings
are made small and saved in tests/fuzz/corpus, which the tests replay; with one, the exit code is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.child import VERBS
from fuzz.hunting import CORPUS, Child, Finding, minimise
from fuzz.structures import broken


def main() -> int:
    """Look for findings until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to look (default: 60)")
    parser.add_argument(
        "--seed", type=int, default=1, help="where the random numbers start; the same seed, the same streams"
    )
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="where findings are saved")
    parser.add_argument("--skip", choices=VERBS, nargs="*", default=(), help="ways to read that are left out")
    args = parser.parse_args()
    verbs = [verb for verb in VERBS if verb not in args.skip]
    child, rng = Child(), random.Random(args.seed)
    tried: Counter[str] = Counter()
    found: dict[tuple[str, str, str], Finding] = {}
    end = time.monotonic() + args.seconds
    while time.monotonic() < end:
        name, data = broken(rng)
        tried[name] += 1
        for verb in verbs:
            finding = child.ask(verb, data)
            if finding is None or (finding.kind, verb, name) in found:
                continue
            found[finding.kind, verb, name] = finding = minimise(child, finding)
            told = finding.told.strip().splitlines()[-1]
            print(f"{save(finding, args.corpus)}: {name}, {verb}, {finding.kind}: {told}", flush=True)
    child.close()
    print(f"{sum(tried.values())} streams, {len(verbs)} ways to read each, {len(found)} findings (seed {args.seed})")
    print(", ".join(f"{name} {n}" for name, n in sorted(tried.items())))
    return int(bool(found))


def save(finding: Finding, corpus: Path) -> Path:
    """Where the stream of a finding went."""
    corpus.mkdir(parents=True, exist_ok=True)
    name = f"{finding.kind}-{finding.verb}-{hashlib.sha256(finding.data).hexdigest()[:8]}.nnc"
    (corpus / name).write_bytes(finding.data)
    return corpus / name


if __name__ == "__main__":
    sys.exit(main())
