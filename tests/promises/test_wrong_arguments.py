"""Whatever is given for an argument, a public function works or raises an `NncError`: never anything else."""

from __future__ import annotations

import io

import numpy as np
import pytest
from wrong_values import WRONG, refuses_or_works

import nncjit
import nncjit.calibrate
from nncjit.encoder.options import OptionKeywords
from nncjit.updates import Receiver, Sender, UpdateOptions
from nncjit.updates.model_files import apply_files

WEIGHTS = {"w": np.ones((8, 8), np.float32), "b": np.arange(3)}


@pytest.fixture(scope="module")
def data():
    return nncjit.encode(WEIGHTS)


@pytest.fixture
def folder(tmp_path, monkeypatch, data):
    (tmp_path / "m.nnc").write_bytes(data)
    np.savez(tmp_path / "m.npz", **WEIGHTS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rewound(value):
    return io.BytesIO(b"") if isinstance(value, io.BytesIO) else value


CALLS = {
    "encode": nncjit.encode,
    "encode options": lambda x: nncjit.encode(WEIGHTS, x),
    "encode array": lambda x: nncjit.encode({"w": x}),
    "encode name": lambda x: nncjit.encode({x if type(x).__hash__ and not isinstance(x, tuple) else 5: np.ones(3)}),
    "decode": nncjit.decode,
    "compress source": lambda x: nncjit.compress(x, "out.nnc"),
    "compress target": lambda x: nncjit.compress("m.npz", rewound(x)),
    "decompress source": lambda x: nncjit.decompress(x, "out.npz"),
    "decompress target": lambda x: nncjit.decompress("m.nnc", x),
    "open": nncjit.open,
    "inspect": nncjit.inspect,
    "verify": nncjit.verify,
    "Rule changes": lambda x: nncjit.Rule("w", x),
    "Rule pattern": lambda x: nncjit.Rule(x, ()),
    "rules of one": lambda x: nncjit.Options(rules={"w": x}),
    "rules option": lambda x: nncjit.Options(rules={"w": {"bits": x}}),
    "rules in a list": lambda x: nncjit.Options(rules=[x]),
}

NAMED = {
    "encode": (lambda **given: nncjit.encode(WEIGHTS, **given), ["threads", "metadata", "sensitivity", "pruning"]),
    "decode": (
        lambda **given: nncjit.decode("m.nnc", **given),
        ["names", "threads", "max_bytes", "parts", "state", "full_size", "lenient"],
    ),
    "compress": (
        lambda **given: nncjit.compress("m.npz", "out.nnc", **given),
        ["options", "threads", "dry_run", "metadata", "sensitivity", "pruning"],
    ),
    "decompress": (
        lambda **given: nncjit.decompress("m.nnc", "out.npz", **given),
        ["threads", "max_bytes", "full_size"],
    ),
    "open": (
        lambda **given: nncjit.open("m.nnc", **given).get_tensor("w"),
        ["framework", "device", "threads", "max_bytes", "mmap"],
    ),
    "inspect": (lambda **given: nncjit.inspect("m.nnc", **given), ["lenient"]),
    "verify": (lambda **given: nncjit.verify("m.nnc", **given), ["threads", "max_bytes"]),
}


SAMPLE = (np.ones((4, 8)), np.ones((4, 8)))


def collected():
    calibration = nncjit.calibrate.Calibration()
    calibration.linear("w", (8, 8)).add(*SAMPLE)
    calibration.end_samples(4)
    return calibration


def collecting(method, *others):
    """A method of a fresh calibration, one of whose arguments is wrong."""
    return lambda x: getattr(nncjit.calibrate.Calibration(), method)(
        *(x if other is ... else other for other in others)
    )


COLLECTING = {
    "widest_block": lambda x: nncjit.calibrate.Calibration(widest_block=x),
    "name": collecting("linear", ..., (8, 8)),
    "shape": collecting("linear", "w", ...),
    "shape of a table": collecting("table", "w", ...),
    "unreached": collecting("unreached", ..., (8, 8)),
    "samples": collecting("end_samples", ...),
    "power": lambda x: nncjit.calibrate.Calibration().end_samples(output_power=x),
    "merge": collecting("merge", ...),
    "inputs": lambda x: nncjit.calibrate.Calibration().linear("w", (8, 8)).add(x, SAMPLE[1]),
    "gradients": lambda x: nncjit.calibrate.Calibration().linear("w", (8, 8)).add(SAMPLE[0], x),
    "ids": lambda x: nncjit.calibrate.Calibration().table("w", (8, 8)).add(x, SAMPLE[1]),
    "path": lambda x: collected().save(x),
    "precision": lambda x: collected().save("s.safetensors", precision=x),
    "statistics": nncjit.calibrate.Statistics.open,
    "shapes": lambda x: collected().statistics().check(x),
    "outputs": lambda x: nncjit.calibrate.gaussian_probe(x, np.random.default_rng(0)),
    "rng": lambda x: nncjit.calibrate.fisher_probe(SAMPLE[0], x),
    "probes": lambda x: nncjit.calibrate.fisher_probe(SAMPLE[0], np.random.default_rng(0), x),
    "kernel": lambda x: nncjit.calibrate.unfold(np.ones((2, 5, 5)), x),
    "stride": lambda x: nncjit.calibrate.unfold(np.ones((2, 5, 5)), (2, 2), stride=x),
}
CHAINS = {
    **{
        name: lambda x, name=name: UpdateOptions(**{name: x})
        for name in ("encoder", "parents", "temporal", "history", "size", "renamed")
    },
    "sender": Sender,
    "folder": lambda x: Sender(WEIGHTS, folder=x),
    "session": Receiver.open,
    "new": lambda x: Sender(WEIGHTS).update(x),
    "file": lambda x: Sender(WEIGHTS).update_into(rewound(x), WEIGHTS),
    "ready": lambda x: Sender(WEIGHTS).update_into(io.BytesIO(), WEIGHTS, ready=None if x is int else x),
    "updates": lambda x: Receiver(WEIGHTS).go_on(x),
    "target": lambda x: Receiver(WEIGHTS).save(x),
    "base": lambda x: apply_files(x, [], "n.npz"),
    "base_model_id": lambda x: nncjit.apply(WEIGHTS, nncjit.update(WEIGHTS, WEIGHTS), base_model_id=x),
    "state": lambda x: nncjit.UpdateState().replace(x),
}


@pytest.mark.parametrize("call", [*COLLECTING.values(), *CHAINS.values()], ids=[*COLLECTING, *CHAINS])
def test_any_argument_of_collections_and_chains_gives_a_result_or_our_error(folder, call):
    for value in WRONG:
        refuses_or_works(call, value)


@pytest.mark.parametrize("name", CALLS)
def test_any_first_argument_gives_a_result_or_our_error(folder, name):
    for value in WRONG:
        refuses_or_works(CALLS[name], value)


@pytest.mark.parametrize(("name", "keyword"), [(name, word) for name, (_, words) in NAMED.items() for word in words])
def test_any_keyword_argument_gives_a_result_or_our_error(folder, name, keyword):
    for value in WRONG:
        refuses_or_works(lambda x: NAMED[name][0](**{keyword: x}), value)


@pytest.mark.parametrize("name", [*OptionKeywords.__annotations__, "no_such_option"])
def test_any_option_gives_options_or_our_error(name):
    for value in WRONG:
        refuses_or_works(lambda x: nncjit.Options(**{name: x}), value)
        if name in ("ratio", "bits", "snr", "qp", "quality", "rules", "sensitivity"):
            refuses_or_works(lambda x: nncjit.encode(WEIGHTS, **{name: x}), value)


@pytest.mark.parametrize("function", [nncjit.encode, nncjit.compress, nncjit.decompress, nncjit.verify])
@pytest.mark.parametrize("progress", [5, "no", [], b"x", 1.5])
def test_progress_is_a_function_true_or_nothing(folder, function, progress):
    arguments = {"compress": ("m.npz", "o.nnc"), "decompress": ("m.nnc", "o.npz"), "verify": ("m.nnc",)}
    with pytest.raises(nncjit.OptionError, match="progress"):
        function(*arguments.get(function.__name__, (WEIGHTS,)), progress=progress)


@pytest.mark.parametrize("get", [nncjit.decode, None])
def test_a_wrong_name_of_a_tensor_names_the_one_that_may_be_meant(get):
    stream = nncjit.encode({"layer.weight": np.ones((4, 4)), "layer.bias": np.ones(4)})
    with nncjit.open(stream) as opened, pytest.raises(nncjit.ModelError, match=r"did you mean 'layer\.weight'"):
        nncjit.decode(stream, names="layer.weigth") if get else opened.get_tensor("layer.weigth")
    with nncjit.open(stream) as opened:
        for value in WRONG:
            for use in (opened.get_tensor, opened.get_slice, opened.__getitem__, opened.__contains__):
                refuses_or_works(use, value)


def test_sizes_may_have_units():
    stream = nncjit.encode(WEIGHTS)
    assert set(nncjit.decode(stream, max_bytes="1MB")) == {"w", "b"}
    assert set(nncjit.decode(stream, max_bytes="1.5 GiB")) == {"w", "b"}
    with pytest.raises(nncjit.BitstreamError, match="max_bytes"):
        nncjit.decode(stream, max_bytes="0.1 kb")
    with pytest.raises(nncjit.OptionError, match="a number of bytes"):
        nncjit.decode(stream, max_bytes="1 parsec")
