"""Greedy decoding over the cache writes what the whole model, run anew for every token, finds most probable."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import GNMT, Beam, Generation, Greedy, Mesh, Model, Power, Relative, Sampling
from research.config.override import from_json
from research.data.batch import Batch
from research.decode.logits import FREE
from research.decode.search import decode, score
from research.decode.stop_strings import stop_table, surfaces
from research.model.parameters import param_specs
from research.model.transformer import bind, initial_params
from research.parallel.mesh import batch_sharding, make_mesh
from research.parallel.rules import shardings
from research.pretrained.huggingface import read_config, read_params
from research.pretrained.tokenizer_files import write_tokenizer

PAD, EOS, ROWS, LENGTH = 0, 1, 6, 9
MODEL = Model(24, 16, 2, 8, 32, 2, 2, positions=Relative(buckets=4, max_distance=6), compute="float32")


@pytest.fixture(scope="module")
def params():
    return initial_params(MODEL, jax.random.key(3))


def source(padded: bool) -> tuple[np.ndarray, np.ndarray | None]:
    tokens = np.random.default_rng(0).integers(2, 24, (ROWS, 7), dtype=np.int32)
    if not padded:
        return tokens, None
    segments = (np.arange(7) < np.array([7, 6, 5, 4, 3, 2])[:, None]).astype(np.int32)
    return tokens * segments, segments


def greedy(params, tokens, segments, **settings) -> np.ndarray:
    return np.asarray(decode(MODEL, params, tokens, segments, generation=Generation(**settings)).tokens[:, 0])


def by_whole_passes(params, tokens: np.ndarray, segments: np.ndarray | None) -> np.ndarray:
    """Each next token from a pass over all tokens so far, without a cache."""
    whole = jax.jit(lambda inputs: bind(MODEL, params)(Batch(tokens, inputs, inputs, None, segments)))
    inputs = np.zeros((ROWS, LENGTH + 1), np.int32)
    for index in range(LENGTH):
        inputs[:, index + 1] = np.argmax(whole(inputs[:, :LENGTH])[:, index], axis=-1)
    return inputs[:, 1:]


@pytest.mark.parametrize("padded", [False, True])
def test_greedy_is_the_argmax_of_whole_passes_up_to_eos_and_padding_after(params, padded: bool):
    tokens, segments = source(padded)
    expected = by_whole_passes(params, tokens, segments)
    # The token that most rows write somewhere in the middle stands in for EOS, so that rows end at different places.
    end = int(np.bincount(expected[:, 2:6].ravel()).argmax())
    written = greedy(params, tokens, segments, eos_token=end, max_length=LENGTH)
    lengths = []
    for row, reference in zip(written, expected, strict=True):
        ends = np.flatnonzero(reference == end)
        length = ends[0] + 1 if len(ends) else LENGTH
        lengths.append(length)
        np.testing.assert_array_equal(row[:length], reference[:length])
        assert (row[length:] == PAD).all()
    assert min(lengths) < LENGTH


def test_the_loop_ends_with_the_last_row(params):
    """A model that writes EOS at once stops after one step, whatever the length: only then is a huge one affordable."""
    silent = jax.tree.map(np.zeros_like, params)
    tokens, _ = source(padded=False)
    written = greedy(silent, tokens, None, eos_token=0, max_length=100_000)
    assert not np.asarray(written).any()


# --- Against the reference --------------------------------------------------------------------------------------------

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
REFERENCE = json.loads((GOLDENS / "generations.json").read_text())
MODELS = [name for name in REFERENCE if name != "versions"]
GROUPED = json.loads((GOLDENS / "group_generations.json").read_text())  # by a version of transformers that had groups


@cache
def opened(name: str):
    model = replace(read_config(GOLDENS / name), compute="float32")
    return model, jax.tree.map(jnp.asarray, read_params(GOLDENS / name, model))


def written(name: str, generation: Generation, tokens, mask, **inputs) -> tuple[list[list[int]], list[float]]:
    """Tokens of all outputs, up to and with EOS, and their scores; after EOS there is nothing but padding."""
    model, params = opened(name)
    sources = jnp.asarray(tokens, jnp.int32), jnp.asarray(mask, jnp.int32)
    found = decode(model, params, *sources, generation=generation, **inputs)
    rows = []
    for row in np.asarray(found.tokens).reshape(-1, generation.max_length).tolist():
        end = next((index + 1 for index, token in enumerate(row) if token in generation.ends), len(row))
        assert set(row[end:]) <= {generation.pad_token}
        rows.append(row[:end])
    return rows, np.asarray(found.scores).ravel().tolist()


@pytest.mark.parametrize(("name", "case"), [(name, case) for name in MODELS for case in REFERENCE[name]["cases"]])
def test_tokens_and_scores_are_the_reference_s(name: str, case: str):
    """Every rule and every method, sources of unequal lengths, against Hugging Face's `generate`."""
    check_case(name, REFERENCE[name], REFERENCE[name]["cases"][case])


@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name in MODELS if name in GROUPED for case in GROUPED[name]["cases"]]
)
def test_tokens_and_scores_of_groups_are_the_reference_s(name: str, case: str):
    check_case(name, GROUPED[name], GROUPED[name]["cases"][case])


def check_case(name: str, inputs: dict, golden: dict) -> None:
    generation = from_json(json.dumps(golden["generation"]), Generation)
    lengths = np.array(inputs["lengths"])
    tokens = np.array(inputs["tokens"])
    rows, scores = written(name, generation, tokens, np.arange(tokens.shape[1]) < lengths[:, None])
    assert rows == golden["tokens"]
    if golden["scores"] is not None:
        np.testing.assert_allclose(scores, golden["scores"], rtol=1e-4)


@pytest.mark.live
@pytest.mark.parametrize("name", MODELS)
def test_live_tokens_are_the_reference_s(name: str):
    """On other sources, with a decoder start of each row's own and with a forced prefix."""
    import torch

    from scripts.make_generation_goldens import LONGEST, TOKENS, open_reference, reference, sources

    start, eos, pad = TOKENS.get(name, (0, 1, 0))
    reference_model = open_reference(GOLDENS / name)
    tokens, mask = sources(pad, reference_model.config.vocab_size, seed=7)
    banned = (pad,) if name.startswith("marian") else ()
    common = {"start_token": start, "eos_token": eos, "pad_token": pad, "banned": banned, "max_length": LONGEST}
    starts = np.array([start, 5, 17, 5])
    prefix = np.array([[9, 4], [4, 9], [30, 31], [9, 4]])
    for generation, begin in (
        (Generation(**common), None),
        (Generation(**common, method=Beam(3), outputs=2, no_repeat_ngram=2), starts[:, None]),
        (Generation(**common, method=Beam(4), outputs=4), np.concatenate([starts[:, None], prefix], axis=1)),
        # Rules that count from the end of the prompt.
        (
            Generation(**common, method=Beam(3), eos_growth=1.2, eos_growth_start=2, banned_first=(4, 12, 21)),
            np.concatenate([starts[:, None], prefix], axis=1),
        ),
    ):
        inputs = {} if begin is None else {"decoder_input_ids": torch.from_numpy(begin)}
        expected, expected_scores = reference(reference_model, generation, tokens, mask, **inputs)
        ours = {} if begin is None else {"start_tokens": jnp.asarray(begin[:, 0])}
        if begin is not None and begin.shape[1] > 1:
            ours["prefix"] = jnp.asarray(begin[:, 1:])
        rows, scores = written(name, generation, tokens, mask, **ours)
        assert rows == expected
        if expected_scores is not None:
            np.testing.assert_allclose(scores, expected_scores, rtol=1e-4, atol=1e-5)


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5", "bart", "marian"])
def test_live_tokens_with_stop_strings(families, name, tmp_path):
    """A tokenizer knows more ids than the models of the goldens write."""
    from transformers import AutoTokenizer

    from scripts.make_generation_goldens import LONGEST, TOKENS, open_reference, reference, sources

    start, eos, pad = TOKENS.get(name, (0, 1, 0))
    network, tokenizer = open_reference(GOLDENS / name), families[name]
    write_tokenizer(tokenizer, tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    tokens, mask = sources(pad, network.config.vocab_size, seed=3)
    banned = (pad,) if name.startswith("marian") else ()
    common = Generation(start, eos, pad, max_length=LONGEST, banned=banned)
    texts = surfaces(tokenizer)
    for method in ({}, {"method": Beam(4), "outputs": 4}, {"method": Beam(3, stop="first"), "outputs": 3}):
        plain = replace(common, **method)
        free, _ = written(name, plain, tokens, mask)
        ends = {b"".join(texts[id] or b"" for id in row[3:6]).decode(errors="ignore")[-4:] for row in free}
        generation = replace(plain, stop_strings=tuple(sorted(end for end in ends if end)))
        expected, scores = reference(network, generation, tokens, mask, tokenizer=theirs)
        table = stop_table(tokenizer, generation.stop_strings)
        rows, ours = written(name, generation, tokens, mask, stops=table)
        fill = {pad, eos} if method and not pad else {pad}  # beam search there takes EOS where padding is token 0
        assert [stripped(row, fill) for row in rows] == [stripped(row, fill) for row in expected]
        assert sum(len(stripped(row, fill)) for row in rows) < sum(len(stripped(row, fill)) for row in free)
        if scores is not None:
            np.testing.assert_allclose(ours, scores, rtol=1e-4)


def stripped(row: list[int], fill: set[int]) -> list[int]:
    return row[: max((place + 1 for place, id in enumerate(row) if id not in fill), default=0)]


# --- A prefix with a hole ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [Greedy(), Beam(1)])
def test_only_the_free_tokens_of_a_prefix_count(params, method):
    tokens, _ = source(padded=False)
    prefix = jnp.broadcast_to(jnp.array([5, FREE, 6]), (ROWS, 3))
    generation = Generation(method=method, max_length=6, min_length=6)
    found = decode(MODEL, params, tokens, prefix=prefix, generation=generation, scores=True)
    written = found.tokens[:, 0]
    np.testing.assert_array_equal(written[:, [0, 2]], [[5, 6]] * ROWS)
    each = score(MODEL, params, tokens, jnp.pad(written, ((0, 0), (1, 0)))[:, :-1], written)
    expected = jnp.sum(each[:, [1, 3, 4, 5]], axis=1)
    np.testing.assert_allclose(found.scores[:, 0] * (4 if method == Beam(1) else 1), expected, rtol=1e-5)


@pytest.mark.parametrize("method", [Greedy(), Beam(1)])
def test_an_end_in_a_prefix_ends_the_row_only_where_it_is_free(params, method):
    tokens, _ = source(padded=False)
    prefix = jnp.broadcast_to(jnp.array([5, FREE, 6]), (ROWS, 3))
    free = decode(MODEL, params, tokens, prefix=prefix, generation=Generation(method=method, max_length=6))
    end = int(free.tokens[0, 0, 1])
    generation = Generation(method=method, eos_token=end, max_length=6)
    written = np.asarray(decode(MODEL, params, tokens, prefix=prefix, generation=generation).tokens)[0, 0]
    np.testing.assert_array_equal(written, [5, end, PAD, PAD, PAD, PAD])
    forced = decode(MODEL, params, tokens, prefix=prefix.at[:, 1].set(end), generation=generation)
    np.testing.assert_array_equal(forced.tokens[0, 0, :3], [5, end, 6])


# --- Properties -------------------------------------------------------------------------------------------------------

BEAM = Generation(method=Beam(3), outputs=3, max_length=LENGTH)
SAMPLE = Generation(method=Sampling(temperature=1.5), outputs=2, max_length=LENGTH)


def keys(count: int):
    return jax.random.split(jax.random.key(5), count)


def test_a_cache_that_grows_gives_what_a_whole_one_gives(params, monkeypatch):
    tokens, segments = source(padded=True)
    for generation in (BEAM, Generation(max_length=LENGTH)):
        whole = decode(MODEL, params, tokens, segments, generation=generation)
        with monkeypatch.context() as patch:
            patch.setattr("research.decode.step.STAGES", (2, 5))
            decode.clear_cache()
            grown = decode(MODEL, params, tokens, segments, generation=generation)
        decode.clear_cache()
        np.testing.assert_array_equal(grown.tokens, whole.tokens)
        np.testing.assert_allclose(grown.scores, whole.scores, rtol=1e-5)


def test_samples_are_each_row_s_own(params):
    """The same key and row give the same samples in another batch; another key or output gives others."""
    tokens, segments = source(padded=True)
    together = decode(MODEL, params, tokens, segments, generation=SAMPLE, keys=keys(ROWS)).tokens
    apart = decode(MODEL, params, tokens[2:4], segments[2:4], generation=SAMPLE, keys=keys(ROWS)[2:4]).tokens
    np.testing.assert_array_equal(apart, together[2:4])
    others = decode(MODEL, params, tokens, segments, generation=SAMPLE, keys=keys(2 * ROWS)[ROWS:]).tokens
    assert (np.asarray(others) != together).any(axis=(1, 2)).all()
    assert (np.asarray(together[:, 0]) != together[:, 1]).any()


def test_scores_are_log_probabilities_of_forced_decoding(params):
    tokens, segments = source(padded=True)
    for generation in (SAMPLE, replace(BEAM, method=Beam(3, Power(0.0)))):
        found = decode(MODEL, params, tokens, segments, generation=generation, keys=keys(ROWS), scores=True)
        for output in range(generation.outputs):
            targets = np.asarray(found.tokens[:, output])
            ends = np.argmax(targets == EOS, axis=1)
            lengths = np.where((targets == EOS).any(axis=1), ends + 1, LENGTH)
            real = (np.arange(LENGTH) < lengths[:, None]).astype(np.int32)
            inputs = np.concatenate([np.full((ROWS, 1), PAD), targets[:, :-1]], axis=1)
            likelihood = score(MODEL, params, tokens, inputs, targets, segments, real)
            np.testing.assert_allclose(likelihood.sum(axis=1), found.scores[:, output], rtol=1e-4)


def test_length_penalties_are_what_their_papers_say(params):
    """Of hypotheses without EOS, which all have the same length, the penalty scales the scores and nothing else."""
    tokens, segments = source(padded=False)
    common = {"max_length": LENGTH, "banned": (EOS,), "outputs": 3}
    plain, power, gnmt = (
        decode(MODEL, params, tokens, segments, generation=Generation(method=Beam(3, penalty), **common))
        for penalty in (Power(0.0), Power(0.7), GNMT(0.6))
    )
    np.testing.assert_array_equal(plain.tokens, gnmt.tokens)
    np.testing.assert_allclose(power.scores, plain.scores / LENGTH**0.7, rtol=1e-5)
    np.testing.assert_allclose(gnmt.scores, plain.scores / ((5 + LENGTH) / 6) ** 0.6, rtol=1e-5)


@pytest.mark.parametrize("generation", [BEAM, SAMPLE, Generation(max_length=LENGTH)], ids=["beam", "sample", "greedy"])
def test_a_mesh_of_devices_gives_the_same_tokens(params, generation):
    rows = 8
    tokens = np.random.default_rng(1).integers(2, 24, (rows, 7), dtype=np.int32)
    segments = (np.arange(7) < np.array([7, 6, 5, 4, 3, 2, 7, 7])[:, None]).astype(np.int32)
    alone = decode(MODEL, params, tokens, segments, generation=generation, keys=keys(rows))
    mesh = make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    placed = jax.device_put(params, shardings(mesh, param_specs(params)))
    sources = jax.device_put((tokens, segments), batch_sharding(mesh))
    with jax.set_mesh(mesh):
        spread = decode(MODEL, placed, *sources, generation=generation, keys=keys(rows))
    np.testing.assert_array_equal(spread.tokens, alone.tokens)


def test_the_encoder_is_projected_once_and_not_for_every_hypothesis(params):
    """No array of the loop has the source's length and the hypotheses in the place of rows."""
    tokens, segments = map(jnp.asarray, source(padded=True))
    cache = jax.eval_shape(
        lambda params: bind(MODEL, params).new_cache(bind(MODEL, params).encode(tokens, segments), 8, hypotheses=4),
        params,
    )
    assert {array.shape for pair in cache.cross for array in pair} == {(ROWS, 2, 8, 7), (ROWS, 2, 7, 8)}
    assert {array.shape for pair in cache.own for array in pair} <= {(ROWS, 2, 8, 8 * 4), (ROWS, 2, 8 * 4, 8)}
