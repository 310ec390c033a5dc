"""What other statistics, and other targets of the same quantiser, would make of a network: ideas that were tried.

    python bench/calibration_ideas.py [NETWORK] --statistics STATS [--ideas IDEA ...] [--kept in.json] [--json out.json]

Each idea is compared with what the library does, by size at equal loss, on samples that settings are chosen on; see
``bench.ideas``. MiniLM's statistics come from ``nncjit calibrate`` or from ``bench/calibrated_minilm.py``, those of the
zoo's networks from ``python -m bench.zoo.calibration``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.ideas import metric_ideas, network_ideas, output_feedback, rate_ideas
from bench.ideas.idea_curves import Idea, compare
from bench.ideas.subjects import SUBJECTS
from nncjit.calibrate import Statistics

IDEAS: dict[str, Idea] = {
    **{f"damping-{share}": metric_ideas.damped(share) for share in (0.003, 0.03)},
    **{f"shrunk-{share}": metric_ideas.shrunk(share) for share in (0.01, 0.03, 0.1)},
    **{f"rank-{rank}": metric_ideas.of_rank(rank) for rank in (16, 64, 128)},
    "diagonals": metric_ideas.of_rank(0),
    "shared-shape": metric_ideas.with_shared_shapes,
    "compensated": network_ideas.compensated,
    **{f"coherent-{share}": metric_ideas.coherent(share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)},
    "other-probes": metric_ideas.of_samples(seed=1),
    **{f"samples-{n}": metric_ideas.of_samples(n) for n in (128, 256, 512, 1024)},
    **{f"probes-{n}": metric_ideas.of_samples(probes=n) for n in (1, 2, 4)},
    **{f"samples-512-probes-{n}": metric_ideas.of_samples(512, n) for n in (2, 4)},
    **{f"second-round-{share}": network_ideas.second_round(share) for share in (0.5, 1.0)},
    **{f"measured-losses-{strength}": network_ideas.by_measured_losses(strength) for strength in (0.5, 1.0)},
    "rates-of-first-pass": rate_ideas.of_first_pass,
    "rates-slower": rate_ideas.memory(0.97, 512),
    "rates-faster": rate_ideas.memory(0.85, 256),
    "output-blocks": output_feedback.feedback_along_outputs(math.inf),
    **{f"output-feedback-{d}": output_feedback.feedback_along_outputs(d) for d in (0.3, 1.0, 3.0)},
    **{f"output-feedback-{d}-weighed": output_feedback.feedback_along_outputs(d, weighed=True) for d in (1.0,)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subject", nargs="?", choices=SUBJECTS, default="minilm")
    parser.add_argument("--statistics", type=Path, required=True)
    parser.add_argument("--ideas", nargs="+", choices=IDEAS, default=list(IDEAS))
    parser.add_argument("--kept", type=Path, help="points of an earlier run, which are not measured again")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    kept = {} if args.kept is None else json.loads(args.kept.read_text("utf-8"))
    ideas = {name: IDEAS[name] for name in args.ideas}
    with Statistics.open(args.statistics) as known:
        for found in compare(ideas, SUBJECTS[args.subject](), known, kept):
            if args.json is not None:
                args.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
