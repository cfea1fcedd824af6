"""Models read from Hugging Face directories, and what a bad directory is told."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import GOLDENS, T5S, assert_outputs, forward, read
from safetensors.numpy import load_file, save_file

from research import Model, Relative, Tied, UntiedHead
from research.config import ConfigError
from research.model.transformer import abstract_params
from research.pretrained.huggingface import FAMILIES, read_config, read_params, t5
from research.pretrained.huggingface.fields import Facts, check_known
from research.pretrained.huggingface.generation import KNOWN


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
        ({"dense_act_fn": "gelu_fast"}, "dense_act_fn is 'gelu_fast', not one of relu, gelu, "),
        ({"is_gated_act": None}, "is_gated_act is None, which is not bool"),
        ({"num_heads": 3, "num_attention_heads": "5"}, "num_heads must be given, as integers"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is a field that is not known, and may change"),
        ({"rope_theta": 1e4, "auto_map": {}}, "auto_map, rope_theta are fields that are not known"),
        ({"pruned_heads": {"0": [1]}}, r"pruned_heads is \{'0': \[1\]\}; only \{\} can be read"),
        ({"is_encoder_decoder": False}, "is_encoder_decoder is False; only True can be read"),
    ],
)
def test_configurations_refused(golden, changes, message):
    directory, _ = golden
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ConfigError, match=message):
        read_config(directory)


# As published and as saved by transformers 4 and 5.
PUBLISHED: dict[str, dict] = {
    "t5": {
        **{"architectures": ["T5ForConditionalGeneration"], "classifier_dropout": 0.0, "initializer_factor": 1.0},
        **{"n_positions": 512, "output_past": True, "gradient_checkpointing": False, "use_cache": True},
        **{"task_specific_params": {"summarization": {"num_beams": 4, "prefix": "summarize: "}}, "prefix": "x"},
        **{"is_encoder_decoder": True, "is_decoder": False, "eos_token_id": 1, "pad_token_id": 0, "num_beams": 4},
        **{"dtype": "float32", "transformers_version": "5.23.0", "tokenizer_class": "T5Tokenizer"},
        **{"dense_act_fn": "relu", "is_gated_act": False, "scalable_attention": True, "quantization_config": None},
    },
    "bart": {
        **{"_name_or_path": "bart-base", "_num_labels": 3, "add_bias_logits": False, "add_final_layer_norm": False},
        **{"bos_token_id": 0, "classif_dropout": 0.1, "early_stopping": True, "force_bos_token_to_be_generated": True},
        **{"forced_bos_token_id": 0, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "length_penalty": 2.0},
        **{"no_repeat_ngram_size": 3, "normalize_before": False, "normalize_embedding": True, "num_hidden_layers": 6},
        **{"static_position_embeddings": False, "torch_dtype": "float32", "extra_pos_embeddings": 2, "save_step": 17},
    },
    "mbart": {"add_final_layer_norm": True, "normalize_before": True, "normalize_embedding": True},
    "marian": {
        **{"add_final_layer_norm": False, "bad_words_ids": [[60]], "normalize_before": False},
        **{"normalize_embedding": False, "static_position_embeddings": True, "num_hidden_layers": 6},
    },
}


@pytest.mark.parametrize("variant", PUBLISHED)
def test_fields_of_published_configurations_change_nothing(tmp_path, variant):
    shutil.copytree(GOLDENS / variant, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | PUBLISHED[variant]))
    assert read_config(tmp_path / "model") == read_config(GOLDENS / variant)


def test_options_of_the_first_versions_must_be_those_of_the_family(tmp_path):
    shutil.copytree(GOLDENS / "bart", tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    for name, value in PUBLISHED["mbart"].items():
        if PUBLISHED["bart"][name] != value:
            path.write_text(json.dumps(json.loads((GOLDENS / "bart" / "config.json").read_text()) | {name: value}))
            with pytest.raises(ConfigError, match=f"{name} is True; only False can be read"):
                read_config(tmp_path / "model")


ACTIVATION_FIELDS = [
    ({"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu"}, "gelu", True),
    ({"feed_forward_proj": "relu", "dense_act_fn": "gelu_new"}, "gelu_tanh", False),
    ({"feed_forward_proj": "gated-silu", "dense_act_fn": "relu"}, "relu", True),
    ({"feed_forward_proj": "gated-swish"}, "silu", True),
    ({"feed_forward_proj": "gelu_pytorch_tanh"}, "gelu_tanh", False),
]


@pytest.mark.parametrize(("fields", "activation", "gated"), ACTIVATION_FIELDS)
def test_the_field_of_the_activation_precedes_that_of_the_projection(golden, fields, activation, gated):
    directory, _ = golden
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    model = read_config(directory)
    assert (model.activation, model.gated) == (activation, gated)
    written = t5.write_config(model)
    assert t5.read_model(written, Facts(False, False, False), path) == replace(model, head=t5_head(written))


def t5_head(config) -> Tied:
    return Tied(scaled=config["scale_decoder_outputs"])


def test_other_names_of_fields_take_precedence(golden):
    directory, _ = golden
    path = directory / "config.json"
    names = {"num_attention_heads": 7, "head_dim": 9, "num_hidden_layers": 5, "hidden_size": 99}
    path.write_text(json.dumps(json.loads(path.read_text()) | names))
    model = read_config(directory)
    assert (model.heads, model.head_width, model.encoder_layers, model.width) == (7, 9, 5, 99)


@pytest.mark.live
@pytest.mark.parametrize(("fields", "activation", "gated"), ACTIVATION_FIELDS)
def test_live_activations(tmp_path, fields, activation, gated):
    """The reference loads the same file, and computes the same encoder output."""
    goldens = pytest.importorskip("scripts.make_goldens")
    variant = goldens.VARIANTS["t5_v1_1" if gated else "t5"]
    goldens.build(variant, seed=1).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in config.items() if key != "dense_act_fn"} | fields))
    reference = variant.model.from_pretrained(tmp_path, attn_implementation="eager").eval()
    inputs = goldens.example(seed=1)
    expected = inputs | goldens.reference(reference, inputs)
    model, params = read(tmp_path)
    assert (model.activation, model.gated) == (activation, gated)
    assert_outputs(jax.jit(lambda params: forward(model, params, inputs, segments=True))(params), expected)


@pytest.mark.live
def test_every_field_of_transformers_is_known():
    """A field of a new version is decided upon before a model with it is read."""
    transformers = pytest.importorskip("transformers")
    for name, family in FAMILIES.items():
        config = transformers.CONFIG_MAPPING[name]().to_dict() | {"model_type": name}
        check_known(config, {*family.TYPES, *family.WHOLE, *family.ALIASES, *KNOWN}, family.fixed(config), GOLDENS)


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
