"""Scores are sums over all batches divided once; filling the true spans in gives the text back."""

import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from research import BART, Bytes, Generation, Model, ReplaceSpans, SpanCorruption
from research.data.batch import Batch
from research.data.tokenizer import open_tokenizer
from research.decode import evaluate
from research.decode.evaluate import Passage, fill_in, held_out, last_token, passage, replace_sentinels
from research.decode.search import Hypotheses
from research.model.loss import Sums
from research.model.transformer import initial_params

TEXT = "Nothing in the world can take the place of persistence; talent will not, and neither will genius, nor "
MODEL = Model(384, 16, 2, 8, 32, 1, 1, compute="float32")


def corrupted():
    """Rows of text through span corruption, and the text of each."""
    tokenizer, objective = open_tokenizer(Bytes()), SpanCorruption()
    row = objective.lengths(64)
    texts = [(TEXT * 2)[start : start + row.raw] for start in (0, 7, 50)]
    tokens = np.array([tokenizer.encode(text) for text in texts], np.uint16)
    return objective.corrupt(tokens, row, tokenizer, np.random.default_rng(0)), texts, tokenizer


def test_batches_of_unequal_weight_count_by_their_tokens():
    small, large = (Batch(*np.zeros((3, rows, 4), np.int32)) for rows in (1, 10))

    def eval_step(params, batch):
        nll, weight = {1: (2.0, 10.0), 10: (9.0, 1.0)}[len(batch.encoder_input_tokens)]
        return Sums(*map(np.float32, (0.0, nll, 0.0, weight / 2, weight)))

    scores = held_out(eval_step, {}, [small, large])
    assert scores == {"held_out_loss": pytest.approx(1.0), "held_out_accuracy": pytest.approx(0.5)}


def test_true_targets_fill_their_inputs_to_the_text():
    batch, texts, tokenizer = corrupted()
    for inputs, targets, text in zip(batch.encoder_input_tokens, batch.decoder_target_tokens, texts, strict=True):
        shown = replace_sentinels(inputs, targets, tokenizer)
        assert "".join(re.sub(r"[\[\]]", "", shown).split()) == "".join(text.split())  # a span's own spaces are cut
        assert shown.count("[") == shown.count("]") == SpanCorruption().lengths(64).spans


def test_spans_that_were_not_written_stay_empty():
    batch, _, tokenizer = corrupted()
    inputs, targets = batch.encoder_input_tokens[0], batch.decoder_target_tokens[0]
    first_span_only = np.concatenate([targets[: list(targets).index(tokenizer.sentinel_ids[1])], [tokenizer.eos_id]])
    shown = replace_sentinels(inputs, first_span_only, tokenizer)
    assert shown.count("[]") == SpanCorruption().lengths(64).spans - 1
    assert replace_sentinels(inputs, targets[:0], tokenizer).count("[]") == SpanCorruption().lengths(64).spans


def test_passages_show_what_the_model_writes_and_what_was_hidden(monkeypatch):
    batch, _, tokenizer = corrupted()
    oracle = SimpleNamespace(asked=None)

    def decode(model, params, inputs, segments, generation, start_tokens):
        oracle.asked = generation
        assert start_tokens.tolist() == [tokenizer.pad_id] * 3
        return Hypotheses(batch.decoder_target_tokens[:, None], None)

    params = initial_params(MODEL, jax.random.key(0))
    untrained = fill_in(MODEL, params, batch, tokenizer)
    assert all(isinstance(passage, Passage) for passage in untrained)
    monkeypatch.setattr(evaluate, "decode", decode)
    perfect = fill_in(MODEL, params, batch, tokenizer)
    assert [passage.filled for passage in perfect] == [passage.original for passage in perfect]
    assert [passage.original for passage in untrained] == [passage.original for passage in perfect]
    assert oracle.asked == Generation(max_length=batch.decoder_target_tokens.shape[1])


def test_a_target_that_is_text_is_shown_beside_the_input():
    tokenizer = open_tokenizer(Bytes())
    tokens = np.array([tokenizer.encode(TEXT[:63])] * 2, np.uint16)
    batch = BART().corrupt(tokens, BART().lengths(64), tokenizer, np.random.default_rng(0))
    inputs, targets = batch.encoder_input_tokens[0], batch.decoder_target_tokens[0]
    shown = passage(inputs, np.array(tokenizer.encode("what was written")), targets, tokenizer)
    assert shown.filled == "what was written"
    assert shown.original == TEXT[:63]
    assert "<extra_id_0>" in shown.input
    assert fill_in(MODEL, initial_params(MODEL, jax.random.key(0)), batch, tokenizer)[0].original == TEXT[:63]


def test_a_target_that_begins_with_noise_is_not_mistaken_for_a_list_of_spans():
    tokenizer = open_tokenizer(Bytes())
    row = ReplaceSpans(0.5).lengths(24)
    tokens = np.array([tokenizer.encode(TEXT[: row.raw])] * 50, np.uint16)
    batch = ReplaceSpans(0.5).corrupt(tokens, row, tokenizer, np.random.default_rng(0))
    for inputs, targets in zip(batch.encoder_input_tokens, batch.decoder_target_tokens, strict=True):
        shown = passage(inputs, targets, targets, tokenizer)
        assert shown.filled == shown.original
        if inputs[0] == tokenizer.sentinel_ids[0]:
            assert shown.original == tokenizer.decode(targets)
        else:
            assert re.sub(r"[\[\] ]", "", shown.original) == TEXT[: row.raw].replace(" ", "")


def test_what_ends_a_target_ends_the_decoding():
    tokenizer = open_tokenizer(Bytes())
    tokens = np.array([[5, 6, 1, 300], [5, 6, 1, 301]], np.int32)
    assert last_token(Batch(tokens, tokens, tokens), tokenizer) == tokenizer.eos_id
    assert last_token(Batch(tokens[:1], tokens[:1], tokens[:1]), tokenizer) == 300
    weights = np.array([[1, 1, 1, 0], [1, 1, 1, 0]], np.float32)
    assert last_token(Batch(tokens, tokens, tokens + 9, weights), tokenizer) == 10
