"""Thousands of tiny layers at once: whatever one call decodes, each layer comes out as it does alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
from cabac.encoding import any_layer
from codec.builder import Builder

import nncjit
from nncjit.cabac.entry_points import as_array
from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_decoder import LayerJob, PayloadJob, decode_payloads
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.cabac.scan import from_scan
from nncjit.jit import JIT
from nncjit.syntax import PayloadType

pytestmark = pytest.mark.kernel

COUNT = 1500 if JIT else 40


def any_job(rng: random.Random, unary_length: int) -> tuple[PayloadJob, np.ndarray]:
    """A layer with every choice open, alone in a payload, and its levels in raster order."""
    given = any_layer(rng, skipped=rng.random() < 0.3)
    given = given._replace(layer=given.layer._replace(unary_length=unary_length))
    payload, points = given.code(row_skip="auto" if given.layer.dq == 0 else False, selection="fast")
    base, history = (None if a is None else from_scan(a, given.layer) for a in (given.base, given.history))
    out = np.full(given.layer.size, 123456789, np.int32)
    listed = as_array(points if rng.random() < 0.7 else [])
    job = LayerJob(given.layer, out, points=listed, base=base, history=history)
    return PayloadJob(np.frombuffer(payload, np.uint8), (job,)), from_scan(given.levels, given.layer)


@pytest.mark.parametrize("threads", [1, 2])
def test_tiny_layers_of_all_kinds_in_one_call_decode_as_they_do_alone(threads):
    rng = random.Random(threads)
    coded = [any_job(rng, 1 + k % 256) for k in range(COUNT)]
    alone = []
    for job, levels in coded:
        decode_payloads([job], 1)
        np.testing.assert_array_equal(job.layers[0].out, levels)
        alone.append(job.layers[0].out.copy())
        job.layers[0].out[:] = 123456789
    decode_payloads([job for job, _ in coded], threads)
    for (job, _), levels in zip(coded, alone, strict=True):
        np.testing.assert_array_equal(job.layers[0].out, levels)


def test_tiny_tensors_of_all_unary_lengths_in_one_stream_decode_as_they_do_alone():
    """More kinds of layers than any cache keeps: a table of addresses must own what it names."""
    builder, rng = Builder(), np.random.default_rng(0)
    for k in range(2 * COUNT):
        unary_length, dq, shape = 1 + k // 2 % 256, k % 2 == 1, (2 + k % 3, 1 + k % 4)
        layer, encoder = Layer.of(shape, dq=dq, unary_length=unary_length), PayloadEncoder()
        encoder.number(0, 8)
        encoder.layer(2 * rng.integers(-1, 2, layer.size, dtype=np.int32) * (1 - dq), layer)
        builder.tensor(
            encoder.finish(),
            nnr_compressed_data_unit_payload_type=PayloadType.FLOAT,
            topology_elem_id=f"t{k}",
            tensor_dimensions=shape,
            cabac_unary_length_minus1=unary_length - 1,
            dq_flag=int(dq),
        )
    together = nncjit.decode(builder.data, threads=1)
    assert len(together) == 2 * COUNT
    with nncjit.open(builder.data, threads=1) as stream:
        for name, array in together.items():
            np.testing.assert_array_equal(array, stream.get_tensor(name))
