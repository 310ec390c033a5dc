"""Chains of updates encoded by NNCodec with its temporal contexts: ``nncodec_updates.py CHAIN.npz ...``.

Each file holds one chain: int32 levels under ``UPDATE/NAME`` and their qp under ``qp/UPDATE/NAME``; tensors without
levels are not in an update. Prints the bytes of each update as one line of JSON for each chain. Runs under any Python
that can import `nncodec.nnc_core` and NumPy.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

UNARY_LENGTH, DENSITY = 11, 2


def sizes(chain: Any) -> list[int]:
    """The bytes of each update of a chain."""
    from nncodec.nnc_core import approximator, coder, hls, nnr_model

    base: dict[str, Any] = {"parameters": {}, "put_node_depth": {}, "device_id": 0, "parameter_id": {}}
    found = []
    for k in range(int(chain["updates"])):
        levels = {name.split("/", 1)[1]: chain[name] for name in chain.files if name.startswith(f"{k}/")}
        model = nnr_model.NNRModel()
        model.init_model_from_dict(levels)
        data = approximator.init_approx_data(levels, model.model_info, DENSITY, 0)
        for name in levels:
            data["approx_method"][name], data["dq_flag"][name] = "uniform", 0
            data["qp"][name] = np.int32(chain[f"qp/{k}/{name}"])
        settings = {
            "cabac_unary_length_minus1": UNARY_LENGTH - 1,
            "param_opt_flag": 1,
            "row_skip_enabled_flag": 1,
            "general_profile_idc": 1,
            "device_id": 0,
            "node_id_present_flag": 1,
            "mps_parent_signalling_enabled_flag": 1,
            "parent_node_id_present_flag": 1,
            "parent_node_id_type": hls.ParentNodeIdType.ICNN_NDU_ID,
            "parent_device_id": 0,
            "temporal_context_modeling_flag": 1,
        }
        base["parameter_id"] |= model.model_info["parameter_index"]
        stream, _ = coder.encode(settings, model.model_info, data, base, True)
        found.append(len(stream))
    return found


def main(*paths: str) -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # NNCodec prints
    for path in paths:
        with np.load(path) as chain:
            answers.write(json.dumps(sizes(chain)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
