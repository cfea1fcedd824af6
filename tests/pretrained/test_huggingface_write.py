"""Directories written for transformers: what reads back, what transformers loads, and what cannot be said."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from parity import GOLDENS, T5S, VARIANTS, assert_close, forward, golden, read
from safetensors.numpy import load_file

from research import GNMT, Beam, Generation, LayerNorm, Learned, Relative, RMSNorm, Sinusoidal, Tied, UntiedHead
from research.config import ConfigError
from research.model.transformer import abstract_params
from research.pretrained.huggingface import read_generation, write

# Of every variant the tokens that its golden was made with.
GENERATIONS = {
    **dict.fromkeys(T5S, Generation(method=Beam(4), max_length=30)),
    "bart": Generation(2, 2, 1, forced_last=2, max_length=31, min_length=5, no_repeat_ngram=3),
    "mbart": Generation(60, 2, 1, method=Beam(5, stop="first"), forced_last=2, max_length=31),
    "m2m_100": Generation(2, 2, 1, method=Beam(5, stop="first"), forced_first=7, max_length=31),
    "marian": Generation(60, 0, 60, method=Beam(6), forced_last=0, banned=(60,), max_length=31),
    "marian_separate": Generation(52, 0, 52, method=Beam(6), forced_last=0, banned=(52,), max_length=31),
}


def same(first, second) -> bool:
    return jax.tree.structure(first) == jax.tree.structure(second) and jax.tree.all(
        jax.tree.map(np.array_equal, first, second)
    )


def tensors_of(directory):
    files = sorted(directory.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def drawn(model):
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: 0.3 * generator.normal(size=leaf.shape).astype(np.float32), abstract_params(model))


@pytest.mark.parametrize("variant", VARIANTS)
def test_read_write_read_is_bit_exact(variant, tmp_path):
    """Of the config, the generation, the parameters, and every tensor of the file that was read first."""
    model, params, _ = golden(variant)
    write(tmp_path / "out", model, params, GENERATIONS[variant])
    again, read_again = read(tmp_path / "out")
    assert again == model
    assert same(read_again, params)
    assert read_generation(tmp_path / "out") == GENERATIONS[variant]
    first, second = load_file(GOLDENS / variant / "model.safetensors"), tensors_of(tmp_path / "out")
    assert set(first) == set(second)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_shards(tmp_path):
    """Each tensor in one file, of no more than it may hold, as the index says."""
    model, params, _ = golden("bart")
    write(tmp_path / "out", model, params, GENERATIONS["bart"], shard_bytes=20_000)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 3
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert all(sum(tensor.nbytes for tensor in load_file(file).values()) <= 20_000 for file in files)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors_of(tmp_path / "out").values())
    assert same(read(tmp_path / "out")[1], params)


def test_a_directory_that_holds_something_is_left_alone(tmp_path):
    model, params, _ = golden("t5")
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", model, params, GENERATIONS["t5"])
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(ConfigError, match=r"out must not exist, or be an empty directory"):
        write(tmp_path / "out", model, params, GENERATIONS["t5"])
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_nothing_remains_of_a_failed_write(tmp_path, monkeypatch):
    model, params, _ = golden("t5")
    params["embedding"] = params["embedding"][:-1]
    with pytest.raises(ConfigError, match="names and shapes are not those"):
        write(tmp_path / "out", model, params, GENERATIONS["t5"])

    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr("research.pretrained.files.save_file", fail)
    model, params, _ = golden("t5")
    with pytest.raises(OSError, match="no space left"):
        write(tmp_path / "out", model, params, GENERATIONS["t5"])
    assert list(tmp_path.iterdir()) == []


def test_a_start_from_nothing_becomes_a_row_of_zeros(tmp_path):
    """As Hugging Face has it of Marian: a padding token of zero embedding and bias, never to be written."""
    golden_model, _, expected = golden("marian")
    model = replace(golden_model, vocab_size=60, zero_token=60)
    params = drawn(model)
    generation = Generation(60, 0, 60, max_length=31)
    write(tmp_path / "out", model, params, generation)
    again, read_again = read(tmp_path / "out")
    assert again == replace(model, vocab_size=61)
    assert np.array_equal(read_again["embedding"][:-1], params["embedding"])
    assert not read_again["embedding"][-1].any()
    assert read_again["logits_bias"][-1] == 0
    assert read_generation(tmp_path / "out") == replace(generation, banned=(60,))
    compute = jax.jit(lambda model, params: forward(model, params, expected, True)[1], static_argnums=0)
    ours, theirs = compute(model, params), compute(again, read_again)
    np.testing.assert_array_equal(ours, theirs[..., :-1])
    with pytest.raises(ConfigError, match=r"start_token is 0: it must be model.zero_token, 60"):
        write(tmp_path / "more", model, params, Generation(0, 0, 60))
    separate = replace(model, source_vocab_size=50)
    with pytest.raises(ConfigError, match="zero_token is 60: source_vocab_size is 50, but must be larger"):
        write(tmp_path / "more", separate, drawn(separate), generation)


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        (
            "t5",
            {"norm": LayerNorm(1e-5)},
            r"model.biases is False, but would be read as True; model.positions is Relative",
        ),
        (
            "t5",
            {"logits_bias": True},
            "files cannot represent this: model.logits_bias is True, but would be read as False",
        ),
        ("t5", {"scaled_scores": True}, "model.scaled_scores is True"),
        ("t5", {"positions": Learned(32)}, r"model.positions is Learned"),
        ("umt5", {"source_vocab_size": 50}, "model.source_vocab_size is 50"),
        (
            "bart",
            {"norm": LayerNorm(1e-6)},
            r"model.norm is LayerNorm\(epsilon=1e-06\), but would be read as LayerNorm\(epsilon=1e-05",
        ),
        ("bart", {"norm": RMSNorm()}, "model.biases is True, but would be read as False; model.norm_first is False"),
        ("bart", {"positions": Learned(32, offset=0)}, "model.positions is"),
        ("bart", {"positions": Relative()}, "model.positions is Relative"),
        ("bart", {"embedding_norm": False}, "model.embedding_norm is False"),
        ("bart", {"head_width": 4}, "model.head_width is 4, but would be read as 8"),
        ("bart", {"zero_token": 1}, "model.zero_token is 1, but would be read as None"),
        ("bart", {"head": Tied(scaled=True)}, "model.head is Tied"),
        ("mbart", {"source_vocab_size": 50}, "model.source_vocab_size is 50"),
        ("marian", {"positions": Sinusoidal(32, last_included=True)}, "model.positions is Sinusoidal"),
        ("marian", {"zero_token": 3}, "model.zero_token is 3, but would be read as 60"),
        ("marian", {"norm_first": True}, "model.norm_first is True"),
        ("marian", {"width": 26}, "d_model is 26, not a multiple of 3 heads"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(variant, changes, message, tmp_path):
    model = replace(golden(variant)[0], **changes)
    with pytest.raises(ConfigError, match=message):
        write(tmp_path / "out", model, drawn(model), GENERATIONS[variant])
    assert list(tmp_path.iterdir()) == []


def test_generations_that_cannot_be_said_are_refused(tmp_path):
    model, params, _ = golden("t5")
    for generation in (Generation(method=Beam(4, GNMT())), Generation(method=Beam(1))):
        with pytest.raises(ConfigError, match=r"files cannot represent this: generation.method is Beam"):
            write(tmp_path / "out", model, params, generation)


def test_fields_of_training_do_not_stop_it(tmp_path):
    """Initial values, memory, and rates of dropout that Hugging Face has no field for."""
    model, params, _ = golden("t5")
    model = replace(model, attention_dropout=0.0, remat="full", unroll=2, compute="bfloat16")
    write(tmp_path / "out", model, params, GENERATIONS["t5"])
    assert same(read(tmp_path / "out")[1], params)


# --- Live -------------------------------------------------------------------------------------------------------------


UNTIED = ("bart", "mbart", "marian", "marian_separate")


def cases():
    yield from ((variant, {}) for variant in VARIANTS)
    yield from ((variant, {"head": UntiedHead()}) for variant in UNTIED)
    yield "t5", {"head": Tied(scaled=False)}
    yield "t5", {"activation": "gelu_tanh"}
    yield "t5_v1_1", {"activation": "relu"}
    yield "bart", {"logits_bias": True}
    yield "bart", {"activation": "gelu_tanh"}
    yield "marian", {"logits_bias": False}
    yield "marian", {"zero_token": 61}


@pytest.mark.live
@pytest.mark.parametrize(("variant", "changes"), cases(), ids=str)
def test_transformers_loads_what_is_written(variant, changes, tmp_path):
    """Every weight, none too many, none made anew; with the same logits, and in float32."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model, _, expected = golden(variant)
    model = replace(model, **changes)
    params, generation = drawn(model), GENERATIONS[variant]
    if model.zero_token == model.vocab_size:
        generation = replace(generation, start_token=model.zero_token)
    elif model.zero_token is not None:
        params["embedding"][model.zero_token] = 0
    write(tmp_path / "out", model, params, generation, shard_bytes=30_000)
    if model.zero_token == model.vocab_size:
        model, params = read(tmp_path / "out")
    reference, info = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        tmp_path / "out", output_loading_info=True, attn_implementation="eager"
    )
    assert {name: list(found) for name, found in info.items() if found} == {}
    if variant == "umt5":
        reference.config.tie_word_embeddings = False  # transformers 5 would scale what the head receives
    assert {parameter.dtype for parameter in reference.parameters()} == {torch.float32}
    with torch.no_grad():
        theirs = reference(
            input_ids=torch.from_numpy(expected["encoder_input_tokens"]),
            attention_mask=torch.from_numpy(expected["encoder_mask"]),
            decoder_input_ids=torch.from_numpy(expected["decoder_input_tokens"]),
        ).logits.numpy()
    ours = jax.jit(lambda params: forward(model, params, expected, segments=True))(params)[1]
    real = expected["decoder_mask"] == 1
    assert_close(np.asarray(ours)[real], theirs[real], 1e-5, "logits")
    assert reference.generation_config.decoder_start_token_id == generation.start_token


@pytest.mark.live
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_transformers_saves_comes_back_tensor_for_tensor(variant, tmp_path):
    goldens = pytest.importorskip("scripts.make_goldens")
    reference = goldens.build(goldens.VARIANTS[variant], seed=11)
    reference.save_pretrained(tmp_path / "theirs")
    if variant == "umt5":
        path = tmp_path / "theirs" / "config.json"
        path.write_text(path.read_text().replace('"tie_word_embeddings": true', '"tie_word_embeddings": false'))
    generation = GENERATIONS[variant]
    write(tmp_path / "ours", *read(tmp_path / "theirs"), generation)
    theirs, ours = tensors_of(tmp_path / "theirs"), tensors_of(tmp_path / "ours")
    assert set(theirs) == set(ours)
    assert all(np.array_equal(theirs[name], ours[name]) for name in theirs)
