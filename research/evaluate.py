"""Evaluation on held-out data: the loss, and what the model writes where text was hidden."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from research.config import Generation, Model
from research.data.batch import Batch
from research.data.tokenizer import Tokenizer
from research.data.tokenizer.sentinels import SENTINEL
from research.decode import decode
from research.loss import Sums
from research.model.transformer import Params


@dataclass(frozen=True)
class Passage:
    """A held-out passage as the model writes it and as it was.

    Where the target lists what sentinels hide, `filled` and `original` are the input with its hidden spans in brackets;
    elsewhere they are what was written and the target.
    """

    filled: str
    original: str
    input: str


def held_out(eval_step: Callable[[Params, Batch], Sums], params: Params, batches: Iterable[Batch]) -> dict[str, float]:
    """Mean negative log-likelihood in nats a target token, and accuracy under forced decoding."""
    sums: Any = None
    for batch in batches:
        of_batch = eval_step(params, batch)
        sums = of_batch if sums is None else jax.tree.map(lambda a, b: a + b, sums, of_batch)
    total = jax.device_get(sums)
    return {
        "held_out_loss": float(total.nll / total.weight),
        "held_out_accuracy": float(total.correct / total.weight),
    }


def fill_in(model: Model, params: Params, batch: Batch, tokenizer: Tokenizer) -> list[Passage]:
    """The rows of a denoising batch, and what greedy decoding writes for each."""
    inputs, targets = np.asarray(batch.encoder_input_tokens), np.asarray(batch.decoder_target_tokens)
    if not len(inputs):
        return []
    generation = Generation(
        eos_token=last_token(batch, tokenizer), pad_token=tokenizer.pad_id, max_length=targets.shape[1]
    )
    starts = np.asarray(batch.decoder_input_tokens)[:, 0]
    predictions = decode(model, params, inputs, batch.encoder_segment_ids, generation=generation, start_tokens=starts)
    written = multihost_utils.process_allgather(predictions.tokens[:, 0], tiled=True)
    return [passage(*row, tokenizer) for row in zip(inputs, written, targets, strict=True)]


def last_token(batch: Batch, tokenizer: Tokenizer) -> int:
    """What every target ends with: EOS or, in mBART, a language; EOS where languages differ."""
    targets, weights = np.asarray(batch.decoder_target_tokens), batch.decoder_loss_weights
    lengths = np.full(len(targets), targets.shape[1]) if weights is None else np.sum(np.asarray(weights) > 0, axis=1)
    ends = {int(row[length - 1]) for row, length in zip(targets, lengths, strict=True)}
    return ends.pop() if len(ends) == 1 else tokenizer.eos_id


def passage(inputs: np.ndarray, written: np.ndarray, targets: np.ndarray, tokenizer: Tokenizer) -> Passage:
    if len(tokenizer.sentinel_ids) and targets[0] == tokenizer.sentinel_ids[0]:
        filled, original = (replace_sentinels(inputs, tokens, tokenizer) for tokens in (written, targets))
        return Passage(filled, original, tokenizer.decode(inputs))
    return Passage(*map(tokenizer.decode, (written, targets, inputs)))


def replace_sentinels(inputs: np.ndarray, targets: np.ndarray, tokenizer: Tokenizer) -> str:
    """The text of an input row, with [the target's span] where each sentinel stood and [] where the target has none."""
    spans = SENTINEL.split(tokenizer.decode(_before_eos(targets, tokenizer.eos_id)))
    hidden = {number: text.strip() for number, text in zip(spans[1::2], spans[2::2], strict=True)}
    text = tokenizer.decode(_before_eos(inputs, tokenizer.eos_id))
    return SENTINEL.sub(lambda match: f"[{hidden.get(match[1], '')}]", text)


def _before_eos(tokens: np.ndarray, eos_id: int) -> list[int]:
    ends = np.flatnonzero(tokens == eos_id)
    return [int(token) for token in (tokens[: ends[0]] if len(ends) else tokens)]
