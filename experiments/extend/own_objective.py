"""A new objective: n-gram masking. Rows are cut into n-grams, and sentinels replace a share of them.

Command: python -m scripts.train experiments/extend/own_objective.py --run_dir runs/ngrams
    Another density: --config.data.objective='NGramMasking(0.3)'
Hardware, time: 2 CPU cores, half a minute, most of it compiling.
Result: not run yet, as it is an example; tests/extend/test_own_objective.py trains a few steps of it.
"""

from dataclasses import dataclass

import numpy as np

from research import (
    TFDS,
    AdamW,
    Batch,
    Bytes,
    Checkpoint,
    Constant,
    Denoising,
    Evaluation,
    Experiment,
    Lengths,
    Model,
    Objective,
    Report,
    Tokenizer,
)
from research.config import require
from research.data.objective.rows import Rows, batch_of, raw_for, require_density


@dataclass(frozen=True)
class NGramMasking(Objective):
    """Span corruption with fixed n-grams: sentinels replace the same number of n-grams in every row.

    The target lists the hidden n-grams, each after its sentinel.
    """

    noise_density: float = 0.15
    n: int = 4  # tokens of an n-gram

    def __post_init__(self) -> None:
        require_density(self.noise_density)
        require(self.n >= 1, f"NGramMasking.n is {self.n}: it must be at least 1 token.")

    def lengths(self, input_length: int, num_special_tokens: int = 1) -> Lengths:
        grams = raw_for(input_length, num_special_tokens) // self.n
        require(grams > 1, f"data.input_length is {input_length}: a row must hold two n-grams of {self.n} tokens.")
        hidden = min(max(1, round(grams * self.noise_density)), grams - 1)
        inputs = (grams - hidden) * self.n + hidden + num_special_tokens
        return Lengths(grams * self.n, inputs, hidden * (1 + self.n) + num_special_tokens, spans=hidden)

    def check(self, lengths: Lengths, tokenizer: Tokenizer, language: str | None = None) -> None:
        available = len(tokenizer.sentinel_ids)
        require(lengths.spans <= available, f"NGramMasking needs {lengths.spans} sentinels: there are {available}.")

    def corrupt(
        self,
        tokens: np.ndarray,
        lengths: Lengths,
        tokenizer: Tokenizer,
        rng: np.random.Generator,
        language: str | None = None,
    ) -> Batch:
        grams = tokens.reshape(len(tokens), -1, self.n)
        order = rng.permuted(np.broadcast_to(np.arange(grams.shape[1]), grams.shape[:2]), axis=1)
        is_hidden = order < lengths.spans
        sentinels = np.tile(tokenizer.sentinel_ids[: lengths.spans], len(tokens))
        shown = np.repeat(~is_hidden[..., None], self.n, axis=2)
        shown[is_hidden, 0] = True
        source = grams.copy()
        source[is_hidden, 0] = sentinels
        targets = np.column_stack([sentinels, grams[is_hidden]])
        sides = Rows(source[shown], None), Rows(targets.reshape(-1), None)
        return batch_of(len(tokens), *sides, lengths, tokenizer, language)


def get_config() -> Experiment:
    return Experiment(
        model=Model(400, 64, 2, 32, 128, 1, 1, compute="float32"),
        data=Denoising((TFDS("python_docs"),), Bytes(), NGramMasking(), input_length=64),
        optimizer=AdamW(schedule=Constant(peak=3e-3, warmup=10)),
        steps=200,
        batch_size=16,
        evaluation=Evaluation(every=100, rows=64),
        checkpoint=Checkpoint(every=100),
        report=Report(every=20),
    )
