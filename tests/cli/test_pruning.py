"""Pruning from the command line: a graph in a JSON file says which dimensions belong together."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import nncjit
from nncjit.cli.main import main
from nncjit.demo import digits

GRAPH = [
    {
        "name": "hidden",
        "size": 128,
        "members": [
            {"tensor": "hidden.weight", "axis": 0},
            {"tensor": "hidden.bias", "axis": 0},
            {"tensor": "output.weight", "axis": 1},
        ],
    }
]


def test_channels_go_and_come_back_as_zeros(tmp_path):
    graph, small, back = tmp_path / "g.json", tmp_path / "m.nnc", tmp_path / "m.safetensors"
    graph.write_text(json.dumps(GRAPH))
    assert main(["compress", str(digits.MODEL), "-o", str(small), "--prune", str(graph), "--prune-share", "0.5"]) in (
        0,
        None,
    )
    assert nncjit.decode(small)["hidden.weight"].shape == (64, 512)
    assert main(["decompress", str(small), "-o", str(back), "--full-size"]) in (0, None)
    full = load_file(back)
    assert full["hidden.weight"].shape == (128, 512)
    assert np.count_nonzero(~full["hidden.weight"].any(1)) == 64


@pytest.mark.parametrize("text", ["{", "[1]", '[{"name": "x"}]', '[{"name": "h", "size": 3, "members": [{"axs": 1}]}]'])
def test_a_graph_that_is_none_gets_one_line(tmp_path, capsys, text):
    graph = tmp_path / "g.json"
    graph.write_text(text)
    code = main(["compress", str(digits.MODEL), "-o", str(tmp_path / "m.nnc"), "--prune", str(graph)])
    assert code == 2
    assert capsys.readouterr().err.count("\n") == 1
