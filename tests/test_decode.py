"""Greedy decoding over the cache writes what the whole model, run anew for every token, finds most probable."""

import jax
import numpy as np
import pytest

from research.config import Generation, Model, Relative
from research.data.batch import Batch
from research.decode import decode
from research.model.transformer import bind, initial_params

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
