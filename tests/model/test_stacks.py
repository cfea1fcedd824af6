"""Layers shared by encoder and decoder, and one stack for both: T5's comparison of architectures."""

from contextlib import nullcontext
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from test_transformer import (
    CAUSAL,
    EVEN,
    PREFIX,
    RATES,
    SHARING,
    SOURCE,
    TARGET,
    TINY,
    assert_trees_close,
    batch_of,
    gradients_of,
    logits_of,
    params_of,
)

from research import (
    Adafactor,
    Bytes,
    DecoderOnly,
    Evaluation,
    Experiment,
    Generation,
    Learned,
    ParallelText,
    Relative,
    SharedLayers,
    Supervised,
    Translation,
)
from research.config import ConfigError
from research.decode.evaluate import check_length
from research.decode.search import decode, score
from research.model.family import PRESETS, preset
from research.model.flops import parameter_count
from research.model.transformer import SHARED, abstract_params, bind, initial_params

PLACED = replace(PREFIX, positions=Learned(40))
ONE_STACK = {"prefix": PREFIX, "causal": CAUSAL, "learned": PLACED}


def one_stack(**others):
    configs = ONE_STACK | others
    return pytest.mark.parametrize("config", configs.values(), ids=configs.keys())


def test_inputs_and_outputs_of_one_stack_share_its_positions():
    """PLACED has 40: after 13 inputs 27 outputs have a place, and no more, long before any of them is written."""
    params, source = params_of(PLACED), batch_of().encoder_input_tokens
    assert decode(PLACED, params, source, generation=Generation(max_length=27)).tokens.shape[-1] <= 27
    with pytest.raises(ConfigError, match=r"A row has 41 tokens, but model\.positions\.length is 40"):
        decode(PLACED, params, source, generation=Generation(max_length=28))
    task = Translation(examples=ParallelText(train="{name}.txt"))
    experiment = Experiment(
        model=PLACED,
        data=Supervised(tasks=(task,), tokenizer=Bytes(), input_length=16, target_length=16),
        optimizer=Adafactor(),
        steps=1,
        batch_size=1,
    )
    for written, allowed in ((24, True), (25, False)):
        evaluation = Evaluation(generation=Generation(max_length=written))
        with nullcontext() if allowed else pytest.raises(ConfigError, match=r"max_length is 25: the model has 24 posi"):
            check_length(replace(experiment, evaluation=evaluation))


# --- Shared layers ----------------------------------------------------------------------------------------------------


def test_shared_layers_are_there_once_and_are_those_of_a_model_with_copies():
    shared, batch = params_of(SHARING), batch_of()
    assert set(shared["decoder"]["layers"]) == {"cross_attention", "cross_attention_norm"}
    copies = {name: shared["encoder"]["layers"][name] for name in SHARED}
    apart = shared | {"decoder": shared["decoder"] | {"layers": shared["decoder"]["layers"] | copies}}
    np.testing.assert_array_equal(logits_of(SHARING, shared, batch), logits_of(EVEN, apart, batch))
    together, separate = gradients_of(SHARING, shared, batch), gradients_of(EVEN, apart, batch)
    own = separate["decoder"]["layers"]
    summed = jax.tree.map(jnp.add, separate["encoder"]["layers"], {name: own[name] for name in SHARED})
    assert_trees_close(together["encoder"]["layers"], summed)
    assert_trees_close(together["decoder"]["layers"], {name: own[name] for name in own if name not in SHARED})


def test_t5_base_with_shared_layers_or_one_stack_has_the_papers_p_parameters():
    """Half of its layers' 2P, but for cross-attention (arXiv:1910.10683, table 2, rounds); P is BERT base's size."""
    counts = {
        name: parameter_count(abstract_params(replace(preset("t5/base"), **changes)))
        for name, changes in {
            "apart": {}, "shared": {"stacks": SharedLayers()}, "one": {"stacks": DecoderOnly()},
            "half": {"encoder_layers": 6, "decoder_layers": 6},
        }.items()
    }  # fmt: skip
    layer = 12 * 768**2  # of one stack: attention's four matrices and the feed-forward's two of four widths
    cross = 4 * 768**2
    table = 32_128 * 768
    assert counts["one"] == table + 12 * (layer + 2 * 768) + 768 + 32 * 12
    assert counts["shared"] == counts["one"] + 12 * (cross + 768) + 768 + 32 * 12
    assert counts["apart"] == counts["shared"] + 12 * (layer + 2 * 768)
    assert counts["half"] == table + 6 * (2 * layer + cross + 5 * 768) + 2 * (768 + 32 * 12)


@pytest.mark.parametrize("name", [name for name in PRESETS if name.endswith("small")])
def test_models_with_stacks_apart_have_the_parameters_that_they_had(name: str):
    paths = set(flatten_dict(abstract_params(preset(name)), sep="/"))
    stacks = {path.split("/")[0] for path in paths}
    assert stacks - {"head"} == {"embedding", "encoder", "decoder"}
    assert {f"decoder/layers/{part}/weight" for part in ("feed_forward/up", "self_attention/query")} <= paths


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(
        ConfigError, match=r"model\.stacks has one set of layers: encoder_layers and decoder_layers are \(3, 2\)"
    ):
        replace(TINY, stacks=SharedLayers())
    with pytest.raises(ConfigError, match=r"model\.stacks has one set of layers"):
        replace(TINY, stacks=DecoderOnly())
    with pytest.raises(ConfigError, match=r"model\.positions\.per_layer must be False with SharedLayers"):
        replace(SHARING, positions=Relative(8, 12, per_layer=True))


# --- One stack --------------------------------------------------------------------------------------------------------


def concatenated(config, params, batch):
    """The same by one row of inputs and targets, one layer after the other, with plain NumPy masks."""
    module = bind(config, params)
    x = jnp.concatenate([module.embed(batch.encoder_input_tokens), module.embed(batch.decoder_input_tokens)], axis=1)
    length = SOURCE + TARGET
    mask = np.tril(np.ones((length, length), bool))
    if config.stacks == DecoderOnly():
        mask[:SOURCE, :SOURCE] = True
    positions = jnp.arange(length)
    bias = module.decoder.position_bias(positions, positions, config.stacks == DecoderOnly())
    x = module.decoder.embed_positions(x, positions)
    for layer in module.decoder.unstacked():
        x, _ = layer(x, None, jnp.asarray(mask), bias(layer))
    return module.logits(module.decoder.final_norm(x))[:, SOURCE:]


@one_stack()
def test_one_stack_is_one_row_of_inputs_and_targets(config):
    params, batch = params_of(config), batch_of()
    expected = concatenated(config, params, batch)
    np.testing.assert_allclose(
        logits_of(config, params, batch), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()
    )


@one_stack()
def test_targets_see_the_inputs_and_what_is_before_them(config):
    params, batch = params_of(config), batch_of(rows=1)
    plain = logits_of(config, params, batch)[0]

    def changed(field, place):
        tokens = getattr(batch, field)
        other = batch._replace(**{field: tokens.at[0, place].set(tokens[0, place] % 58 + 2)})
        return np.any(np.asarray(logits_of(config, params, other)[0] != plain), axis=-1)

    for place in range(SOURCE):
        assert changed("encoder_input_tokens", place).all()
    for place in range(TARGET):
        np.testing.assert_array_equal(changed("decoder_input_tokens", place), np.arange(TARGET) >= place)


@pytest.mark.parametrize(("config", "sees"), [(PREFIX, True), (CAUSAL, False)], ids=["prefix", "causal"])
def test_inputs_see_what_is_after_them_in_a_prefix_alone(config, sees: bool):
    module, batch = bind(config, params_of(config)), batch_of(rows=1)
    plain = module.encode(batch.encoder_input_tokens)[-1][0]
    last = batch.encoder_input_tokens.at[0, -1].set(3)
    different = np.any(np.asarray(module.encode(last)[-1][0] != plain), axis=(0, 2, 3))
    np.testing.assert_array_equal(different[:-1], np.full(SOURCE - 1, sees))


@pytest.mark.slow
@one_stack(shared=SHARING)
@pytest.mark.parametrize("beams", [1, 3])
def test_what_is_written_has_the_score_that_whole_passes_give_it(config, beams: int):
    from research import Beam, Greedy, Power

    params, batch = params_of(config), batch_of()
    source, segments = batch.encoder_input_tokens, jnp.ones_like(batch.encoder_input_tokens).at[1, 9:].set(0)
    method = Greedy() if beams == 1 else Beam(beams, length_penalty=Power(0.0))
    generation = Generation(method=method, eos_token=60, max_length=6)
    found = decode(config, params, source, segments, generation=generation, scores=True)
    tokens = found.tokens[:, 0]
    inputs = jnp.concatenate([jnp.zeros((2, 1), tokens.dtype), tokens[:, :-1]], axis=1)
    ended = jnp.cumsum(inputs == 60, axis=1) > 0
    likelihood = score(config, params, source, inputs, tokens, segments)
    np.testing.assert_allclose(jnp.sum(jnp.where(ended, 0.0, likelihood), axis=1), found.scores[:, 0], rtol=1e-4)


@pytest.mark.slow
@one_stack(shared=SHARING)
def test_every_parameter_has_a_gradient_with_remat_and_dropout_too(config):
    batch = batch_of()
    for changes in ({}, {"remat": "full"}, {"remat": "dots", "unroll": 2}):
        found = gradients_of(replace(config, **changes), params_of(config), batch)
        assert_trees_close(found, gradients_of(config, params_of(config), batch))
        for path, leaf in flatten_dict(found, sep="/").items():
            assert np.any(np.asarray(leaf) != 0), path
    dropped = replace(config, **dict.fromkeys(RATES, 0.2))
    first, second = (logits_of(dropped, params_of(config), batch, jax.random.key(seed)) for seed in (0, 1))
    assert not np.allclose(first, second)
    assert np.isfinite(first).all()


@pytest.mark.slow
@one_stack(shared=SHARING)
def test_initial_values_lead_to_a_loss_near_the_logarithm_of_the_vocabulary(config):
    params = initial_params(replace(config, vocab_size=61), jax.random.key(0))
    logits = logits_of(config, params, batch_of(rows=8))
    likelihood = jax.nn.log_softmax(logits)
    loss = -jnp.take_along_axis(likelihood, batch_of(rows=8).decoder_target_tokens[..., None], -1).mean()
    assert abs(float(loss) - np.log(61)) < 1.5
