"""What each format can do, and the test that shows it. docs/make_formats.py makes the table of the page from this."""

from __future__ import annotations

COLUMNS = ("read", "write", "topology in stream", "encoded inside", "quantised lossless")

_ROUND_TRIP = "tests/formats/test_formats.py::test_names_order_shapes_and_values_come_back"
_PIECES = "tests/codec/test_integer_pieces.py"
_ONNX = "tests/formats/test_onnx.py"
_INSIDE = "tests/convert/test_encoded_onnx.py"
_GGUF = "tests/formats/test_gguf.py"
_HF = "tests/hf/test_hf_layout.py"
_KERAS = "tests/formats/test_keras.py"
_TORCH = "tests/formats/test_torch_archive.py"
_NNEF = "tests/formats/test_nnef.py"

CLAIMS: dict[str, tuple[str, ...]] = {
    "safetensors (one file or sharded)": (_ROUND_TRIP, _ROUND_TRIP, "", "", f"{_PIECES}::test_quantised_checkpoints"),
    "npz": (_ROUND_TRIP, _ROUND_TRIP, "", "", ""),
    "PyTorch state dict": (_ROUND_TRIP, _ROUND_TRIP, "", "", ""),
    "TorchScript, torch.export": (
        f"{_TORCH}::test_tensors_have_their_names_and_shapes",
        f"{_TORCH}::test_a_network_of_silero_comes_back",
        f"{_TORCH}::test_networks_compute_the_same",
        "",
        "",
    ),
    "Hugging Face folder": (
        f"{_HF}::test_folders_load_without_a_missing_or_unexpected_name",
        f"{_HF}::test_a_loaded_model_is_saved_as_an_ordinary_one",
        "",
        f"{_HF}::test_values_are_those_of_the_streams",
        "",
    ),
    "ONNX": (
        f"{_ONNX}::test_the_models_of_the_onnx_package_come_back",
        f"{_ONNX}::test_networks_compute_the_same",
        f"{_ONNX}::test_tensors_anywhere_in_the_model_come_back",
        f"{_INSIDE}::test_files_run_as_they_are_and_become_ordinary_ones_again",
        f"{_ONNX}::test_every_type_comes_back_bit_for_bit",
    ),
    "Keras (.keras, .h5)": (
        f"{_KERAS}::test_archives_come_back_member_by_member",
        f"{_KERAS}::test_files_of_keras_2_come_back_attribute_by_attribute",
        f"{_KERAS}::test_the_configuration_is_the_topology_and_the_optimizer_is_exact",
        "",
        f"{_KERAS}::test_layers_that_are_quantised_already_lose_nothing",
    ),
    "GGUF": (
        f"{_GGUF}::test_all_other_types_come_back_bit_for_bit",
        f"{_GGUF}::test_the_library_reads_what_comes_back",
        f"{_GGUF}::test_odd_files_come_back_bit_for_bit",
        "",
        f"{_GGUF}::test_quantised_tensors_come_back_bit_for_bit_and_small",
    ),
    "NNEF": (
        f"{_NNEF}::test_models_come_back_byte_for_byte",
        f"{_NNEF}::test_models_come_back_byte_for_byte",
        f"{_NNEF}::test_graph_and_quantisation_travel_in_the_stream",
        "tests/convert/test_encoded_nnef.py::test_values_are_those_of_decode",
        f"{_NNEF}::test_models_come_back_byte_for_byte",
    ),
}
"""Format -> for each column the test that shows it; empty where the format cannot."""
