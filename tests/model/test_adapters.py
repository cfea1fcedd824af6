"""Adapters: only what they name is trained, the rest has no gradient, and the network is as without them otherwise."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from docstring_examples import example

from research import (
    IA3,
    Adapter,
    Bytes,
    DecoderOnly,
    JSONExamples,
    Learned,
    LoRA,
    Mesh,
    Model,
    Only,
    PromptTuning,
    Supervised,
    TextToText,
)
from research.config import ConfigError
from research.data.batch import Batch
from research.data.shapes import abstract_batch, row_lengths
from research.data.tokenizer import ByteTokenizer
from research.model.flops import train_flops, trained_count
from research.model.parameters import param_specs, table_of
from research.model.transformer import EncoderDecoder, abstract_params, initial_params, without_adapter
from research.parallel.mesh import make_mesh
from research.parallel.rules import flatten, shardings
from research.train.preflight import check
from research.train.state import abstract_state, new_state
from research.train.step import compile_train_step, summed_loss, train_step

BASE = Model(400, 16, 2, 8, 32, 2, 2, compute="float32", dropout=0.1)
ALL = (r"weight",)


@pytest.fixture
def experiment(tmp_path):
    return tiny_run.experiment(tmp_path, model=BASE)


EXAMPLES = Supervised((TextToText(examples=JSONExamples("none.jsonl")),), Bytes(), input_length=24)


def with_model(experiment, adapter, **changes):
    return replace(experiment, model=replace(BASE, adapter=adapter, **changes))


def loss_of(experiment, params, batch, key=None) -> float:
    return float(jax.jit(lambda params: summed_loss(experiment, params, batch, key).loss)(params))


def batch_of(experiment, rows: int = 8):
    draw = np.random.default_rng(0)
    source, target = (draw.integers(3, 200, (rows, length)).astype(np.int32) for length in (12, 8))
    source[:, : len(experiment.model.prompt)] = experiment.model.prompt
    return Batch(source, target, target, np.ones((rows, 8), np.float32))


@pytest.mark.parametrize("adapter", [LoRA(rank=2, targets=ALL), IA3(), Only((r"norm", r"query")), PromptTuning(3)])
def test_a_step_changes_what_the_adapter_trains_and_nothing_else(experiment, adapter):
    experiment = with_model(replace(experiment, data=EXAMPLES), adapter)
    state = new_state(experiment, make_mesh(Mesh(1), jax.devices()[:1]), jax.random.key(0))
    before = flatten(state.params)
    step = jax.jit(lambda state: train_step(experiment, state, batch_of(experiment), jax.random.key(1)))
    after, metrics = step(state)
    assert metrics.skipped == 0
    changed = {path for path, leaf in flatten(after.params).items() if not np.array_equal(leaf, before[path])}
    trained = {path for path in before if adapter.trains(path)}
    # While b is zero, a has no gradient.
    assert changed == {path for path in trained if not path.endswith("adapter/a")}
    assert trained
    state_paths = {path.split("/", 1)[-1] for path in flatten(state.opt_state)}
    assert all(any(path in each for each in state_paths) for path in trained)
    held = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state))
    assert held <= 2 * sum(before[path].size for path in trained) + 2


def test_a_new_adapter_changes_no_loss(experiment):
    params, batch = initial_params(BASE, jax.random.key(0)), batch_of(experiment)
    expected = loss_of(experiment, params, batch)
    for adapter in (LoRA(), IA3()):
        adapted = with_model(experiment, adapter)
        drawn = initial_params(adapted.model, jax.random.key(0))
        own = {path: leaf for path, leaf in flatten(drawn).items() if not adapter.trains(path)}
        assert all(np.array_equal(leaf, own[path]) for path, leaf in flatten(params).items())
        np.testing.assert_allclose(loss_of(adapted, drawn, batch), expected, rtol=1e-6)


def test_the_dropout_of_an_adapter_is_drawn_from_its_layer_s_key(experiment):
    experiment = with_model(experiment, LoRA(targets=ALL, dropout=0.5), dropout=0.0)
    assert experiment.model.dropped
    params = jax.tree.map(lambda leaf: leaf + 0.1, initial_params(experiment.model, jax.random.key(0)))
    batch = batch_of(experiment)

    def loss(key):
        return loss_of(experiment, params, batch, key)

    assert loss(jax.random.key(1)) == loss(jax.random.key(1)) != loss(jax.random.key(2))
    without = replace(experiment, model=replace(experiment.model, adapter=LoRA(targets=ALL, dropout=0.0)))
    assert loss(None) == loss_of(without, params, batch, jax.random.key(1))


@pytest.mark.slow
def test_bfloat16_is_enough_for_what_is_cast_to_it_anyway(experiment):
    """With products in bfloat16, storing frozen weights in it changes nothing; only the memory."""
    adapters = LoRA(rank=2), LoRA(rank=2, frozen="bfloat16")
    wide, narrow = (with_model(experiment, adapter, compute="bfloat16") for adapter in adapters)
    mesh, batch = make_mesh(Mesh(1), jax.devices()[:1]), batch_of(experiment)
    steps = []
    for each in (wide, narrow):
        state = new_state(each, mesh, jax.random.key(0))
        make = jax.jit(lambda state, each=each: train_step(each, state, batch, jax.random.key(1)))
        for _ in range(2):
            state, metrics = make(state)
        trained = {path: leaf for path, leaf in flatten(state.params).items() if "adapter" in path}
        steps.append((metrics.loss, trained, sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))))
    assert steps[0][0] == steps[1][0]
    assert all(np.array_equal(leaf, steps[1][1][path]) for path, leaf in steps[0][1].items())
    assert steps[1][2] < 0.6 * steps[0][2]


@pytest.mark.slow
def test_a_mesh_splits_the_adapter_as_its_projection_and_changes_nothing_but_rounding(experiment):
    experiment = with_model(experiment, LoRA(rank=2, targets=ALL))
    specs = flatten(param_specs(abstract_params(experiment.model), table_of(experiment.model)))
    stem = "encoder/layers/self_attention/"
    assert tuple(specs[stem + "query/adapter/a"]) == (None, "fsdp", None)
    assert tuple(specs[stem + "query/adapter/b"]) == (None, None, "tensor", None)
    assert tuple(specs[stem + "output/adapter/a"]) == (None, "tensor", None, None)
    assert tuple(specs[stem + "output/adapter/b"]) == (None, None, "fsdp")
    params = jax.tree.map(lambda leaf: leaf + 0.05, initial_params(experiment.model, jax.random.key(0)))
    batch, results = batch_of(experiment), []
    for sizes in (Mesh(1), Mesh(data=2, fsdp=2, tensor=2)):
        mesh = make_mesh(sizes, jax.devices()[: 1 if sizes == Mesh(1) else 8])
        with jax.set_mesh(mesh):
            placed = jax.device_put(params, shardings(mesh, param_specs(params, table_of(experiment.model))))
            results.append(
                jax.jit(jax.value_and_grad(lambda params: summed_loss(experiment, params, batch, None).loss))(placed)
            )
    (one, gradients), (other, split) = results
    np.testing.assert_allclose(one, other, rtol=1e-5)
    for path, gradient in flatten(gradients).items():
        scale = np.max(np.abs(gradient))
        np.testing.assert_allclose(flatten(split)[path], gradient, rtol=1e-4, atol=1e-4 * scale, err_msg=path)


def test_the_compiled_step_computes_no_gradient_of_frozen_weights(experiment):
    """With one layer each, unrolled, the compiler counts the products; a frozen weight has two, and not three."""
    mesh, flops = make_mesh(Mesh(1), jax.devices()[:1]), {}
    one = {"dropout": 0.0, "encoder_layers": 1, "decoder_layers": 1}
    for name, adapter in (("all", None), ("few", LoRA(rank=1, dropout=0.0))):
        changed = with_model(experiment, adapter, **one)
        step = compile_train_step(changed, mesh, abstract_batch(changed))
        flops[name] = step.cost_analysis()["flops"]
    inputs, targets = (experiment.batch_size * length for length in row_lengths(experiment))
    gradients = 0  # of weights
    for path, leaf in flatten(abstract_params(replace(BASE, **one))).items():
        reads_inputs = path.startswith("encoder") or "cross_attention/key" in path or "cross_attention/value" in path
        if path.endswith(("weight", "head")):
            gradients += 2 * leaf.size * (inputs if reads_inputs else targets)
    assert flops["all"] - flops["few"] > 0.95 * gradients


@pytest.mark.parametrize("adapter", [LoRA(targets=ALL), IA3(), Only(("norm",))])
def test_merging_computes_the_same(experiment, adapter):
    adapted, batch = with_model(experiment, adapter, biases=True), batch_of(experiment)
    params = jax.tree.map(lambda leaf: leaf + 0.1, initial_params(adapted.model, jax.random.key(0)))
    plain, merged = without_adapter(adapted.model, params)
    assert plain == replace(BASE, biases=True)
    expected = loss_of(adapted, params, batch)
    np.testing.assert_allclose(loss_of(replace(experiment, model=plain), merged, batch), expected, rtol=1e-5)


def test_an_adapter_of_a_user(experiment):
    """The example of the docstring of Adapter."""
    state = abstract_state(with_model(experiment, example(Adapter)["ScaledOutput"]()))
    scales = [path for path in flatten(state.params) if "adapter" in path]
    assert scales == [
        "decoder/layers/feed_forward/down/adapter/scale",
        "encoder/layers/feed_forward/down/adapter/scale",
    ]
    assert sum(leaf.size for leaf in jax.tree.leaves(state.opt_state)) <= 2 * 2 * 2 * 16 + 2


BAD = [
    (LoRA(targets=("attentoin",)), "targets has 'attentoin', which matches no parameter; there are .*query/weight"),
    (LoRA(targets=("norm/scale",)), "targets has 'norm/scale', which matches .*: no matrix of a projection; there are"),
    (LoRA(targets=("embedding",)), "no matrix of a projection"),
    (LoRA(targets=("(",)), "no regular expression"),
    (LoRA(targets=()), "targets is empty"),
    (LoRA(rank=17), "rank is 17: .*query/weight has 16 rows and 16 columns"),
    (IA3(feed_forward=(r"up/weight",)), "feed_forward matches .*up/weight, which model.adapter.targets does not match"),
    (Only(("nrom",)), "targets has 'nrom', which matches no parameter"),
]


@pytest.mark.parametrize(("adapter", "message"), BAD)
def test_bad_adapters_get_one_sentence(experiment, adapter, message):
    with pytest.raises(ConfigError, match=message):
        abstract_state(with_model(experiment, adapter))


def test_sizes_must_be_above_zero():
    with pytest.raises(ConfigError, match=r"adapter\.rank is 0: it must be above 0"):
        LoRA(rank=0)
    with pytest.raises(ConfigError, match=r"adapter\.tokens is 0: it must be above 0"):
        PromptTuning(0)


# --- Prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"stacks": DecoderOnly()}, {"source_vocab_size": 410}, {"zero_token": 400}])
def test_a_prompt_of_embeddings_is_these_tokens(experiment, changes):
    """With the embeddings of three tokens as its values, a prompt computes what their ids do."""
    supervised = replace(experiment, data=EXAMPLES)
    adapted = with_model(supervised, PromptTuning(3), scaled_embedding=True, dropout=0.0, **changes)
    params = initial_params(adapted.model, jax.random.key(0))
    table = params["source_embedding" if "source_vocab_size" in changes else "embedding"]
    params["adapter"]["prompt_embedding"] = table[jnp.array([5, 7, 9])] * 4.0  # the root of the width
    batch = batch_of(adapted)
    named = batch.encoder_input_tokens.copy()
    named[:, :3] = 5, 7, 9
    assert not np.array_equal(named, batch.encoder_input_tokens)
    of_ids = loss_of(adapted, params, batch._replace(encoder_input_tokens=named))
    np.testing.assert_allclose(loss_of(adapted, params, batch), of_ids, rtol=1e-6)


def test_the_first_values_are_embeddings_of_pieces():
    tokenizer = ByteTokenizer(0)
    model = replace(BASE, adapter=PromptTuning(6, init_text="ab"), scaled_embedding=True)
    params = initial_params(BASE, jax.random.key(0))

    def first(adapter, seed=0):
        adapted = replace(model, adapter=adapter)
        return np.asarray(adapter.first_values(adapted, params, tokenizer, seed)["adapter"]["prompt_embedding"])

    table = np.asarray(params["embedding"]) * 4.0
    values = first(model.adapter)
    np.testing.assert_array_equal(values[:2], table[tokenizer.encode("ab")])
    rows = [int(np.flatnonzero((table == row).all(-1))[0]) for row in values]
    assert set(rows) <= {*tokenizer.text_ids.tolist()}
    assert len(set(rows[2:])) == 4
    np.testing.assert_array_equal(first(model.adapter), values)
    assert not np.array_equal(first(model.adapter, seed=1)[2:], values[2:])
    uniform = first(PromptTuning(400, "uniform", "ab"))
    np.testing.assert_array_equal(uniform[:2], values[:2])
    assert 0.45 < np.abs(uniform[2:]).max() <= 0.5
    assert first(PromptTuning(400)).shape == (400, 16)  # more tokens than pieces
    with pytest.raises(ConfigError, match=r"init_text has 3 pieces, but the prompt has 2 tokens"):
        first(PromptTuning(2, init_text="abc"))


def test_a_prompt_costs_no_products_but_those_of_its_tokens_as_inputs():
    prompt, few = (replace(BASE, adapter=adapter) for adapter in (PromptTuning(3), Only((r"norm",))))
    assert trained_count(prompt) == 3 * 16
    assert train_flops(prompt, 12, 8) == train_flops(few, 12, 8) < train_flops(BASE, 12, 8)


def test_a_prompt_needs_room_and_sources(experiment):
    mesh = make_mesh(Mesh(1), jax.devices()[:1])
    with pytest.raises(ConfigError, match=r"precedes the sources of examples: data must be Supervised"):
        with_model(experiment, PromptTuning(3))
    experiment = replace(experiment, data=EXAMPLES)
    check(with_model(experiment, PromptTuning(23)), mesh)
    with pytest.raises(
        ConfigError, match=r"data\.input_length is 24, but the prompt .* has 24 tokens: no room is left"
    ):
        with_model(experiment, PromptTuning(24))
    with pytest.raises(ConfigError, match=r"number of positions is 8, but the prompt .* has 9 tokens"):
        abstract_state(with_model(experiment, PromptTuning(9), positions=Learned(8)))


class Embeds(EncoderDecoder):
    def embed_source(self, tokens):
        return super().embed_source(tokens)


@dataclass(frozen=True)
class OwnEmbedding(Model):
    def build(self, key):
        return Embeds(self, key)


def test_a_network_that_embeds_sources_itself_is_refused():
    with pytest.raises(ConfigError, match=r"Embeds has no embed_source of Network"):
        abstract_params(OwnEmbedding.like(BASE, adapter=PromptTuning(3)))


def test_freezing_all_that_an_adapter_trains_is_refused(experiment):
    frozen = replace(experiment, optimizer=replace(experiment.optimizer, frozen=("adapter",)))
    with pytest.raises(ConfigError, match=r"optimizer\.frozen matches every parameter that model\.adapter trains"):
        abstract_state(with_model(frozen, LoRA()))
