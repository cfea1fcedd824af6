"""Models read from Hugging Face directories, and what a bad directory is told."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import GOLDENS, T5S, read
from safetensors.numpy import load_file, save_file

from research import Model, Relative, Tied, UntiedHead
from research.config import ConfigError
from research.model.transformer import abstract_params
from research.pretrained.huggingface import read_config, read_params


def test_configurations_read():
    t5, v1_1, mt5, umt5, ul2 = (read_config(GOLDENS / variant) for variant in T5S)
    common = dict(vocab_size=61, width=24, heads=3, head_width=5, feed_forward=40, encoder_layers=3, decoder_layers=2)
    common |= dict(dropout=0.1, attention_dropout=0.1, activation_dropout=0.1, output_dropout=0.1)
    few = Relative(buckets=8, max_distance=12)
    assert t5 == Model(**common, activation="relu", gated=False, head=Tied(scaled=True))
    assert v1_1 == Model(**common, gated=True, positions=few, head=UntiedHead())
    assert mt5 == Model(**common, gated=True, head=UntiedHead())
    assert umt5 == Model(**common, gated=True, positions=replace(few, per_layer=True), head=UntiedHead())
    assert ul2 == replace(v1_1, activation="silu")


@pytest.mark.parametrize(
    ("model_type", "fields", "has_head", "head"),
    [
        ("t5", {}, False, Tied(scaled=True)),
        ("t5", {"tie_word_embeddings": True}, True, Tied(scaled=True)),
        ("t5", {"tie_word_embeddings": False}, True, UntiedHead()),
        # As transformers 5 saves v1.1: always "tied".
        ("t5", {"tie_word_embeddings": True, "scale_decoder_outputs": False}, True, UntiedHead()),
        ("t5", {"scale_decoder_outputs": False}, False, Tied(scaled=False)),
        ("umt5", {}, True, UntiedHead()),
        ("mt5", {"tie_word_embeddings": True}, True, UntiedHead()),
        ("mt5", {"tie_word_embeddings": True}, False, Tied(scaled=False)),
    ],
)
def test_heads_read(tmp_path, model_type, fields, has_head, head):
    tensors = {"shared.weight": np.zeros((61, 24), np.float32)}
    lay_out(tmp_path, tensors | ({"lm_head.weight": tensors["shared.weight"]} if has_head else {}), model_type, fields)
    assert read_config(tmp_path).head == head


def lay_out(directory: Path, tensors, model_type: str, fields) -> None:
    config = json.loads((GOLDENS / "t5" / "config.json").read_text()) | {"model_type": model_type} | fields
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors, directory / "model.safetensors")


@pytest.fixture
def golden(tmp_path):
    """A copy of the tied golden that a test may damage: its directory, its tensors, and how to write them back."""
    shutil.copytree(GOLDENS / "t5", tmp_path / "model")
    directory = tmp_path / "model"
    return directory, load_file(directory / "model.safetensors")


def read_tensors(directory: Path, tensors):
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, directory / "model.safetensors")
    return read(directory)[1]


def same(first, second) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, first, second))


def test_everything_wrong_is_reported_at_once(golden):
    directory, tensors = golden
    tensors["encoder.block.7.layer.0.layer_norm.weight"] = np.ones(24, np.float32)
    tensors["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"] = np.ones((40, 24), np.float32)
    tensors["classifier.weight"] = np.ones(3, np.float32)
    tensors["decoder.block.0.layer.0.SelfAttention.q.weight"] = tensors.pop("shared.weight")
    tensors["decoder.block.1.layer.0.SelfAttention.o.weight"] = np.ones((15, 24), np.float32)
    tensors["decoder.final_layer_norm.weight"] = np.ones(24, np.int32)
    with pytest.raises(ConfigError) as error:
        read_tensors(directory, tensors)
    for part in (
        "encoder.block.7.layer.0.layer_norm.weight is for encoder/layers/self_attention_norm/scale of layer 7, which",
        "wi_0.weight matches 0 rows of the table",
        "classifier.weight matches 0 rows of the table",
        "decoder.block.0.layer.0.SelfAttention.q.weight has shape (61, 24), which does not fit",
        "decoder.block.1.layer.0.SelfAttention.o.weight has shape (15, 24), which does not fit",
        "decoder.final_layer_norm.weight is of type int32",
        "nothing fills embedding",
    ):
        assert part in str(error.value)


def test_a_parameter_is_not_filled_twice(golden):
    directory, tensors = golden
    name = "encoder.block.0.layer.1.DenseReluDense.wi.weight"
    tensors[name.replace("block.0", "block.00")] = tensors[name]
    with pytest.raises(ConfigError, match=r"wi.weight is for .*up/weight of layer 0, which is already filled"):
        read_tensors(directory, tensors)


def test_aliases_must_equal_their_originals(golden):
    directory, tensors = golden
    params = read(directory)[1]
    for name in ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        assert same(params, read_tensors(directory, tensors | {name: tensors["shared.weight"]}))
        with pytest.raises(ConfigError, match=f"{name} differs from shared.weight"):
            read_tensors(directory, tensors | {name: tensors["shared.weight"] + 1})


def test_the_stray_bias_of_early_checkpoints_is_not_used(golden):
    directory, tensors = golden
    params = read(directory)[1]
    stray = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    assert same(params, read_tensors(directory, tensors | {stray: np.ones((32, 3), np.float32)}))
    with pytest.raises(ConfigError, match="matches 0 rows"):
        read_tensors(directory, tensors | {stray.replace("block.0", "block.1"): np.ones((32, 3), np.float32)})


def test_the_embedding_is_read_under_its_own_names_and_never_from_the_head(golden):
    directory, tensors = golden
    params = read(directory)[1]
    shared = tensors.pop("shared.weight")
    assert same(params, read_tensors(directory, tensors | {"decoder.embed_tokens.weight": shared}))
    with pytest.raises(ConfigError, match="nothing fills embedding"):
        read_tensors(directory, tensors | {"lm_head.weight": shared})


def test_half_precision_is_read_as_float32(golden):
    directory, tensors = golden
    params = read_tensors(directory, {name: jnp.bfloat16(array) for name, array in tensors.items()})
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    assert np.array_equal(params["embedding"], np.float32(jnp.bfloat16(tensors["shared.weight"])))


@pytest.fixture
def sharded(golden):
    """The golden in two files with an index."""
    directory, tensors = golden
    whole = read(directory)[1]
    names = sorted(tensors)
    weight_map = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(names)}
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in names if weight_map[name] == file}, directory / file)
    (directory / "model.safetensors").unlink()
    return directory, weight_map, whole


def write_index(directory: Path, weight_map) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_shards(sharded):
    directory, weight_map, whole = sharded
    write_index(directory, weight_map)
    assert same(read(directory)[1], whole)


@pytest.mark.parametrize(
    "file", ["../model.safetensors", "/etc/passwd", "..", "a/b.safetensors", "a\\b.safetensors", 3, ""]
)
def test_an_index_may_not_lead_elsewhere(sharded, file):
    directory, weight_map, _ = sharded
    save_file({"shared.weight": np.ones(3)}, directory.parent / "model.safetensors")
    write_index(directory, weight_map | {"shared.weight": file})
    with pytest.raises(ConfigError, match="not the plain name of a file beside it"):
        read(directory)


def test_an_index_must_agree_with_its_files(sharded):
    directory, weight_map, _ = sharded
    write_index(directory, weight_map | {"more.weight": weight_map["shared.weight"]})
    with pytest.raises(ConfigError, match="does not hold the tensors"):
        read(directory)
    write_index(directory, weight_map | {"more.weight": "absent.safetensors"})
    with pytest.raises(ConfigError, match=r"absent.safetensors is missing"):
        read(directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "led"}, "model_type is 'led', not one of t5, mt5, umt5, bart, mbart, marian"),
        ({"model_type": None}, "model_type is None, not one of"),
        ({"d_model": "24", "d_kv": None}, "d_model, d_kv must be given, as integers"),
        ({"feed_forward_proj": "tanh"}, "feed_forward_proj is 'tanh', not one of relu, "),
        ({"feed_forward_proj": ["relu"]}, r"feed_forward_proj is \['relu'\], which is not str"),
        ({"num_decoder_layers": "2"}, "num_decoder_layers is '2', which is not int or NoneType"),
        ({"layer_norm_epsilon": None}, "layer_norm_epsilon is None, which is not int or float"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1, which is not bool"),
    ],
)
def test_configurations_refused(golden, changes, message):
    directory, _ = golden
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ConfigError, match=message):
        read_config(directory)


def test_files_refused(golden):
    directory, _ = golden
    with pytest.raises(ConfigError, match=r"config.json is missing"):
        read_config(directory / "absent")
    model = read_config(directory)
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="not a complete safetensors file"):
        read_params(directory, model)
    path.unlink()
    with pytest.raises(ConfigError, match=r"has neither model\.safetensors nor pytorch_model\.bin"):
        read_params(directory, model)
    (directory / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        read_config(directory)


@pytest.mark.live
def test_live_shards(tmp_path):
    goldens = pytest.importorskip("scripts.make_goldens")
    reference = goldens.build(goldens.VARIANTS["t5"], seed=3)
    reference.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    reference.save_pretrained(tmp_path / "whole")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert same(read(tmp_path / "shards")[1], read(tmp_path / "whole")[1])


@pytest.mark.live
@pytest.mark.parametrize("name", ["t5/small", "t5/11b", "t5_v1_1/xl", "mt5/base", "byt5/small", "umt5/xxl"])
def test_live_parameter_counts(name):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from research.model.family import preset

    model = preset(name)
    config_class, model_class = {
        False: (transformers.T5Config, transformers.T5ForConditionalGeneration),
        True: (transformers.UMT5Config, transformers.UMT5ForConditionalGeneration),
    }[model.positions.per_layer]
    config = config_class(
        vocab_size=model.vocab_size,
        d_model=model.width,
        d_kv=model.head_width,
        d_ff=model.feed_forward,
        num_heads=model.heads,
        num_layers=model.encoder_layers,
        num_decoder_layers=model.decoder_layers,
        feed_forward_proj="gated-gelu" if model.gated else "relu",
    )
    with torch.device("meta"):
        reference = model_class(config)
    separate = model.vocab_size * model.width if model.head == UntiedHead() else 0
    expected = sum(parameter.numel() for parameter in reference.parameters()) + separate
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract_params(model))) == expected
