"""A series of updates decoded by NNCodec: ``nncodec_series.py OUT.npz U1.nnc U2.nnc ...``.

Runs under any Python that can import `nncodec.nnc_core` and NumPy. Arrays go into OUT.npz under ``STREAM/NAME``.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np


def main(target: str, *streams: str) -> None:
    from nncodec.nnc_core import approximator, coder, nnr_model

    base: dict[str, Any] = {"parameters": {}, "put_node_depth": {}, "device_id": 0, "parameter_id": {}}
    arrays = {}
    for index, path in enumerate(streams):
        model = nnr_model.NNRModel()
        model.init_model_from_dict({})
        model.model_info["performance_map_flags"] = defaultdict(dict)
        data = bytearray(Path(path).read_bytes())
        found = coder.decode(data, model.model_info, approx_param_base=base, update_base_param=True)
        approximator.rec(found)
        arrays |= {f"{index}/{name}": np.asarray(array) for name, array in found["parameters"].items()}
    np.savez(target, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
