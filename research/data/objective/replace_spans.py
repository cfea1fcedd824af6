"""T5's baseline before span corruption: i.i.d. noise with runs replaced by sentinels.

See arXiv:1910.10683, 3.1.4 and 3.3.2.

    raw      Thank you for inviting me to your party last week
    inputs   Thank you <X> me to your party <Y> week EOS
    targets  <X> for inviting <Y> last <Z> EOS

As in T5's nonnoise_span_to_unique_sentinel, the target has a sentinel for each run of kept tokens, including the last
one, and none before noise at the start of a row: in such rows, each target sentinel is that of the noise that follows.

The numbers of tokens and sentinels vary by row. Both sides are wide enough for all rows but one in 1e9, and padded (T5
truncates its targets to 103, 192, 256 and 512 tokens at 10, 15, 25 and 50%). Rows that need more sentinels than the
tokenizer has are redrawn; a config is refused if this is more likely than 1e-6 per row. Of rows of 511 tokens at 15%,
one in 10 million needs more than 100.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt

from research.config import require
from research.config.objective import Lengths, Objective
from research.data.batch import Batch
from research.data.objective.iid import is_shown, most, noise_masks, starts_span
from research.data.objective.rows import Array, Rows, batch_of, raw_for, require_density, select_tokens
from research.data.tokenizer import Tokenizer

TOO_MANY_SPANS = 1e-6  # allowed probability that a row needs more sentinels than the tokenizer has


@dataclass(frozen=True)
class ReplaceSpans(Objective):
    """Span corruption in which each token is noise independently (arXiv:1910.10683, 3.3.2: T5's baseline)."""

    noise_density: float = 0.15

    def __post_init__(self) -> None:
        require_density(self.noise_density)

    def lengths(self, input_length: int, num_special_tokens: int = 1) -> Lengths:
        """Size rows as T5 does: the raw text would fill the encoder if no token were noise."""
        raw = raw_for(input_length, num_special_tokens)
        longest, longest_target = most(raw, self.noise_density, is_shown), most(raw, 1 - self.noise_density, is_shown)
        return Lengths(raw, longest + num_special_tokens, longest_target + num_special_tokens)

    def check(self, lengths: Lengths, tokenizer: Tokenizer, language: str | None = None) -> None:
        """Refuse a tokenizer with so few sentinels that they would run out too often."""
        densities = (self.noise_density, 1 - self.noise_density)  # of noise in the inputs, and in the targets
        needed = max(most(lengths.raw, density, starts_span, TOO_MANY_SPANS) for density in densities)
        available = len(tokenizer.sentinel_ids)
        require(
            needed <= available,
            f"data.objective needs up to {needed} sentinels in a row of {lengths.raw} tokens but the tokenizer has"
            f" {available}: give it {needed}, or lower noise_density or data.input_length.",
        )

    def corrupt(
        self,
        tokens: UInt[Array, "n raw"],
        lengths: Lengths,
        tokenizer: Tokenizer,
        rng: np.random.Generator,
        language: str | None = None,
    ) -> Batch:
        rows, raw = tokens.shape
        num_special_tokens = sum(map(len, tokenizer.special_tokens(language)))
        sentinels = tokenizer.sentinel_ids

        def fits(is_noise: Bool[Array, "n raw"]) -> Bool[Array, " n"]:
            noise = is_noise.sum(axis=1)
            spans, kept_spans = first_of(is_noise).sum(axis=1), first_of(~is_noise).sum(axis=1)
            inputs, targets = raw - noise + spans, noise + kept_spans
            shown = (inputs <= lengths.inputs - num_special_tokens) & (targets <= lengths.targets - num_special_tokens)
            return shown & (np.maximum(spans, kept_spans) <= len(sentinels))

        is_noise = noise_masks(rows, raw, self.noise_density, rng, fits)
        inputs, targets = hide(tokens, is_noise, sentinels), hide(tokens, ~is_noise, sentinels)
        return batch_of(rows, inputs, targets, lengths, tokenizer, language)


def first_of(mask: Bool[Array, "n raw"]) -> Bool[Array, "n raw"]:
    """Mark the first element of each run."""
    first = mask.copy()
    first[:, 1:] &= ~mask[:, :-1]
    return first


def hide(tokens: UInt[Array, "n raw"], hidden: Bool[Array, "n raw"], sentinels: UInt[Array, " sentinels"]) -> Rows:
    """Replace each hidden run by a sentinel, using a row's sentinels in order."""
    first = first_of(hidden)
    spans = first.sum(axis=1)
    order = np.arange(spans.sum()) - np.repeat(np.cumsum(spans) - spans, spans)
    text = tokens.copy()
    text[first] = sentinels[order]
    return select_tokens(text, ~hidden | first)
