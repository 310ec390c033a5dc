"""NNCodec behind two calls, in an interpreter that has it: ``nncodec_worker.py encode|decode IN OUT [JSON options]``.

Runs under any Python that can import `nncodec.nnc_core` (NumPy is all that needs) and never imports nncjit. Only
NNCodec's public functions are called. Arrays travel as npz files whose members are ``a0, a1, ...`` and ``names``
(a JSON list). The last line of standard output is a JSON object: seconds, peak memory in bytes, and bytes of the
stream; NNCodec's own prints come before it.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

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


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    members = {f"a{index}": array for index, array in enumerate(arrays.values())}
    np.savez(path, names=np.array(json.dumps(list(arrays))), **members)


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as members:
        return {name: members[f"a{index}"] for index, name in enumerate(json.loads(str(members["names"])))}


def encode(arrays: dict[str, np.ndarray], **options: Any) -> bytes:
    """The model as one stream, with NNCodec's usual settings where nothing else is asked for."""
    from nncodec.nnc_core import approximator, coder, nnr_model

    o = DEFAULTS | options
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


def decode(data: bytes) -> dict[str, np.ndarray]:
    """The tensors of a stream, in its order."""
    from nncodec.nnc_core import approximator, coder, nnr_model

    model = nnr_model.NNRModel()
    model.init_model_from_dict({})
    model.model_info["performance_map_flags"] = defaultdict(dict)
    found = coder.decode(bytearray(data), model.model_info)
    approximator.rec(found)
    return found["parameters"]


def main(verb: str, source: str, target: str, options: str = "{}") -> None:
    from nncodec.nnc_core import coder  # noqa: F401  the import is not timed

    if verb == "encode":
        arrays = load(Path(source))
        start = time.perf_counter()
        data = encode(arrays, **json.loads(options))
        seconds = time.perf_counter() - start
        Path(target).write_bytes(data)
    else:
        data = Path(source).read_bytes()
        start = time.perf_counter()
        arrays = decode(data)
        seconds = time.perf_counter() - start
        save(Path(target), arrays)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak": peak, "bytes": len(data)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
