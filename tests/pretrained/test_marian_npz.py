"""Marian's files: what they compute by a NumPy Marian and by Hugging Face's, both ways, and what is refused."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from native_marian import HEADS, INNER, LAYERS, VARIANTS, VOCAB, WIDTH, YAML, Native, make, save

from research import LayerNorm, Model, Sinusoidal, Tied, UntiedHead
from research.config import ConfigError
from research.model.transformer import bind
from research.pretrained.marian import read_config, read_generation, read_params, write

LENGTHS = (7, 5)
OWN = VARIANTS["base"]


@pytest.fixture(params=VARIANTS)
def variant(request, tmp_path):
    """A file, its weights and its options."""
    options = VARIANTS[request.param]
    arrays = make(options)
    return save(tmp_path / "model.npz", arrays, YAML.format(**options)), arrays, options


def example(start: int = VOCAB):
    random = np.random.default_rng(1)
    source, target = (random.integers(0, VOCAB, (2, length)) for length in LENGTHS)
    target[:, 0] = start
    return source, target


def logits(model: Model, params, source, target) -> np.ndarray:
    @jax.jit
    def forward(params):
        module = bind(model, params)
        return module.logits(module.decode(jnp.asarray(target), module.encode(jnp.asarray(source))))

    return np.asarray(forward(params))


def read(path: Path):
    model = replace(read_config(path), compute="float32")
    return model, read_params(path, model)


def assert_close(ours, theirs) -> None:
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


def same(first, second) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, first, second))


def test_parity_with_a_marian_in_numpy(variant):
    path, arrays, options = variant
    source, target = example()
    native = Native(arrays, options)
    theirs = np.stack([native.logits(*row) for row in zip(source, target, strict=True)])
    assert_close(logits(*read(path), source, target), theirs)


def test_round_trip_is_exact(variant, tmp_path):
    path, arrays, _ = variant
    model, params = read(path)
    write(tmp_path / "again.npz", model, params)
    assert same(read_params(tmp_path / "again.npz", model), params)
    assert replace(read_config(tmp_path / "again.npz"), compute="float32") == model
    with np.load(tmp_path / "again.npz") as again:
        assert again["special:model.yml"].dtype == np.int8
        assert again["special:model.yml"][-1] == 0
        assert set(again) - {"special:model.yml"} == set(arrays)
        assert all(np.array_equal(again[name], array) for name, array in arrays.items())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["again.npz", "model.npz"]


def test_configurations_read(tmp_path):
    base = save(tmp_path / "base.npz", make(OWN), YAML.format(**OWN))
    model = read_config(base)
    assert model == Model(
        vocab_size=17,
        width=12,
        heads=3,
        head_width=4,
        feed_forward=20,
        encoder_layers=2,
        decoder_layers=3,
        activation="relu",
        gated=False,
        biases=True,
        norm=LayerNorm(1e-6),
        norm_first=False,
        positions=Sinusoidal(1024, last_included=True),
        scaled_scores=True,
        scaled_embedding=True,
        head=Tied(scaled=False),
        logits_bias=True,
        zero_token=17,
        initial=model.initial,
        dropout=0.1,
        shared_dropout=False,
    )
    generation = read_generation(base)
    assert (generation.start_token, generation.eos_token, generation.pad_token) == (17, 0, 0)
    others = {name: read_config(save(tmp_path / "x.npz", {}, YAML.format(**VARIANTS[name]))) for name in VARIANTS}
    assert others["swish"] == replace(model, activation="silu")
    assert others["prenorm"] == replace(model, norm_first=True, embedding_norm=True)
    assert others["two vocabularies"] == replace(model, source_vocab_size=19)
    assert others["own head"] == replace(model, head=UntiedHead())


def test_an_older_head_is_read_untransposed(tmp_path):
    options = VARIANTS["own head"]
    arrays = make(options)
    params = read(save(tmp_path / "new.npz", arrays, YAML.format(**options)))[1]
    arrays["decoder_ff_logit_out_W"] = arrays.pop("decoder_ff_logit_out_Wt").T
    assert same(read(save(tmp_path / "old.npz", arrays, YAML.format(**options)))[1], params)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("transformer-ffn-depth: 3", "option transformer-ffn-depth is '3'; only '2' can be read"),
        ("transformer-decoder-autoreg: rnn", "transformer-decoder-autoreg is 'rnn'; only 'self-attention'"),
        ("transformer-ffn-activation: gelu", "transformer-ffn-activation is 'gelu'; only 'relu', 'swish' can be"),
        ("transformer-tied-layers:\n  - 1\n  - 1\n  - 1", r"transformer-tied-layers is \['1', '1', '1'\]"),
        ("transformer-train-position-embeddings: true", "transformer-train-position-embeddings is 'true'"),
        ("transformer-postprocess: da", r"postprocess-top is \('', 'da', ''\); only \('', 'dan', ''\), \('n', "),
        ("transformer-preprocess:\n  - n", r"postprocess-top is \(\['n'\], 'dan', ''\)"),
        ("transformer-decoder-dim-ffn: 24", "transformer-decoder-dim-ffn is '24'; only '0', '20' can be read"),
        ("transformer-heads: 5", "dim-emb is 12, not a multiple of transformer-heads, 5"),
        ("transformer-heads: ~", "option transformer-heads is '~': it must be given, as an integer above 0"),
        ("dim-vocabs: [17]", r"dim-vocabs is \['17'\]: it must be two numbers"),
        ("dim-vocabs: [19, 17]", "dim-vocabs is 19, 17, but embeddings are tied"),
        ("lemma-dim-emb: 64", "lemma-dim-emb is '64'; only '0' can be read"),
        ("right-left: true", "right-left is 'true'; only 'false'"),
        ("input-types: [class, sequence]", "option input-types is"),
        ("tied-embeddings: 1", "tied-embeddings is '1'; only 'true', 'false' can be read"),
        ("type: amun", "option type is 'amun'; only 'transformer'"),
        ("type: [", "options are not YAML"),
    ],
)
def test_options_refused(tmp_path, line, message):
    name = line.split(":")[0]
    kept, dropped = [], False
    for old in YAML.format(**OWN).splitlines():
        dropped = old.startswith(f"{name}:") or (dropped and old.startswith(" "))
        kept += [] if dropped else [old]
    path = save(tmp_path / "model.npz", {}, "\n".join([*kept, line]) + "\n")
    with pytest.raises(ConfigError, match=message):
        read_config(path)


def test_what_does_not_fit_is_reported_at_once(tmp_path):
    arrays = make(OWN)
    arrays["Wpos"] = np.ones((4, WIDTH), np.float32)
    arrays["encoder_l3_ffn_W1"] = arrays["encoder_l1_ffn_W1"]
    arrays["encoder_l1_ffn_b1"] = np.ones((2, INNER), np.float32)
    del arrays["decoder_l3_context_bo"]
    path = save(tmp_path / "model.npz", arrays, YAML.format(**OWN))
    with pytest.raises(ConfigError) as error:
        read_params(path, read_config(path))
    for part in (
        "Wpos matches 0 rows",
        "encoder_l3_ffn_W1 is for encoder/layers/feed_forward/up/weight of layer 2, which the model does not have",
        "encoder_l1_ffn_b1 has shape (2, 20), which does not fit",
        "nothing fills decoder/layers/cross_attention/output/bias of layer 2",
    ):
        assert part in str(error.value)


def test_files_refused(tmp_path):
    path = tmp_path / "model.npz"
    with pytest.raises(ConfigError, match=r"model.npz is missing"):
        read_config(path)
    np.savez(path, Wemb=np.ones((2, 2)))
    with pytest.raises(ConfigError, match=r"has no special:model.yml: it is not a Marian model"):
        read_config(path)
    save(path, make(OWN), YAML.format(**OWN))
    for damaged in (path.read_bytes()[:-500], b""):
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"not a complete .npz file"):
            read_config(path)
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(ConfigError, match="is a single array"):
        read_config(tmp_path / "one.npy")
    # An array of objects would be unpickled.
    np.savez(path, **{"special:model.yml": np.array([{}], object)})
    with pytest.raises(ConfigError, match=r"special:model.yml is damaged: Object arrays cannot be loaded"):
        read_config(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"norm": LayerNorm(1e-5)},
            r"model.norm is LayerNorm\(epsilon=1e-05\), where Marian has LayerNorm\(epsilon=1e-06\)",
        ),
        (
            {"positions": Sinusoidal(64)},
            r"model.positions is Sinusoidal\(length=64, last_included=False,",
        ),
        ({"zero_token": 16}, "model.zero_token is 16, where Marian has 17"),
        ({"activation": "gelu", "gated": True}, "model.activation is 'gelu'.*; model.gated is True"),
        ({"head": Tied(scaled=True)}, r"model.head is Tied\(scaled=True\)"),
    ],
)
def test_models_that_marian_has_not(tmp_path, change, message):
    model, params = read(save(tmp_path / "model.npz", make(OWN), YAML.format(**OWN)))
    with pytest.raises(ConfigError, match=message):
        write(tmp_path / "out.npz", replace(model, **change), params)
    with pytest.raises(ConfigError, match="not those of the model's configuration"):
        write(tmp_path / "out.npz", model, {**params, "logits_bias": np.ones(3)})
    assert [file.name for file in tmp_path.iterdir()] == ["model.npz"]


# What transformers' convert_marian_to_pytorch.py, which version 5 no longer has, demands of the options ...
ASSUMED = {
    "layer-normalization": "false",
    "right-left": "false",
    "tied-embeddings-all": "true",
    "transformer-aan-depth": "2",
    "transformer-aan-nogate": "false",
    "transformer-ffn-depth": "2",
    "transformer-no-projection": "false",
    "transformer-postprocess-emb": "d",
    "transformer-postprocess": "dan",
    "transformer-preprocess": "",
    "type": "transformer",
    "ulr-dim-emb": "0",
    "dec-cell-base-depth": "2",
    "dec-cell-high-depth": "1",
}
EQUAL = {f"transformer-{theirs}": f"transformer-aan-{ours}" for theirs, ours in (("ffn-activation", "activation"),)}
EQUAL |= {"transformer-ffn-depth": "transformer-aan-depth", "transformer-dim-ffn": "transformer-dim-aan"}
# ... and how it names a layer's arrays, all transposed.
BLOCKS = {"self": "self_attn", "context": "encoder_attn"}
NAMES = {f"{block}_W{part}": f"{own}.{part}_proj.weight" for block, own in BLOCKS.items() for part in "qkv"}
NAMES |= {f"{block}_b{part}": f"{own}.{part}_proj.bias" for block, own in BLOCKS.items() for part in "qkv"}
NAMES |= {f"{block}_Wo": f"{own}.out_proj.weight" for block, own in BLOCKS.items()}
NAMES |= {f"{block}_bo": f"{own}.out_proj.bias" for block, own in BLOCKS.items()}
NAMES |= {"ffn_W1": "fc1.weight", "ffn_b1": "fc1.bias", "ffn_W2": "fc2.weight", "ffn_b2": "fc2.bias"}
for foreign, norm in (("self_Wo", "self_attn"), ("context_Wo", "encoder_attn"), ("ffn_ffn", "final")):
    NAMES |= {f"{foreign}_ln_scale": f"{norm}_layer_norm.weight", f"{foreign}_ln_bias": f"{norm}_layer_norm.bias"}


@pytest.mark.live
@pytest.mark.parametrize("activation", ["relu", "swish"])
def test_live_parity_through_the_published_conversion(tmp_path, activation):
    """What is written converts to Hugging Face's Marian, which is another model by epsilon and waves alone."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    options = VARIANTS["base"] | dict(activation=activation)
    model, params = read(save(tmp_path / "model.npz", make(options), YAML.format(**options)))
    write(tmp_path / "written.npz", model, params)
    with np.load(tmp_path / "written.npz") as file:
        arrays = dict(file)
    text = "".join(chr(number) for number in arrays.pop("special:model.yml"))[:-1]
    said = yaml.load(text, Loader=yaml.BaseLoader)
    assert {name: said[name] for name in ASSUMED} == ASSUMED
    assert all(said[theirs] == said[ours] for theirs, ours in EQUAL.items())
    reference = transformers.MarianMTModel(
        transformers.MarianConfig(
            vocab_size=VOCAB + 1,
            d_model=WIDTH,
            **{f"{stack}_layers": count for stack, count in LAYERS.items()},
            **{f"{stack}_attention_heads": HEADS for stack in LAYERS},
            **{f"{stack}_ffn_dim": INNER for stack in LAYERS},
            activation_function=said["transformer-aan-activation"],
            max_position_embeddings=64,
            scale_embedding=True,
            pad_token_id=VOCAB,
            eos_token_id=0,
            bos_token_id=0,
            decoder_start_token_id=VOCAB,
        )
    ).eval()
    state = reference.state_dict()
    embedding = np.pad(arrays.pop("Wemb"), ((0, 1), (0, 0)))
    for name in ("model.shared", "model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head"):
        state[f"{name}.weight"] = torch.tensor(embedding)
    state["final_logits_bias"] = torch.tensor(np.pad(arrays.pop("decoder_ff_logit_out_b"), ((0, 0), (0, 1))))
    for name, array in arrays.items():
        stack, layer, rest = name.split("_", 2)
        key = f"model.{stack}.layers.{int(layer[1:]) - 1}.{NAMES[rest]}"
        assert key in state
        state[key] = torch.tensor(array.T).squeeze()
    reference.load_state_dict(state)
    source, target = example()
    with torch.no_grad():
        theirs = reference(input_ids=torch.tensor(source), decoder_input_ids=torch.tensor(target)).logits.numpy()
    ours = replace(model, norm=LayerNorm(1e-5), positions=Sinusoidal(64, last_included=False))
    assert_close(logits(ours, params, source, target), theirs[..., :VOCAB])
    with pytest.raises(AssertionError):
        assert_close(logits(model, params, source, target), theirs[..., :VOCAB])
