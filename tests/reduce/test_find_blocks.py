"""Blocks are found in the networks people have, and not where a match would be a guess."""

import pytest

from nncjit.errors import ModelError
from nncjit.reduce import Block, check_blocks, find_blocks


def torch_bn(path, n):
    leaves = ("weight", "bias", "running_mean", "running_var")
    return {f"{path}.{leaf}": (n,) for leaf in leaves} | {f"{path}.num_batches_tracked": ()}


def keras_bn(path, n):
    return {f"{path}/{leaf}": (n,) for leaf in ("gamma", "beta", "moving_mean", "moving_variance")}


def by_order(shapes):
    return dict(sorted(shapes.items()))


def pairs(shapes):
    """Weight -> path of its batch norm, as found."""
    found = find_blocks(shapes)
    check_blocks(found, shapes)
    return {block.weight: block.mean.replace("/", ".").rsplit(".", 1)[0] for block in found if block.mean}


RESNET = (
    {"conv1.weight": (64, 3, 7, 7)}
    | torch_bn("bn1", 64)
    | {"layer1.0.conv1.weight": (64, 64, 1, 1)}
    | torch_bn("layer1.0.bn1", 64)
    | {"layer1.0.conv2.weight": (64, 64, 3, 3)}
    | torch_bn("layer1.0.bn2", 64)
    | {"layer1.0.conv3.weight": (256, 64, 1, 1)}
    | torch_bn("layer1.0.bn3", 256)
    | {"layer1.0.downsample.0.weight": (256, 64, 1, 1)}
    | torch_bn("layer1.0.downsample.1", 256)
    | {"fc.weight": (1000, 256), "fc.bias": (1000,)}
)
RESNET_PAIRS = {
    "conv1.weight": "bn1",
    "layer1.0.conv1.weight": "layer1.0.bn1",
    "layer1.0.conv2.weight": "layer1.0.bn2",
    "layer1.0.conv3.weight": "layer1.0.bn3",
    "layer1.0.downsample.0.weight": "layer1.0.downsample.1",
}


@pytest.mark.parametrize("shapes", [RESNET, by_order(RESNET)], ids=["defined", "sorted"])
def test_a_resnet_of_torchvision(shapes):
    assert pairs(shapes) == RESNET_PAIRS
    blocks = {block.weight: block for block in find_blocks(shapes)}
    assert blocks["conv1.weight"] == Block(
        weight="conv1.weight", gamma="bn1.weight", beta="bn1.bias", mean="bn1.running_mean", var="bn1.running_var"
    )
    assert blocks["fc.weight"] == Block(weight="fc.weight", bias="fc.bias")
    assert list(blocks) == [name for name in shapes if name in blocks]


def test_a_vgg_with_batch_norm():
    shapes = {}
    for at, (outputs, inputs) in {0: (64, 3), 3: (64, 64), 7: (128, 64)}.items():
        shapes |= {f"features.{at}.weight": (outputs, inputs, 3, 3), f"features.{at}.bias": (outputs,)}
        shapes |= torch_bn(f"features.{at + 1}", outputs)
    shapes |= {"classifier.0.weight": (10, 128), "classifier.0.bias": (10,)}
    for names in (shapes, by_order(shapes)):
        assert pairs(names) == {f"features.{at}.weight": f"features.{at + 1}" for at in (0, 3, 7)}
        first = {block.weight: block for block in find_blocks(names)}["features.0.weight"]
        assert first.vectors == (
            "features.1.bias",
            "features.1.weight",
            "features.1.running_mean",
            "features.1.running_var",
            "features.0.bias",
        )


def test_a_resnet_and_a_transformer_of_hugging_face():
    resnet = {"embedder.convolution.weight": (64, 3, 7, 7)} | torch_bn("embedder.normalization", 64)
    assert pairs(resnet) == pairs(by_order(resnet)) == {"embedder.convolution.weight": "embedder.normalization"}
    bert = {
        "embeddings.word_embeddings.weight": (1000, 32),
        "encoder.layer.0.attention.self.query.weight": (32, 32),
        "encoder.layer.0.attention.self.query.bias": (32,),
        "encoder.layer.0.output.LayerNorm.weight": (32,),
        "encoder.layer.0.output.LayerNorm.bias": (32,),
    }
    query = "encoder.layer.0.attention.self.query."
    assert find_blocks(bert) == (Block(weight=query + "weight", bias=query + "bias"),)


def test_outputs_as_columns_in_gpt2():
    shapes = {"h.0.attn.c_attn.weight": (32, 96), "h.0.attn.c_attn.bias": (96,), "x.weight": (4, 6), "x.bias": (6,)}
    assert find_blocks(shapes) == (Block(weight="h.0.attn.c_attn.weight", bias="h.0.attn.c_attn.bias", axis=1),)


def test_keras_names_and_outputs_last():
    shapes = {"block_1_expand/kernel:0": (1, 1, 16, 96), "block_1_depthwise/depthwise_kernel:0": (3, 3, 96, 1)}
    shapes |= keras_bn("block_1_expand_BN", 96) | keras_bn("block_1_depthwise_BN", 96)
    shapes |= {"block_1_project/kernel:0": (1, 1, 96, 24)} | keras_bn("block_1_project_BN", 24)
    shapes |= {"conv2d/kernel": (3, 3, 96, 20), "conv2d/bias": (20,)} | keras_bn("batch_normalization", 20)
    for names in (shapes, by_order(shapes)):
        assert pairs(names) == {
            "block_1_expand/kernel:0": "block_1_expand_BN",
            "block_1_depthwise/depthwise_kernel:0": "block_1_depthwise_BN",
            "block_1_project/kernel:0": "block_1_project_BN",
            "conv2d/kernel": "batch_normalization",
        }
        blocks = {block.weight: block for block in find_blocks(names)}
        assert blocks["conv2d/kernel"].axis == 3
        assert blocks["conv2d/kernel"].bias == "conv2d/bias"
        assert blocks["block_1_depthwise/depthwise_kernel:0"].axis == 2
        assert blocks["conv2d/kernel"].eps == 1e-3


def test_local_scaling_is_found_by_its_name():
    shapes = {"a.weight": (4, 5), "a.weight_scaling": (4,), "b.weight": (4, 5), "b.weight_scaling": (5,)}
    assert find_blocks(shapes) == (Block(weight="a.weight", scale="a.weight_scaling"),)


def densenet():
    """Normalises before it convolves; by chance one norm fits the outputs of its convolution."""
    return (
        torch_bn("l1.norm1", 64)
        | {"l1.conv1.weight": (128, 64, 1, 1)}
        | torch_bn("l1.norm2", 128)
        | {"l1.conv2.weight": (32, 128, 3, 3)}
        | torch_bn("l2.norm1", 128)
        | {"l2.conv1.weight": (128, 128, 1, 1)}
    )


def preactivation_of_one_width():
    """bn1, conv1, bn2, conv2, all 64 wide: no size tells that the norms come first."""
    shapes = {}
    for at in (1, 2):
        shapes |= torch_bn(f"bn{at}", 64) | {f"conv{at}.weight": (64, 64, 3, 3), f"conv{at}.bias": (64,)}
    return shapes


def two_for_one():
    """conv1 and fc1 both could go with bn1."""
    return {"conv1.weight": (8, 3, 3, 3), "conv1.bias": (8,), "fc1.weight": (8, 5), "fc1.bias": (8,)} | torch_bn(
        "bn1", 8
    )


@pytest.mark.parametrize(
    "shapes",
    [
        densenet(),
        preactivation_of_one_width(),
        two_for_one(),
        {"conv1.weight": (8, 3, 3, 3)} | torch_bn("bn1", 9),
        {"up.0.weight": (8, 8, 3, 3), "up.0.bias": (8,)} | torch_bn("up.1", 8),
        {"main.0.weight": (8, 8, 4, 4), "main.0.bias": (8,)} | torch_bn("main.1", 8),
        {"main.0.weight": (100, 512, 4, 4), "main.0.bias": (512,)} | torch_bn("main.1", 512),
        {"a.0.weight": (8, 3, 3, 3), "a.0.bias": (8,)} | torch_bn("a.2", 8),
        {"conv1.weight": (8, 3, 3, 3), "bn1.weight": (8,), "bn1.bias": (8,)},
        {"conv2d_transpose/kernel": (3, 3, 8, 8)} | keras_bn("conv2d_transpose_bn", 8),
    ],
    ids=[
        "norm before conv, some fit",
        "norm before conv, all fit",
        "two layers for one norm",
        "other size",
        "transposed by name",
        "transposed by kernel",
        "transposed by size",
        "not a neighbour",
        "no statistics",
        "transposed in Keras",
    ],
)
def test_a_guess_is_not_made(shapes):
    assert not pairs(shapes)
    assert not pairs(by_order(shapes))


def test_sorted_names_need_a_size_that_tells():
    """conv1, bn1 of a network for grey pictures: one input channel fits every grouping."""
    grey = {"conv1.weight": (8, 1, 3, 3), "conv1.bias": (8,)} | torch_bn("bn1", 8)
    assert pairs(grey)
    assert not pairs(by_order(grey))


def test_given_blocks_are_kept_and_their_tensors_left_alone():
    shapes = preactivation_of_one_width() | {"fc.weight": (5, 64), "fc.bias": (5,)}
    bn = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"}
    mine = Block(weight="conv1.weight", eps=1e-3, **{role: f"bn2.{leaf}" for role, leaf in bn.items()})
    found = find_blocks(shapes, [mine])
    assert mine in found
    assert Block(weight="conv2.weight", bias="conv2.bias") in found
    assert Block(weight="fc.weight", bias="fc.bias") in found
    assert not any("conv1.bias" in block.vectors for block in found)


def test_any_names_give_blocks_that_fit():
    odd = {"": (2, 2), "weight": (3, 2), "bias": (3,), "a/kernel": (2, 2), "a.bias": (2,), "0.weight": (2, 0), "x": ()}
    found = find_blocks(odd)
    check_blocks(found, odd)
    assert Block(weight="weight", bias="bias") in found


SHAPES = {"w": (4, 5), "b": (4,), "five": (5,), "s": ()}


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ([Block(weight="v")], "v: no such tensor"),
        ([Block(weight="w", bias="c")], "c: no such tensor for the block of w"),
        ([Block(weight="w", bias="five")], r"five: has shape \(5,\), the block of w needs \(4,\)"),
        ([Block(weight="w", bias="b", axis=1)], r"b: has shape \(4,\), the block of w needs \(5,\)"),
        ([Block(weight="w", bias="s")], r"s: has shape \(\)"),
        ([Block(weight="w", axis=2)], "w: shape"),
        ([Block(weight="w", axis=-1)], "w: shape"),
        ([Block(weight="w", mean="b")], "w: a batch norm needs both"),
        ([Block(weight="w", gamma="b")], "w: a batch norm needs both"),
        ([Block(weight="w", bias="b", scale="b")], "b: is in the blocks of w and w"),
        ([Block(weight="w", bias="b"), Block(weight="w")], "w: is in the blocks of w and w"),
    ],
)
def test_blocks_that_do_not_fit_are_refused_by_name(blocks, words):
    with pytest.raises(ModelError, match=words):
        check_blocks(blocks, SHAPES)
    with pytest.raises(ModelError, match=words):
        find_blocks(SHAPES, blocks)
