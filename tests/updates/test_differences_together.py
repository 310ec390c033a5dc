"""Vectors of an update that are coded together have the bytes that they have alone."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import nncjit
from nncjit.encoder import small_tensors
from nncjit.updates import differences_together
from nncjit.updates.update_encoder import coded_together

OPTIONS = (
    {},
    {"rate_weight": 0.0},
    {"qp": -20},
    {"compact": True, "parents": "sha256"},
    {"rules": {"plain1": {"quality": 4}, "plain2": "raw", "plain3": {"unary_length": 4}}},
    {"exact": True},
    {"size": 3000},
)


def models():
    rng = np.random.default_rng(3)
    base = {f"plain{k}": rng.standard_normal(20 + k).astype(np.float32) for k in range(9)}
    base |= {f"half{k}": rng.standard_normal(50).astype(np.float16) for k in range(3)}
    base |= {f"double{k}": rng.standard_normal(50) for k in range(3)}
    base |= {f"brain{k}": rng.standard_normal(50).astype(ml_dtypes.bfloat16) for k in range(3)}
    base |= {
        name: rng.standard_normal(40).astype(np.float32) for name in ("same", "other", "large", "nan", "tiny", "far")
    }
    new = {name: (np.float64(a) + 0.01 * rng.standard_normal(a.shape)).astype(a.dtype) for name, a in base.items()}
    new["same"] = base["same"]
    new["other"] = 5 * rng.standard_normal(40).astype(np.float32)
    new["large"] = base["large"] + np.float32(1e30)
    new["nan"][3] = np.nan
    base["tiny"], new["tiny"] = base["tiny"][:3], new["tiny"][:3]
    new["far"] = base["far"] + np.float32(0.25)
    return base, new


@pytest.mark.filterwarnings("ignore:size is:nncjit.NncWarning")
@pytest.mark.filterwarnings("ignore:.*has no effect:nncjit.NncWarning")  # on vectors alone
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_bytes_are_those_of_vectors_alone(options, monkeypatch):
    base, new = models()
    counts = []

    def counted(pairs, coder):
        counts.append(len(found := coded_together(pairs, coder)))
        return found

    monkeypatch.setattr("nncjit.updates.update_encoder.coded_together", counted)
    monkeypatch.setattr(small_tensors.PAYLOADS_KERNEL, "_compiled", True)
    together = nncjit.update(base, new, **options)
    assert counts[-1] >= 12
    monkeypatch.setattr(differences_together, "FEWEST", 10**6)
    assert nncjit.update(base, new, **options) == together
    assert counts[-1] == 0
    assert nncjit.apply(base, together)["same"].tobytes() == base["same"].tobytes()
