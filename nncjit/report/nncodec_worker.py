"""Runs NNCodec in its own interpreter: ``python nncodec_worker.py``, with jobs on standard input.

It runs under any Python that can import `nncodec.nnc_core`, which needs NumPy, and imports nothing of nncjit. It calls
only NNCodec's public functions. A job is a line of JSON, ``["encode", IN.npz, OUT.nnc, {"qp": -38}]`` or
``["decode", IN.nnc, OUT.npz, {}]``; the answer is a line that starts with ``nncodec-worker`` and goes on as JSON:
seconds, or an error. Arrays travel as npz files with members ``a0, a1, ...`` and ``names``, a JSON list.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

MARK = "nncodec-worker "
DEFAULTS: dict[str, Any] = {
    "qp": -38,
    "nonweight_qp": -75,
    "qp_density": 2,
    "dq": True,
    "param_opt": True,
    "row_skip": True,
    "scan_order": 0,
    "unary_length": 11,
    "lambda_scale": 0.0,
    "codebook_mode": 0,
}


def encode(arrays: dict[str, Any], options: dict[str, Any]) -> bytes:
    """The stream of named arrays, with NNCodec's usual settings where nothing else is asked for."""
    from nncodec.nnc_core import approximator, coder, nnr_model

    o = {**DEFAULTS, **options}
    model = nnr_model.NNRModel()
    model.init_model_from_dict(arrays)
    data = approximator.init_approx_data(arrays, model.model_info, o["qp_density"], o["scan_order"])
    plan = approximator.ApproxInfo(
        data,
        model.model_info,
        "uniform",
        o["codebook_mode"],
        o["qp"],
        0,
        not o["dq"],
        o["unary_length"] - 1,
        o["lambda_scale"],
        nonweight_qp=o["nonweight_qp"],
    )
    data = approximator.approx(plan.approx_info, model.model_info, data)
    settings = {
        "cabac_unary_length_minus1": o["unary_length"] - 1,
        "param_opt_flag": int(o["param_opt"]),
        "row_skip_enabled_flag": int(o["row_skip"]),
        "general_profile_idc": 1,
        "parent_node_id_present_flag": 0,
        "device_id": 0,
        "node_id_present_flag": 1,
    }
    stream, _ = coder.encode(settings, model.model_info, data)
    return bytes(stream)


def decode(data: bytes) -> dict[str, Any]:
    """The named arrays of a stream."""
    from nncodec.nnc_core import approximator, coder, nnr_model

    model = nnr_model.NNRModel()
    model.init_model_from_dict({})
    model.model_info["performance_map_flags"] = defaultdict(dict)
    found = coder.decode(bytearray(data), model.model_info)
    approximator.rec(found)
    arrays: dict[str, Any] = found["parameters"]
    return arrays


def save(path: Path, arrays: dict[str, Any]) -> None:
    """Write named arrays."""
    members = {f"a{index}": array for index, array in enumerate(arrays.values())}
    np.savez(path, names=np.array(json.dumps(list(arrays))), **members)


def load(path: Path) -> dict[str, Any]:
    """Read named arrays."""
    with np.load(path) as members:
        return {name: members[f"a{index}"] for index, name in enumerate(json.loads(str(members["names"])))}


def work(verb: str, source: str, target: str, options: dict[str, Any]) -> float:
    """Do one job; the seconds of the codec alone."""
    if verb == "encode":
        arrays = load(Path(source))
        start = time.perf_counter()
        data = encode(arrays, options)
        seconds = time.perf_counter() - start
        Path(target).write_bytes(data)
    else:
        data = Path(source).read_bytes()
        start = time.perf_counter()
        arrays = decode(data)
        seconds = time.perf_counter() - start
        save(Path(target), arrays)
    return seconds


def main() -> None:
    """Do jobs until the input ends."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [place for place in sys.path if Path(place).resolve() != here]  # NNCodec must not find our modules
    from nncodec.nnc_core import coder  # noqa: F401 - its import is not timed

    answers, sys.stdout = sys.stdout, sys.stderr  # NNCodec prints
    answers.write(MARK + json.dumps({"ready": True}) + "\n")
    answers.flush()
    for line in sys.stdin:
        try:
            answer: dict[str, Any] = {"seconds": work(*json.loads(line))}
        except Exception as error:  # noqa: BLE001 - the other side decides
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
        answers.write(MARK + json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
