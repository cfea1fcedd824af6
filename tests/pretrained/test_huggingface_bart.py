"""BART, mBART and Marian read from Hugging Face directories, and what a bad one is told."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from parity import GOLDENS, T5S, VARIANTS, read
from safetensors.numpy import load_file, save_file

from research import LayerNorm, Learned, Model, Normal, Sinusoidal, Tied, UntiedHead
from research.config import ConfigError
from research.model.layer import sinusoids
from research.pretrained.huggingface import read_config, read_params


def test_configurations_read():
    bart, mbart, m2m_100, marian, separate = (read_config(GOLDENS / variant) for variant in VARIANTS[len(T5S) :])
    assert bart == Model(
        vocab_size=61,
        width=24,
        heads=3,
        head_width=8,
        feed_forward=40,
        encoder_layers=3,
        decoder_layers=2,
        activation="gelu",
        gated=False,
        biases=True,
        norm=LayerNorm(1e-5),
        norm_first=False,
        positions=Learned(32, offset=2),
        scaled_scores=True,
        embedding_norm=True,
        head=Tied(scaled=False),
        pad_token=1,
        initial=Normal(0.02),
        dropout=0.1,
        shared_dropout=False,
    )
    assert mbart == replace(bart, norm_first=True, scaled_embedding=True, logits_bias=True)
    unlike = {"activation": "relu", "embedding_norm": False, "logits_bias": False, "attention_dropout": 0.1}
    assert m2m_100 == replace(mbart, positions=Sinusoidal(32, last_included=True, first=2), **unlike)
    changes = {"activation": "silu", "embedding_norm": False, "scaled_embedding": True, "logits_bias": True}
    assert marian == replace(bart, positions=Sinusoidal(32), zero_token=60, pad_token=60, **changes)
    sizes = {"vocab_size": 53, "source_vocab_size": 61, "zero_token": 52, "pad_token": 52}
    assert separate == replace(marian, activation="relu", **sizes)


def copied(variant: str, directory: Path):
    """A golden that a test may damage: its directory, and its tensors."""
    shutil.copytree(GOLDENS / variant, directory / "model")
    return directory / "model", load_file(directory / "model" / "model.safetensors")


def read_tensors(directory: Path, tensors):
    save_file(tensors, directory / "model.safetensors")
    return read(directory)[1]


def same(first, second) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, first, second))


def change_config(directory: Path, **changes) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder_attention_heads": 4},
            "encoder_attention_heads is 4 and decoder_attention_heads 3: they must be equal",
        ),
        ({"decoder_ffn_dim": 41}, "encoder_ffn_dim is 40 and decoder_ffn_dim 41: they must be equal"),
        ({"decoder_layerdrop": 0.1}, "decoder_layerdrop is 0.1; only 0 is supported"),
        ({"activation_function": "mish"}, "activation_function is 'mish', not one of relu, gelu, "),
        ({"d_model": 25}, "d_model is 25, not a multiple of 3 heads"),
        ({"scale_embedding": 1}, "scale_embedding is 1, which is not bool"),
        ({"pad_token_id": "1"}, "pad_token_id is '1', which is not int or NoneType"),
        ({"vocab_size": True}, "vocab_size must be given, as integers"),
    ],
)
def test_configurations_of_bart_refused(tmp_path, changes, message):
    directory, _ = copied("bart", tmp_path)
    change_config(directory, **changes)
    with pytest.raises(ConfigError, match=message):
        read_config(directory)


def test_a_classifier_is_refused(tmp_path):
    directory, tensors = copied("bart", tmp_path)
    save_file(tensors | {"classification_head.dense.weight": np.ones((3, 3))}, directory / "model.safetensors")
    with pytest.raises(ConfigError, match=r"holds classification_head.dense.weight, a classification head"):
        read_config(directory)


def test_the_bias_of_bart_s_logits_is_read_where_it_is_not_zero(tmp_path):
    directory, tensors = copied("bart", tmp_path)
    assert not read_config(directory).logits_bias
    without, bias = read_config(directory), np.full((1, 61), 1e-4, np.float32)
    save_file(tensors | {"final_logits_bias": bias}, directory / "model.safetensors")
    with pytest.raises(ConfigError, match="final_logits_bias does not have the values that the configuration implies"):
        read_params(directory, without)
    model, params = read(directory)
    assert model.logits_bias
    np.testing.assert_array_equal(params["logits_bias"], bias[0])
    del tensors["final_logits_bias"]
    save_file(tensors, directory / "model.safetensors")
    assert not read(directory)[0].logits_bias


def test_names_of_other_times(tmp_path):
    """Copies of the embedding, fairseq's buffers, and the names of a model that was saved without its head."""
    directory, tensors = copied("bart", tmp_path)
    whole = read(directory)
    extra = dict.fromkeys(("lm_head.weight", "model.encoder.embed_tokens.weight"), tensors["model.shared.weight"])
    extra["model.decoder.version"] = np.float32([3])
    assert same(whole[1], read_tensors(directory, tensors | extra))
    bare = {name.removeprefix("model."): tensor for name, tensor in (tensors | extra).items()}
    assert same(whole[1], read_tensors(directory, bare))
    del bare["shared.weight"]
    assert same(whole[1], read_tensors(directory, bare))
    with pytest.raises(ConfigError, match=r"lm_head.weight differs from encoder.embed_tokens.weight"):
        read_tensors(directory, bare | {"lm_head.weight": bare["lm_head.weight"] + 1})


@pytest.mark.parametrize("variant", ["marian", "marian_separate"])
def test_marian_s_zero_token(tmp_path, variant):
    """Only where the padding's embedding is zero, in the decoder's table."""
    directory, tensors = copied(variant, tmp_path)
    model, params = read(directory)
    name = "model.shared.weight" if variant == "marian" else "model.decoder.embed_tokens.weight"
    assert model.zero_token is not None
    assert not params["embedding"][model.zero_token].any()
    tensors[name][model.zero_token, 3] = 1
    save_file(tensors, directory / "model.safetensors")
    assert read_config(directory) == replace(model, zero_token=None, compute="bfloat16")


def test_marian_s_sinusoids_must_be_ours(tmp_path):
    """To half precision; those of the other convention are refused."""
    directory, tensors = copied("marian", tmp_path)
    params = read(directory)[1]
    name = "model.encoder.embed_positions.weight"
    for dtype in (np.float32, np.float16):
        assert same(params, read_tensors(directory, tensors | {name: sinusoids(Sinusoidal(32), 24).astype(dtype)}))
    other = sinusoids(Sinusoidal(32, last_included=True), 24)
    with pytest.raises(ConfigError, match=f"{name} does not have the values that the configuration implies"):
        read_tensors(directory, tensors | {name: other})


def test_m2m_s_sinusoids_must_be_ours(tmp_path):
    """Older files have them, from position 0 on, with zeros for padding."""
    directory, tensors = copied("m2m_100", tmp_path)
    params = read(directory)[1]
    name, waves = "model.decoder.embed_positions.weights", sinusoids(Sinusoidal(34, last_included=True), 24)
    with pytest.raises(ConfigError, match=f"{name} does not have the values that the configuration implies"):
        read_tensors(directory, tensors | {name: waves})
    waves[1] = 0
    assert same(params, read_tensors(directory, tensors | {name: waves}))


def test_m2m_s_layers_are_never_left_out(tmp_path):
    """Its configurations state the rate of its pretraining, 0.05; other families must have none."""
    directory, _ = copied("m2m_100", tmp_path)
    before = read_config(directory)
    change_config(directory, encoder_layerdrop=0.05, decoder_layerdrop=0.05)
    assert read_config(directory) == before
    change_config(directory, model_type="mbart")
    with pytest.raises(ConfigError, match=r"encoder_layerdrop is 0\.05; only 0"):
        read_config(directory)


def test_a_head_of_its_own(tmp_path):
    directory, tensors = copied("mbart", tmp_path)
    change_config(directory, tie_word_embeddings=False)
    head = np.random.default_rng(0).normal(size=(61, 24)).astype(np.float32)
    save_file(tensors | {"lm_head.weight": head}, directory / "model.safetensors")
    model, params = read(directory)
    assert model.head == UntiedHead()
    np.testing.assert_array_equal(params["head"], head.T)
