"""fairseq's .pt files, made here of tiny Hugging Face models, give their logits; and no file runs code."""

import argparse
import os
import pickle
import subprocess
from collections import OrderedDict
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import LayerNorm, Learned, Model, Tied
from research.config import ConfigError
from research.model.transformer import bind
from research.pretrained.fairseq import read_config, read_params

torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
pytestmark = pytest.mark.live

# No two sizes are equal, so that no wrong axis fits; the vocabulary is not a multiple of 8, nor what a tokenizer has.
ARGUMENTS = {
    "arch": "bart_base",
    "activation_fn": "gelu",
    "dropout": 0.1,
    "attention_dropout": 0.2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_embed_dim": 24,
    "decoder_embed_dim": 24,
    "decoder_output_dim": 24,
    "encoder_ffn_embed_dim": 40,
    "decoder_ffn_embed_dim": 40,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_learned_pos": True,
    "decoder_learned_pos": True,
    "encoder_normalize_before": False,
    "decoder_normalize_before": False,
    "layernorm_embedding": True,
    "no_scale_embedding": True,
    "max_source_positions": 48,
    "max_target_positions": 48,
    "share_all_embeddings": True,
    "share_decoder_input_output_embed": True,
    "adaptive_softmax_cutoff": None,
}
CHANGES: dict[str, dict[str, Any]] = {
    "bart": {},
    "mbart": {"encoder_normalize_before": True, "decoder_normalize_before": True, "no_scale_embedding": False},
}


def build(variant: str):
    torch.manual_seed(3)
    config_class, model_class = {
        "bart": (transformers.BartConfig, transformers.BartForConditionalGeneration),
        "mbart": (transformers.MBartConfig, transformers.MBartForConditionalGeneration),
    }[variant]
    sizes = {f"{stack}_{name}": size for stack in ("encoder", "decoder") for name, size in SIZES.items()}
    sizes |= dict(vocab_size=61, d_model=24, encoder_layers=3, decoder_layers=2, max_position_embeddings=48)
    config = config_class(**sizes, activation_function="gelu", scale_embedding=variant == "mbart", init_std=0.3)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and scales large enough to matter
            parameter += 0.2 * torch.randn_like(parameter)
    return model


SIZES = {"attention_heads": 3, "ffn_dim": 40}


def tensors(model) -> dict[str, Any]:
    """Under fairseq's names, the head a copy of the embedding."""
    state = {name.removeprefix("model."): tensor for name, tensor in model.state_dict().items()}
    state["decoder.output_projection.weight"] = state.pop("lm_head.weight").clone()
    for name in ("final_logits_bias", "shared.weight"):
        del state[name]
    return state | {"encoder.version": torch.tensor([3.0]), "decoder.version": torch.tensor([3.0])}


def fused(state: dict[str, Any]) -> dict[str, Any]:
    """As before fairseq 0.8: three matrices in one."""
    found = dict(state)
    for name in state:
        if ".q_proj." in name:
            three = [found.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
            found[name.replace("q_proj.", "in_proj_")] = torch.cat(three)
    return found


def save(path: Path, state, **content: Any) -> Path:
    torch.save({"args": argparse.Namespace(**ARGUMENTS), "model": state} | content, path)
    return path


@pytest.fixture
def bart(tmp_path):
    state = tensors(build("bart"))
    return save(tmp_path / "model.pt", state), state


def read(path: Path):
    model = replace(read_config(path), compute="float32")
    return model, read_params(path, model)


def same(first, second) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, first, second))


@pytest.mark.parametrize("variant", CHANGES)
def test_parity_with_padding(tmp_path, variant):
    reference = build(variant)
    arguments = argparse.Namespace(**ARGUMENTS | CHANGES[variant])
    model, params = read(save(tmp_path / "model.pt", tensors(reference), args=arguments))
    random = np.random.default_rng(0)
    mask = (np.arange(13) < np.array([[13], [7]])).astype(np.int64)
    source, target = np.where(mask, random.integers(4, 61, (2, 13)), 1), random.integers(4, 61, (2, 9))
    with torch.no_grad():
        inputs = {"input_ids": torch.tensor(source), "attention_mask": torch.tensor(mask)}
        theirs = reference(**inputs, decoder_input_ids=torch.tensor(target)).logits.numpy()

    @jax.jit
    def forward(params):
        module, segments = bind(model, params), jnp.asarray(mask)
        encoded = module.encode(jnp.asarray(source), segments)
        return module.logits(module.decode(jnp.asarray(target), encoded, encoder_segment_ids=segments))

    assert np.abs(forward(params) - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_configuration_read(bart, tmp_path):
    path, state = bart
    model = read_config(path)
    assert model == Model(
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
        positions=Learned(48, offset=2),
        scaled_scores=True,
        embedding_norm=True,
        head=Tied(scaled=False),
        initial=model.initial,
        dropout=0.1,
        shared_dropout=False,
        attention_dropout=0.2,
        pad_token=1,
    )
    # As since 0.10: a nested config of plain dictionaries, the model's part of it such or a namespace.
    for part in (ARGUMENTS, argparse.Namespace(**ARGUMENTS)):
        assert read_config(save(tmp_path / "new.pt", state, args=None, cfg={"model": part, "task": {}})) == model


@pytest.mark.parametrize("legacy", [True, False])
def test_early_files(bart, tmp_path, legacy):
    """Fused matrices, half precision, the format before PyTorch 1.6, and objects of classes that are not here."""
    path, state = bart
    half = {name: tensor.half() for name, tensor in state.items()}
    extra = {"meter": Fraction(1, 3), "path": Path("x"), "best": np.float64(3), "set": {1}}
    content = {"args": argparse.Namespace(**ARGUMENTS), "model": OrderedDict(fused(half)), "extra_state": extra}
    torch.save(content, tmp_path / "early.pt", _use_new_zipfile_serialization=not legacy)
    model, params = read(tmp_path / "early.pt")
    assert model == read(path)[0]
    assert same(params, read(save(tmp_path / "half.pt", half))[1])
    assert params["embedding"].dtype == np.float32


class Attack:
    """What pickle makes of it is a call of `function` with `arguments`."""

    def __init__(self, function, *arguments) -> None:
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("legacy", [True, False])
def test_no_code_is_run(bart, tmp_path, legacy):
    path, state = bart
    model, trace, attacked = read(path)[0], tmp_path / "trace", tmp_path / "attacked.pt"

    def attack(function, *arguments) -> None:
        content = {"args": argparse.Namespace(**ARGUMENTS), "model": state, "extra_state": Attack(function, *arguments)}
        torch.save(content, attacked, _use_new_zipfile_serialization=not legacy)

    for function, argument, name in (
        (os.system, f"touch {trace}", r"posix\.system"),
        (eval, f"open({str(trace)!r}, 'w')", "eval"),
        (Path.touch, trace, "getattr"),
    ):
        attack(function, argument)
        with pytest.raises(ConfigError, match=f"needs {name}, which is not loaded for safety"):
            read_params(attacked, model)
        assert not trace.exists()
    attack(subprocess.Popen, ["touch", str(trace)])
    assert same(read_params(attacked, model), read(path)[1])
    assert not trace.exists()
    # And yet it is a file that runs code where it may.
    torch.load(attacked, weights_only=False)["extra_state"].wait()
    assert trace.exists()


def test_a_configuration_of_another_class_is_refused_by_its_name(bart, tmp_path):
    _, state = bart
    for content in ({"cfg": Fraction(1, 3)}, {"cfg": {"model": Fraction(1, 3)}}):
        path = save(tmp_path / "other.pt", state, **content)
        with pytest.raises(
            ConfigError, match=r"its configuration is of class fractions\.Fraction, which needs its own"
        ):
            read_config(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_learned_pos": False}, "encoder_learned_pos is False; only True can be read"),
        ({"share_all_embeddings": False}, "share_all_embeddings is False; only True"),
        ({"adaptive_softmax_cutoff": [9]}, r"adaptive_softmax_cutoff is \[9\]; only None"),
        ({"activation_fn": "gelu_new"}, "activation_fn is 'gelu_new', not one of relu, gelu, "),
        ({"encoder_attention_heads": 5}, "encoder_attention_heads is 5: it must be given and divide the width, 24"),
        ({"decoder_attention_heads": 4}, "decoder_attention_heads is 4, not 3"),
        ({"encoder_layers": 2, "encoder_normalize_before": True}, "encoder_layers is 2, not 3; encoder_normalize_"),
        ({"max_source_positions": 50}, "max_source_positions is 50, not 48"),
        ({"dropout": "much"}, r"dropout is 'much': it must be in \[0, 1\)"),
    ],
)
def test_arguments_refused(bart, tmp_path, changes, message):
    path = save(tmp_path / "changed.pt", bart[1], args=argparse.Namespace(**ARGUMENTS | changes))
    with pytest.raises(ConfigError, match=message):
        read_config(path)


def test_what_does_not_fit_is_reported_at_once(bart, tmp_path):
    path, state = bart
    model = read_config(path)
    state["classification_heads.mnli.dense.weight"] = torch.ones(24, 24)
    state["decoder.output_projection.weight"] += 1
    del state["encoder.layers.1.fc1.bias"]
    with pytest.raises(ConfigError) as error:
        read_params(save(tmp_path / "bad.pt", state), model)
    for part in (
        "classification_heads.mnli.dense.weight matches 0 rows",
        "decoder.output_projection.weight differs from encoder.embed_tokens.weight",
        "nothing fills encoder/layers/feed_forward/up/bias of layer 1",
    ):
        assert part in str(error.value)


def test_a_head_is_left_unused_only_by_name(bart, tmp_path):
    path, state = bart
    model, params = read(path)
    state["classification_heads.mnli.dense.weight"] = torch.ones(24, 24)
    path = save(tmp_path / "head.pt", state)
    assert same(read_params(path, model, unused=["classification_heads.mnli"]), params)
    with pytest.raises(ConfigError, match=r"unused: .* has no classification_heads\.sst"):
        read_params(path, model, unused=["classification_heads.sst"])


def test_files_refused(bart, tmp_path):
    path, state = bart
    with pytest.raises(ConfigError, match="is missing"):
        read_config(tmp_path / "absent.pt")
    (tmp_path / "short.pt").write_bytes(path.read_bytes()[:-300])
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps({"model": 3}, protocol=2))
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("short.pt", "pickle.pt", "empty.pt"):
        with pytest.raises(ConfigError, match="is not a complete PyTorch file"):
            read_config(tmp_path / name)
    for content, message in (
        ({"model": state}, "has neither 'args' nor 'cfg'"),
        ({"args": argparse.Namespace(**ARGUMENTS)}, "has no tensors by name under 'model'"),
        ({"args": argparse.Namespace(**ARGUMENTS), "model": {}}, r"has no encoder\.embed_tokens\.weight"),
        ([1], "is not a dictionary"),
    ):
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(ConfigError, match=message):
            read_config(tmp_path / "other.pt")
    bad = fused(state)
    bad["encoder.layers.0.self_attn.in_proj_weight"] = torch.ones(70, 24)
    with pytest.raises(ConfigError, match="has 70 rows, not a multiple of three"):
        read_config(save(tmp_path / "bad.pt", bad))
