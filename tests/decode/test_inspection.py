"""The numbers on a page about a model equal its own: the softmax of its logits, and its attention weights."""

import jax
import numpy as np
import pytest

from research import load
from research.config import ConfigError
from research.data.batch import Batch
from research.decode.inspection import Inspection, Token, TokenNames, inspect, one_row
from research.decode.loaded_model import LoadedModel
from research.decode.search import forward

SOURCE, TARGET = "The <extra_id_0> of a list.", "long end é"


@pytest.fixture(scope="module")
def model(tiny_run) -> LoadedModel:
    opened = load(tiny_run)
    return opened.with_params(jax.tree.map(lambda leaf: 3 * np.asarray(leaf), opened.params))


@pytest.fixture(scope="module")
def batch(model) -> Batch:
    return one_row(model.batch([SOURCE], [TARGET]), 0)


@pytest.fixture(scope="module")
def found(model, batch) -> Inspection:
    return inspect(model, batch, alternatives=4)


def test_probabilities_are_the_softmax_of_the_models_logits(model, batch, found) -> None:
    shares = np.asarray(jax.nn.softmax(forward(model.config, model.params, batch)[0]))
    targets = batch.decoder_target_tokens[0]
    assert len(found.predictions) == len(targets) == len(TARGET.encode()) + 1
    for row, target, one in zip(shares, targets, found.predictions, strict=True):
        np.testing.assert_allclose(np.exp(one.log_probability), row[target], rtol=1e-5)
        assert one.rank == 1 + (row > row[target]).sum()
        np.testing.assert_allclose([share for _, share in one.best], np.sort(row)[::-1][:4], rtol=1e-5)
        named = TokenNames(model.tokenizer, target=True)
        assert [token for token, _ in one.best] == [named(int(id)) for id in np.argsort(-row, kind="stable")[:4]]
    nats = -sum(one.log_probability for one in found.predictions)
    np.testing.assert_allclose(nats, model.score([SOURCE], [TARGET]).nll[0], rtol=1e-4)
    assert len({one.rank for one in found.predictions}) > 3


def test_attention_is_that_of_every_layer_and_head(model, found) -> None:
    for part, maps in found.attention.items():
        queries, keys = found.tokens(part)
        assert maps.shape == (1, model.config.heads, len(queries), len(keys))
        np.testing.assert_allclose(maps[0], model.attention(SOURCE, TARGET, layer=0, part=part), atol=1e-6)
    assert list(found.attention) == ["encoder", "decoder", "cross"]


def test_tokens_have_marks_for_sentinels_spaces_and_bytes(found) -> None:
    text = [Token(letter, "text") for letter in "The␣"]
    assert found.inputs[:5] == [*text, Token("<extra_id_0>", "sentinel")]
    assert found.inputs[-1] == found.targets[-1] == Token("</s>", "special")
    assert found.decoder_inputs == [Token("<pad>", "special"), *found.targets[:-1]]
    assert [token.text for token in found.targets[-3:-1]] == ["<0xC3>", "<0xA9>"]


@pytest.mark.parametrize("family", ["t5", "mt5", "byt5", "bart", "cc25", "m2m_100", "marian", "separate"])
def test_tokens_of_every_family_spell_their_text(family, families) -> None:
    tokenizer = families[family]
    languages = tokenizer.languages[:1] if family in ("cc25", "m2m_100") else ()
    for target, framed in ((False, tokenizer.source), (True, tokenizer.target)):
        named = TokenNames(tokenizer, target)
        tokens = [named(id) for id in framed(["the and  the house"], *languages)[0]]
        spelled = "".join(token.text for token in tokens if token.kind == "text").replace("␣", "")
        assert spelled == "theandthehouse"
        assert "special" in {token.kind for token in tokens}
        assert all(token.text and token.text.isprintable() for token in tokens)
        assert named(10**6) == Token("<1000000>", "special")
    if len(tokenizer.sentinel_ids):
        assert named(int(tokenizer.sentinel_ids[0])) == Token("<extra_id_0>", "sentinel")


def test_a_row_loses_its_padding_and_holds_one_example() -> None:
    tokens = np.arange(12).reshape(2, 6)
    segments = np.array([[1, 1, 1, 0, 0, 0], [1, 1, 2, 2, 0, 0]])
    batch = Batch(tokens, tokens, tokens, encoder_segment_ids=segments, decoder_segment_ids=segments[:1].repeat(2, 0))
    row = one_row(batch, 0)
    assert [array.tolist() for array in row[:3]] == [[[0, 1, 2]]] * 3
    assert row.encoder_segment_ids is None
    with pytest.raises(ConfigError, match="This row packs several examples"):
        one_row(batch, 1)
    assert one_row(Batch(tokens, tokens, tokens), 1).encoder_input_tokens.tolist() == [[6, 7, 8, 9, 10, 11]]


def test_bad_input(model, batch) -> None:
    with pytest.raises(ConfigError, match="The number of alternatives is 0: it must be from 1 to 400"):
        inspect(model, batch, alternatives=0)
