"""Stop strings: where they end outputs, against text itself and against Hugging Face's StopStringCriteria."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import Generation, Model, Relative, Sampling
from research.config import ConfigError
from research.decode.generate import Generator
from research.decode.search import decode
from research.decode.stop_strings import completed, stop_table, surfaces
from research.model.transformer import initial_params
from research.pretrained.tokenizer_files import write_tokenizer

FAMILIES = ("t5", "fallback", "mt5", "bart", "cc25", "50", "m2m_100", "marian")
STRINGS = ("house", "er and", "ße", "e", " mountain", "的", "!", "ing r")


def rows_of(tokenizer, count: int = 60, length: int = 24) -> np.ndarray:
    """Texts with the strings in them, cut anywhere, among random ids, also of padding and outside the vocabulary."""
    rng = np.random.default_rng(1)
    rows = rng.integers(0, tokenizer.target_size + 3, (count, length))
    for row in rows:
        texts = [rng.choice(STRINGS)[: rng.integers(1, 9)] + rng.choice(["", "r", " ", "s!"]) for _ in range(4)]
        ids = [id for text in texts for id in tokenizer.target([text], languages(tokenizer))[0][:-1]]
        row[1 : 1 + len(ids)] = ids[: length - 1]
    return rows


def languages(tokenizer) -> str | None:
    return next((code for code in ("ro_RO", "ro") if code in tokenizer.language_ids), None)


def ours_at_every_position(table, rows: np.ndarray) -> np.ndarray:
    check = jax.jit(jax.vmap(partial(completed, table), (None, 0)))
    return np.asarray(check(jnp.asarray(rows)[:, None], jnp.arange(rows.shape[1])))[..., 0].T


@pytest.mark.parametrize("name", ["t5", "fallback", "bart"])
def test_a_string_is_complete_where_the_text_has_it_with_the_last_token_and_not_without(families, name):
    tokenizer = families[name]
    texts, rows = surfaces(tokenizer), rows_of(tokenizer)
    rows = np.minimum(rows, tokenizer.size - 1)
    found = ours_at_every_position(stop_table(tokenizer, STRINGS), rows)
    for row, marks in zip(rows, found, strict=True):
        for last, mark in enumerate(marks):
            parts = [texts[id] for id in row[: last + 1]]
            whole, without = b"".join(parts), len(b"".join(parts[:-1]))
            starts = (max(without - len(stop.encode()) + 1, 0) for stop in STRINGS)
            assert mark == any(stop.encode() in whole[at:] for stop, at in zip(STRINGS, starts, strict=True))
    assert 50 < found.sum() < found.size / 2


@pytest.mark.live
@pytest.mark.parametrize("name", FAMILIES)
def test_live_criteria_of_transformers(families, name, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    tokenizer = families[name]
    write_tokenizer(tokenizer, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    rows = rows_of(tokenizer)
    for strings in (STRINGS, STRINGS[:1], STRINGS[1:2], ("a b",)):
        criteria = transformers.StopStringCriteria(theirs, list(strings))
        expected = [criteria(torch.from_numpy(rows[:, : end + 1]), None).numpy() for end in range(rows.shape[1])]
        np.testing.assert_array_equal(ours_at_every_position(stop_table(tokenizer, strings), rows).T, expected)
        assert np.any(expected) or strings == ("a b",)


# --- Outputs ----------------------------------------------------------------------------------------------------------

LINES = ["the house", "a river and a mountain", "Grüße", "winter letters don't"]
MODEL = Model(1, 16, 2, 8, 24, 1, 1, positions=Relative(buckets=4, max_distance=8), compute="float32")


def writer(tokenizer, **settings) -> Generator:
    model = replace(MODEL, vocab_size=tokenizer.target_size)
    params = jax.tree.map(lambda leaf: 3 * leaf, initial_params(model, jax.random.key(0)))
    generation = Generation(tokenizer.start_id(), tokenizer.eos_id, tokenizer.pad_id, max_length=12, **settings)
    return Generator(model, params, tokenizer, generation, batch_size=4)


def outputs_of(generator: Generator) -> list[list[list[int]]]:
    found = next(iter(generator.run(generator.prepare(LINES)[0])))
    return [[each.tokens for each in found[number]] for number in range(len(LINES))]


@pytest.mark.parametrize("method", [{}, {"method": Sampling(), "outputs": 2}], ids=["greedy", "sampling"])
def test_an_output_ends_with_the_token_that_completes_a_string(families, method):
    tokenizer = families["t5"]
    free, texts = outputs_of(writer(tokenizer, **method)), surfaces(tokenizer)
    stops = tuple({b"".join(texts[id] for id in each[4:6]).decode()[1:] for row in free for each in row})
    generator = writer(tokenizer, **method, stop_strings=stops)
    for row, whole in zip(outputs_of(generator), free, strict=True):
        for each, before in zip(row, whole, strict=True):
            assert each == before[: len(each)]
            assert len(each) <= 6
            text = b"".join(texts[id] for id in [generator.generation.start_token, *each]).decode()
            assert any(stop in text for stop in stops) or each[-1] == tokenizer.eos_id
            assert not generator.unfinished(each)


def test_a_string_completed_at_the_limit_is_an_end(families):
    tokenizer = families["t5"]
    free, texts = outputs_of(writer(tokenizer))[0][0], surfaces(tokenizer)
    assert len(free) == 12
    stop = b"".join(texts[id] for id in free[-3:]).decode()
    generator = writer(tokenizer, stop_strings=(stop,))
    assert not generator.unfinished(outputs_of(generator)[0][0])
    assert writer(tokenizer).unfinished(free)


# --- Refused ----------------------------------------------------------------------------------------------------------


def test_without_a_tokenizer_they_are_refused():
    params = initial_params(replace(MODEL, vocab_size=9), jax.random.key(0))
    with pytest.raises(ConfigError, match=r"generation\.stop_strings needs a tokenizer, for the text of each token"):
        decode(replace(MODEL, vocab_size=9), params, np.ones((1, 2), int), generation=Generation(stop_strings=("a",)))


def test_strings_that_no_token_ends_are_refused(families):
    with pytest.raises(ConfigError, match=r"generation\.stop_strings is \['\\u2603\\u2603'\]|no token of the vocab"):
        stop_table(families["t5"], ("☃\U0010ffff",))
